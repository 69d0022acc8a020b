# Made from the cells of S6_Part2.ipynb by benchmarks/export.py: change them there, not here.
"""The walkthrough's networks, and the recipes that train them."""

import math
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where helpers.py lies
from helpers import TensorLoader, describe, fingerprint, fit, require  # noqa: E402


class Net(nn.Module):
    """The brief's network: images (N, 1, 28, 28) to log-probabilities (N, 10)."""

    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 3, padding=1)  # 28 -> 28
        self.bn1 = nn.BatchNorm2d(4)
        self.conv2 = nn.Conv2d(4, 16, 3, stride=2, padding=0)  # 28 -> 13
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
        x = F.relu(self.conv7(x))  # a ReLU on the logits: see section 7
        return F.log_softmax(x.view(-1, 10), dim=1)


@dataclass(frozen=True)
class Recipe:
    """All that a training run needs besides data, device and seed."""

    name: str
    network: Callable  # () -> nn.Module
    optimizer: Callable  # (parameters) -> Optimizer
    scheduler: Callable | None  # (optimizer, steps in the whole run) -> scheduler
    step_every: str = "epoch"  # or "batch": when the scheduler steps
    batch_size: int = 64
    epochs: int = 20
    augment: Callable | None = None  # (images) -> images
    augment_share: float = 1.0  # the share of the epochs, from the first, that are augmented
    average: Callable | None = None  # (model) -> AveragedModel
    channels_last: bool = False  # lay weights out so on a CPU, where convolutions are faster then


def build(recipe: Recipe, device="cpu") -> nn.Module:
    """A fresh network of a recipe, on the device.

    Channels last on the CPU only: on Apple's GPUs, PyTorch before mid-2026 got BatchNorm's gradients wrong with it.
    """
    on_cpu = torch.device(device).type == "cpu"
    layout = torch.channels_last if recipe.channels_last and on_cpu else torch.contiguous_format
    return recipe.network().to(device, memory_format=layout)


def check_recipe(recipe: Recipe) -> None:
    """Refuse a recipe whose runs would train one network on and on, and a class in an augmentation's place."""
    makes = not isinstance(recipe.network, nn.Module) and recipe.network() is not recipe.network()
    require(makes, "network must make a new network at each call: give the recipe Net, not Net()")
    made = not isinstance(recipe.augment, type)
    require(made, "augment must be what changes the images: give the recipe RandomAffine(), not RandomAffine")


def run_recipe(recipe: Recipe, train_set, test_set, device="cpu", seed=1, epochs=None, folder=None):
    """Train a fresh network by a recipe; return (the model to use, the history).

    With a folder, every epoch is saved there, in a file named by recipe, seed and a checksum of all
    settings: after an interruption the same call goes on, and a changed recipe begins anew.
    """
    check_recipe(recipe)
    epochs = recipe.epochs if epochs is None else epochs
    torch.manual_seed(seed)  # weights, dropout, augmentation
    order = torch.Generator().manual_seed(seed)  # of the images: the same for every network
    model = build(recipe, device)
    augmented = math.inf if recipe.augment_share == 1 else math.ceil(round(recipe.augment_share * epochs, 6))
    loader = TensorLoader(
        train_set, recipe.batch_size, shuffle=True, augment=recipe.augment, generator=order, augment_epochs=augmented
    )
    test_loader = TensorLoader(test_set, 1000)
    optimizer = recipe.optimizer(model.parameters())
    scheduler = recipe.scheduler(optimizer, epochs * len(loader)) if recipe.scheduler else None
    average = recipe.average(model) if recipe.average else None
    run = (model, device, loader, test_loader, optimizer, scheduler)
    kind = {"average": average, "step_every": recipe.step_every}
    checkpoint = None
    if folder is not None:
        start = describe(list(model.state_dict().values()))  # the weights, however they were drawn
        checksum = zlib.crc32(repr([fingerprint(*run, **kind), start]).encode())
        checkpoint = Path(folder, f"{recipe.name}, seed {seed}, {checksum:08x}.pt")
    history = fit(*run, epochs=epochs, checkpoint=checkpoint, **kind)
    return (average.module if average else model), history


AS_SUBMITTED = Recipe(
    name="as submitted",
    network=Net,
    optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9),
    scheduler=lambda optimizer, steps: ReduceLROnPlateau(optimizer, "min", patience=2, factor=0.5),
)


class RepairedNet(Net):
    """The brief's layers, with its slips repaired one by one."""

    def __init__(self, use_bn6=True, norm_first=True, dropout=0.25):
        super().__init__()
        self.norm_first = norm_first
        if not use_bn6:
            self.bn6 = nn.Identity()
        self.d_out = nn.Dropout2d(dropout)

    def block(self, x, conv, norm):
        return F.relu(norm(conv(x))) if self.norm_first else norm(F.relu(conv(x)))

    def forward(self, x):
        x = self.d_out(self.block(x, self.conv1, self.bn1))
        x = self.d_out(self.block(x, self.conv2, self.bn2))
        x = self.d_out(self.pool2(self.block(x, self.conv3, self.bn3)))
        x = self.block(x, self.conv5, self.bn5)
        x = self.block(x, self.conv6, self.bn6)
        return F.log_softmax(self.conv7(x).view(-1, 10), dim=1)


def step(previous: Recipe, name: str, **changes) -> Recipe:
    """The recipe before, under a new name, with some things changed."""
    return replace(previous, name=name, **changes)


NO_RELU = step(AS_SUBMITTED, "no ReLU on the logits", network=lambda: RepairedNet(use_bn6=False, norm_first=False))
WITH_BN6 = step(NO_RELU, "bn6 put to use", network=lambda: RepairedNet(norm_first=False))
NORM_FIRST = step(WITH_BN6, "BatchNorm before ReLU", network=RepairedNet)
NO_DROPOUT = step(NORM_FIRST, "no dropout", network=lambda: RepairedNet(dropout=0.0))


def one_cycle(lr: float, weight_decay: float) -> dict:
    """Optimiser and schedule of a one-cycle recipe that peaks at lr."""
    # OneCycleLR moves the momentum, from 0.95 to 0.85 and back.
    sgd = {"lr": lr, "momentum": 0.9, "nesterov": True, "weight_decay": weight_decay}
    return {
        "optimizer": lambda parameters: torch.optim.SGD(parameters, **sgd),
        "scheduler": lambda optimizer, steps: OneCycleLR(optimizer, lr, total_steps=steps),
        "step_every": "batch",
    }


ONE_CYCLE = step(NO_DROPOUT, "one-cycle learning rate", **one_cycle(lr=0.1, weight_decay=2e-4))


@dataclass(frozen=True)
class RandomAffine:
    """Turn, scale, shear and shift every image of a batch (N, 1, 28, 28) by its own random draw."""

    degrees: float = 10.0  # rotation, at most, either way
    scale: float = 0.1  # size, as a fraction more or less
    shear: float = 0.15  # tangent of the slant
    shift: float = 1.5  # pixels
    background: float = -0.4242  # a black pixel after normalisation: (0 - 0.1307) / 0.3081

    def __call__(self, images):
        grid = self.places(images).view(-1, 2, *images.shape[2:]).movedim(1, -1)
        # grid_sample fills with 0 what lies outside the image, so make the background 0 for a moment.
        return F.grid_sample(images - self.background, grid, align_corners=False) + self.background

    def places(self, images):
        """Where each pixel of the new images comes from: x and y, from -1 to 1 across the image, (N, 2, 28 * 28)."""
        angle, size, slant, right, down = 2 * torch.rand(5, len(images), device=images.device) - 1
        angle, size, slant = math.radians(self.degrees) * angle, 1 + self.scale * size, self.shear * slant
        right, down = (2 * self.shift / images.shape[-1] * shift for shift in (right, down))
        cos, sin = size * angle.cos(), size * angle.sin()
        # Rotation times slant, and the shift: from a new pixel's x, y and 1 to its place in the old image.
        matrix = torch.stack([cos, slant * cos - sin, right, sin, slant * sin + cos, down], 1).view(-1, 2, 3)
        middles = (2 * torch.arange(images.shape[-1], device=images.device) + 1) / images.shape[-1] - 1
        y, x = torch.meshgrid(middles, middles, indexing="ij")
        return matrix @ torch.stack([x, y, torch.ones_like(x)]).flatten(1)


AUGMENTED = step(ONE_CYCLE, "augmentation", augment=RandomAffine())


class MovingAverage(AveragedModel):
    """An average of the weights and of BatchNorm's statistics, over up to about the last 1 / least batches."""

    def __init__(self, model, least=0.001):
        super().__init__(model, use_buffers=True)
        self.least = least

    @torch.no_grad()
    def update_parameters(self, model):
        count = int(self.n_averaged)  # which lies on the CPU: a GPU need not be waited for
        share = max(9 / (10 + count), self.least) if count else 1.0
        mine, theirs = (list(each.state_dict().values()) for each in (self.module, model))
        pairs = [pair for pair in zip(mine, theirs) if pair[0].is_floating_point()]  # not counts of batches
        # average += share * (value - average), for all tensors in one call
        torch._foreach_lerp_([average for average, _ in pairs], [value for _, value in pairs], share)
        self.n_averaged += 1


AVERAGED = step(AUGMENTED, "averaged weights", average=MovingAverage)
UNDISTORTED = step(AVERAGED, "undistorted at the end", augment_share=0.9)


@dataclass(frozen=True)
class RandomDistortion(RandomAffine):
    """The same affine change, and on top of it a smooth bend: every image as if drawn on a rubber sheet.

    points × points control points are pushed at random, by a standard deviation that is itself drawn for
    each image, between 0 and elastic pixels; bicubic interpolation spreads the pushes over the image.
    """

    elastic: float = 1.0  # pixels
    points: int = 5

    def places(self, images):
        strength = self.elastic * torch.rand(len(images), 1, 1, device=images.device)
        pushes = strength * torch.randn(len(images), 2, self.points**2, device=images.device)  # pixels right and down
        return super().places(images) + 2 / images.shape[-1] * pushes @ self.spread(images)

    def spread(self, images):
        """How far a push of each control point moves each pixel: (points * points, 28 * 28), 1 at the point itself."""
        pushes = torch.eye(self.points**2, device=images.device).view(1, -1, self.points, self.points)
        return F.interpolate(pushes, images.shape[2:], mode="bicubic", align_corners=True).flatten(2)[0]


ELASTIC = step(UNDISTORTED, "elastic distortion", augment=RandomDistortion())


def conv_block(inputs: int, outputs: int, **options) -> nn.Sequential:
    """3x3 convolution, BatchNorm, ReLU. No bias: the BatchNorm after it has one."""
    convolution = nn.Conv2d(inputs, outputs, 3, bias=False, **options)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class FinalNet(nn.Module):
    """Images (N, 1, 28, 28) to log-probabilities (N, 10); 18,226 parameters."""

    def __init__(self):
        super().__init__()
        self.stem = conv_block(1, 8, padding=1)  # 28 -> 28
        self.down1 = conv_block(8, 16, stride=2)  # 28 -> 13
        self.residual1 = conv_block(16, 16, padding=1)  # 13 -> 13
        self.residual2 = conv_block(16, 16, padding=1)  # 13 -> 13
        self.pool = nn.MaxPool2d(2)  # 13 -> 6
        self.widen = conv_block(16, 26, padding=1)  # 6 -> 6
        self.down2 = conv_block(26, 26, stride=2, padding=1)  # 6 -> 3
        self.head = nn.Conv2d(26, 10, 3)  # 3 -> 1

    def forward(self, x):
        x = self.down1(self.stem(x))
        x = x + self.residual1(x)
        x = x + self.residual2(x)
        x = self.down2(self.widen(self.pool(x)))
        return F.log_softmax(self.head(x).reshape(-1, 10), dim=1)


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


class SmallNet(nn.Module):
    """Images (N, 1, 28, 28) to log-probabilities (N, 10); 9,890 parameters, some used several times over."""

    def __init__(self):
        super().__init__()
        self.stem = conv_block(1, 8, padding=1)  # 28 -> 28
        self.down = conv_block(8, 16, stride=2)  # 28 -> 13
        self.shared1 = SharedBlock(16, times=4)  # 13 -> 13
        self.mix = conv_block(16, 16, padding=1)  # 6 -> 6
        self.shared2 = SharedBlock(16, times=3)  # 6 -> 6
        self.pool = nn.MaxPool2d(2)  # 13 -> 6, and 6 -> 3
        self.head = nn.Conv2d(16, 10, 3)  # 3 -> 1

    def forward(self, x):
        x = self.pool(self.shared1(self.down(self.stem(x))))
        x = self.pool(self.shared2(self.mix(x)))
        return F.log_softmax(self.head(x).reshape(-1, 10), dim=1)


FINAL = step(
    ELASTIC, "final", network=FinalNet, batch_size=128, **one_cycle(lr=0.1, weight_decay=5e-4), channels_last=True
)
SMALL = step(FINAL, "small", network=SmallNet, epochs=15, augment_share=0.85)
STEPS = [AS_SUBMITTED, NO_RELU, WITH_BN6, NORM_FIRST, NO_DROPOUT, ONE_CYCLE, AUGMENTED, AVERAGED, UNDISTORTED, ELASTIC]


def pooled_block(inputs: int, outputs: int) -> nn.Sequential:
    """3x3 convolution, max pool, BatchNorm, ReLU: pooled first, the last two have a quarter of the work."""
    convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=False)
    return nn.Sequential(convolution, nn.MaxPool2d(2), nn.BatchNorm2d(outputs), nn.ReLU())


class FastNet(nn.Module):
    """Images (N, 1, 28, 28) to log-probabilities (N, 10); 18,834 parameters, and no map larger than 12x12."""

    def __init__(self):
        super().__init__()
        stem = nn.Conv2d(1, 16, 5, stride=2, bias=False)
        self.stem = nn.Sequential(stem, nn.BatchNorm2d(16), nn.ReLU())  # 28 -> 12
        self.down1 = pooled_block(16, 16)  # 12 -> 6
        self.residual1 = conv_block(16, 16, padding=1)  # 6 -> 6
        self.down2 = pooled_block(16, 28)  # 6 -> 3
        self.residual2 = conv_block(28, 28, padding=1)  # 3 -> 3
        self.head = nn.Conv2d(28, 10, 3)  # 3 -> 1

    def forward(self, x):
        x = self.down1(self.stem(x))
        x = self.down2(x + self.residual1(x))
        return F.log_softmax(self.head(x + self.residual2(x)).reshape(-1, 10), dim=1)


FAST = Recipe(
    name="fast",
    network=FastNet,
    **one_cycle(lr=0.2, weight_decay=5e-4),
    batch_size=256,
    epochs=4,
    augment=RandomAffine(degrees=8.0, scale=0.08, shear=0.1, shift=1.0),
    augment_share=0.75,
    channels_last=True,
)
RECIPES = {recipe.name: recipe for recipe in [*STEPS, FINAL, SMALL, FAST]}


def ink_of(path) -> np.ndarray:
    """The ink on a picture of one digit, dark on light or light on dark: (height, width), 0 to 255."""
    picture = ImageOps.exif_transpose(Image.open(path)).convert("RGBA")  # upright, as phones store it
    picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    grey = np.asarray(picture.convert("L"), dtype=float)
    border = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    ink = abs(grey - np.median(border))  # what differs from the border
    if ink.max() < 30:
        raise ValueError(f"{path} shows no digit: nothing on it stands out from its border")
    return np.where(ink < 0.2 * ink.max(), 0, ink) * 255 / ink.max()


def fit_to_box(ink: np.ndarray, size=20) -> np.ndarray:
    """Cut the digit out and scale its longer side to size pixels."""
    rows, columns = ink.any(1).nonzero()[0], ink.any(0).nonzero()[0]
    digit = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(np.uint8)
    width, height = (max(1, round(size * length / max(digit.shape))) for length in digit.shape[::-1])
    return np.asarray(Image.fromarray(digit).resize((width, height), Image.Resampling.LANCZOS))


def centre(digit: np.ndarray, size=28) -> torch.Tensor:
    """Place a digit so that its centre of mass is in the middle: uint8 tensor (1, size, size)."""
    places = []
    for axis, length in enumerate(digit.shape):
        mass = digit.sum(1 - axis, dtype=float)
        place = round(size / 2 - 0.5 - (mass * np.arange(length)).sum() / mass.sum())
        places.append(min(max(place, 0), size - length))
    canvas = np.zeros((1, size, size), dtype=np.uint8)
    canvas[0, places[0] : places[0] + digit.shape[0], places[1] : places[1] + digit.shape[1]] = digit
    return torch.from_numpy(canvas)
