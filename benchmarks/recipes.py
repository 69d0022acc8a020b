# Made from the cells of S6_Part2.ipynb by benchmarks/refresh.py: change them there, not here.
"""The lesson's networks, and the recipes that train them."""

import math
from collections import OrderedDict
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel

from helpers import log_probabilities
from lesson.recipe import Recipe


class Net(nn.Module):
    """The brief's network: images (N, 1, 28, 28) to log-probabilities (N, 10); 19,930 parameters."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)  # 28 -> 28
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 16, 3, stride=2)  # 28 -> 13
        self.bn2 = nn.BatchNorm2d(16)
        self.conv3 = nn.Conv2d(16, 16, 3, padding=1)  # 13 -> 13
        self.bn3 = nn.BatchNorm2d(16)
        self.pool2 = nn.MaxPool2d(2, 2)  # 13 -> 6
        self.conv5 = nn.Conv2d(16, 32, 3, padding=1)  # 6 -> 6
        self.bn5 = nn.BatchNorm2d(32)
        self.conv6 = nn.Conv2d(32, 32, 3, stride=2, padding=1)  # 6 -> 3
        self.bn6 = nn.BatchNorm2d(32)  # declared, never used
        self.conv7 = nn.Conv2d(32, 10, 3)  # 3 -> 1
        self.d_out = nn.Dropout2d(0.25)

    def forward(self, x):
        x = self.d_out(self.bn1(F.relu(self.conv1(x))))
        x = self.d_out(self.bn2(F.relu(self.conv2(x))))
        x = self.d_out(self.pool2(self.bn3(F.relu(self.conv3(x)))))
        x = self.bn5(F.relu(self.conv5(x)))
        x = F.relu(self.conv6(x))
        x = F.relu(self.conv7(x))  # a ReLU on the logits: see section 6
        return F.log_softmax(x.view(-1, 10), dim=1)


SHIFTS = [(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)]  # rows, columns; what is rolled in is empty


@torch.no_grad()
def five_looks(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Log-probabilities (N, classes) for images (N, 1, 28, 28): the mean over each and its four neighbours."""
    looks = [log_probabilities(model, images.roll(shift, dims=(2, 3))) for shift in SHIFTS]
    return torch.stack(looks).mean(0).log_softmax(dim=1)  # so that probabilities add up to 1 again


AS_SUBMITTED = Recipe(
    name="as submitted",
    network=Net,
    optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9),
    scheduler=lambda optimizer, batches: ReduceLROnPlateau(optimizer, "min", patience=2, factor=0.5),
    batch_size=64,
    epochs=20,
)


class RepairedNet(Net):
    """The brief's layers with its oddities repaired: BatchNorm before ReLU, bn6 in use, free logits, no dropout."""

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = self.pool2(F.relu(self.bn3(self.conv3(x))))
        x = F.relu(self.bn5(self.conv5(x)))
        x = F.relu(self.bn6(self.conv6(x)))
        return F.log_softmax(self.conv7(x).view(-1, 10), dim=1)


REPAIRED = replace(AS_SUBMITTED, name="repaired", network=RepairedNet)


def one_cycle(lr: float, weight_decay: float) -> dict:
    """Optimiser and schedule of a one-cycle recipe that peaks at lr."""
    # OneCycleLR moves the momentum, from 0.95 to 0.85 and back.
    sgd = {"lr": lr, "momentum": 0.9, "nesterov": True, "weight_decay": weight_decay}
    return {
        "optimizer": lambda parameters: torch.optim.SGD(parameters, **sgd),
        "scheduler": lambda optimizer, batches: OneCycleLR(optimizer, lr, total_steps=batches),
        "step_every": "batch",
    }


ONE_CYCLE = replace(REPAIRED, name="one-cycle learning rate", **one_cycle(lr=0.1, weight_decay=2e-4))


def affine_places(images, degrees, scale, shear, shift):
    """Where the pixels of new images come from: x and y, from -1 to 1 across the old one, (N, 2, 28 * 28)."""
    angle, size, slant, right, down = 2 * torch.rand(5, len(images), device=images.device) - 1
    angle, size, slant = math.radians(degrees) * angle, 1 + scale * size, shear * slant
    right, down = (2 * shift / images.shape[-1] * move for move in (right, down))
    cos, sin = size * angle.cos(), size * angle.sin()
    # Rotation times slant, and the shift: from a new pixel's x, y and 1 to its place in the old image.
    matrix = torch.stack([cos, slant * cos - sin, right, sin, slant * sin + cos, down], 1).view(-1, 2, 3)
    middles = (2 * torch.arange(images.shape[-1], device=images.device) + 1) / images.shape[-1] - 1
    y, x = torch.meshgrid(middles, middles, indexing="ij")
    return matrix @ torch.stack([x, y, torch.ones_like(x)]).flatten(1)


def bend(images, elastic, points):
    """Random pushes of up to a few pixels, spread over each image, in the units of affine_places: (N, 2, 28 * 28)."""
    strength = elastic * torch.rand(len(images), 1, 1, device=images.device)
    pushes = strength * torch.randn(len(images), 2, points**2, device=images.device)  # right and down
    each = torch.eye(points**2, device=images.device).view(1, -1, points, points)
    spread = F.interpolate(each, images.shape[2:], mode="bicubic", align_corners=True).flatten(2)[0]
    return 2 / images.shape[-1] * pushes @ spread


@dataclass(frozen=True)
class RandomDistortion:
    """Turn, scale, slant, shift and bend every image of a batch (N, 1, 28, 28) by its own random draw."""

    degrees: float = 10.0  # rotation, at most, either way
    scale: float = 0.1  # size, as a fraction more or less
    shear: float = 0.15  # tangent of the slant
    shift: float = 1.5  # pixels
    elastic: float = 0.0  # pixels: the largest standard deviation of the pushes
    points: int = 5  # pushed at points × points places
    background: float = -0.4242  # a black pixel after normalisation: (0 - 0.1307) / 0.3081

    def __call__(self, images):
        pushed = bend(images, self.elastic, self.points) if self.elastic else 0
        places = affine_places(images, self.degrees, self.scale, self.shear, self.shift) + pushed
        grid = places.view(-1, 2, *images.shape[2:]).movedim(1, -1)
        # grid_sample fills with 0 what lies outside the image, so make the background 0 for a moment.
        return F.grid_sample(images - self.background, grid, align_corners=False) + self.background


AUGMENTED = replace(ONE_CYCLE, name="augmentation", augment=RandomDistortion())


def towards(averages, values, count):
    """Move each average a share of the way to its value, count batches after the start."""
    share = max(9 / (10 + int(count)), 0.001)
    for average, value in zip(averages, values):
        if average.is_floating_point():  # not BatchNorm's counters
            average.lerp_(value, share)


def moving_average(model: nn.Module) -> AveragedModel:
    """A copy of the model that follows it: an average of the weights and of BatchNorm's statistics."""
    return AveragedModel(model, multi_avg_fn=towards, use_buffers=True)


AVERAGED = replace(AUGMENTED, name="averaged weights", average=moving_average)


UNDISTORTED = replace(AVERAGED, name="undistorted at the end", plain_epochs=2)
ELASTIC = replace(UNDISTORTED, name="elastic distortion", augment=RandomDistortion(elastic=1.0))
STEPS = [AS_SUBMITTED, REPAIRED, ONE_CYCLE, AUGMENTED, AVERAGED, UNDISTORTED, ELASTIC]


def conv_block(inputs: int, outputs: int, **options) -> nn.Sequential:
    """3x3 convolution, BatchNorm, ReLU. No bias: the BatchNorm after it has one."""
    convolution = nn.Conv2d(inputs, outputs, 3, bias=False, **options)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class Residual(nn.Sequential):
    """Layers whose output is added to their input."""

    def forward(self, x):
        return x + super().forward(x)


def final_network() -> nn.Sequential:
    """Images (N, 1, 28, 28) to log-probabilities (N, 10); 18,226 parameters."""
    layers = OrderedDict(
        stem=conv_block(1, 8, padding=1),  # 28 -> 28
        down1=conv_block(8, 16, stride=2),  # 28 -> 13
        residual1=Residual(*conv_block(16, 16, padding=1)),
        residual2=Residual(*conv_block(16, 16, padding=1)),
        pool=nn.MaxPool2d(2),  # 13 -> 6
        widen=conv_block(16, 26, padding=1),
        down2=conv_block(26, 26, stride=2, padding=1),  # 6 -> 3
        head=nn.Conv2d(26, 10, 3),  # 3 -> 1
        flat=nn.Flatten(),
        answer=nn.LogSoftmax(dim=1),
    )
    return nn.Sequential(layers)


class SharedBlock(nn.Module):
    """One 3x3 convolution used several times over, each time with its own BatchNorm, and added to its input."""

    def __init__(self, channels, times):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norms = nn.ModuleList(nn.BatchNorm2d(channels) for _ in range(times))

    def forward(self, x):
        for norm in self.norms:
            x = x + F.relu(norm(self.conv(x)))
        return x


def small_network() -> nn.Sequential:
    """Images (N, 1, 28, 28) to log-probabilities (N, 10); 9,890 parameters, some used several times over."""
    layers = OrderedDict(
        stem=conv_block(1, 8, padding=1),  # 28 -> 28
        down=conv_block(8, 16, stride=2),  # 28 -> 13
        shared1=SharedBlock(16, times=4),
        pool1=nn.MaxPool2d(2),  # 13 -> 6
        mix=conv_block(16, 16, padding=1),
        shared2=SharedBlock(16, times=3),
        pool2=nn.MaxPool2d(2),  # 6 -> 3
        head=nn.Conv2d(16, 10, 3),  # 3 -> 1
        flat=nn.Flatten(),
        answer=nn.LogSoftmax(dim=1),
    )
    return nn.Sequential(layers)


FINAL = replace(
    ELASTIC,
    name="final",
    network=final_network,
    **one_cycle(lr=0.1, weight_decay=5e-4),
    batch_size=128,
    channels_last=True,  # faster on a CPU
)
SMALL = replace(FINAL, name="small", network=small_network, epochs=15)


def pooled_block(inputs: int, outputs: int) -> nn.Sequential:
    """3x3 convolution, max pool, BatchNorm, ReLU: pooled first, the last two have a quarter of the work."""
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.MaxPool2d(2), nn.BatchNorm2d(outputs), nn.ReLU())


def fast_network() -> nn.Sequential:
    """Images (N, 1, 28, 28) to log-probabilities (N, 10); 18,834 parameters, and no map larger than 12x12."""
    stem = nn.Conv2d(1, 16, 5, stride=2, bias=False)
    layers = OrderedDict(
        stem=nn.Sequential(stem, nn.BatchNorm2d(16), nn.ReLU()),  # 28 -> 12
        down1=pooled_block(16, 16),  # 12 -> 6
        residual1=Residual(*conv_block(16, 16, padding=1)),
        down2=pooled_block(16, 28),  # 6 -> 3
        residual2=Residual(*conv_block(28, 28, padding=1)),
        head=nn.Conv2d(28, 10, 3),  # 3 -> 1
        flat=nn.Flatten(),
        answer=nn.LogSoftmax(dim=1),
    )
    return nn.Sequential(layers)


FAST = Recipe(
    name="fast",
    network=fast_network,
    **one_cycle(lr=0.2, weight_decay=5e-4),
    batch_size=256,
    epochs=2,
    augment=RandomDistortion(degrees=8.0, scale=0.08, shear=0.1, shift=1.0),
    channels_last=True,
)
RECIPES = {recipe.name: recipe for recipe in [*STEPS, FINAL, SMALL, FAST]}
