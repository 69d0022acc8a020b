"""A recipe is all that a training needs, in one object. What recipes are made of, those of the lesson, and their runs."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel

from helpers import BACKGROUND, TensorLoader, fit, print_epoch
from lesson.networks import Net, RepairedNet, fast_network, final_network, small_network


@dataclass(frozen=True)
class Recipe:
    """All that a training run needs besides data, device and seed."""

    name: str
    network: Callable  # () -> nn.Module
    optimizer: Callable  # (parameters) -> Optimizer
    scheduler: Callable  # (optimizer, batches in the whole run) -> scheduler
    batch_size: int
    epochs: int
    step_every: str = "epoch"  # or "batch": when the scheduler steps
    augment: Callable | None = None  # (images) -> images, such as a RandomDistortion
    plain_epochs: int = 0  # at the end, not augmented
    average: float | None = None  # moving_average's least share; None: no average
    channels_last: bool = False  # how weights lie in a CPU's memory: convolutions are faster then


def build(recipe: Recipe, device="cpu") -> nn.Module:
    """A fresh network of a recipe, on the device."""
    # On the CPU only: elsewhere it wasn't tried, and on Apple's GPUs BatchNorm's gradients were wrong with it.
    use_it = recipe.channels_last and torch.device(device).type == "cpu"
    return recipe.network().to(device, memory_format=torch.channels_last if use_it else torch.contiguous_format)


def prepare(recipe: Recipe, train_set, device="cpu", seed=1, batches=None) -> dict:
    """A run's parts by fit's names, fresh: model, train_loader, optimizer, scheduler, average.

    batches is the length of the whole run, for which the schedule is planned; by default the recipe's own.
    """
    torch.manual_seed(seed)  # weights, dropout, augmentation
    order = torch.Generator().manual_seed(seed)  # of the images: the same for every network
    model = build(recipe, device)
    loader = TensorLoader(train_set, recipe.batch_size, shuffle=True, augment=recipe.augment, generator=order)
    optimizer = recipe.optimizer(model.parameters())
    scheduler = recipe.scheduler(optimizer, batches or recipe.epochs * len(loader))
    parts = {"model": model, "train_loader": loader, "optimizer": optimizer, "scheduler": scheduler}
    return {**parts, "average": moving_average(model, recipe.average) if recipe.average else None}


def run_recipe(
    recipe: Recipe, train_set, test_set, device="cpu", seed=1, epochs=None, after_epoch=print_epoch, **fit_options
):
    """Train a fresh network by a recipe; return (the network to use, the history).

    fit_options go to fit: checkpoint, resume.
    """
    recipe = replace(recipe, epochs=epochs or recipe.epochs)
    run = prepare(recipe, train_set, device, seed)

    def between_epochs(history: list[dict]) -> None:  # after a resumed run is loaded, too
        if len(history) >= max(1, recipe.epochs - recipe.plain_epochs):  # a short run has one distorted epoch
            run["train_loader"].augment = None
        after_epoch(history)

    how = {"epochs": recipe.epochs, "step_every": recipe.step_every, "after_epoch": between_epochs, **fit_options}
    history = fit(device=device, test_loader=TensorLoader(test_set, 1000), **run, **how)
    return (run["average"].module if run["average"] else run["model"]), history


# ---- What recipes are made of


def one_cycle(lr: float, weight_decay: float = 0.0, companions: bool = True) -> dict:
    """Optimiser and schedule of a recipe whose learning rate rises to lr, then falls to almost 0.

    Its companions: Nesterov's momentum, and a momentum that moves from 0.95 to 0.85 and back.
    """
    sgd = {"lr": lr, "momentum": 0.9, "weight_decay": weight_decay, "nesterov": companions}
    return {
        "optimizer": lambda parameters: torch.optim.SGD(parameters, **sgd),
        "scheduler": lambda optimizer, batches: OneCycleLR(optimizer, lr, batches, cycle_momentum=companions),
        "step_every": "batch",
    }


def affine_places(images, degrees, scale, shear, shift):
    """Where the pixels of new images come from: x and y in pixels from the old one's middle, (N, 2, rows * columns)."""
    angle, size, slant, right, down = 2 * torch.rand(5, len(images), device=images.device) - 1
    angle, size, slant = math.radians(degrees) * angle, 1 + scale * size, shear * slant
    cos, sin = size * angle.cos(), size * angle.sin()
    # Rotation times slant, and the shift: from a new pixel's x, y and 1 to where it is read, so digits go the other way.
    matrix = [cos, slant * cos - sin, shift * right, sin, slant * sin + cos, shift * down]
    rows, columns = (torch.arange(side, device=images.device) - (side - 1) / 2 for side in images.shape[2:])
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    return torch.stack(matrix, 1).view(-1, 2, 3) @ torch.stack([x, y, torch.ones_like(x)]).flatten(1)


def bend(images, elastic, points):
    """Random pushes of up to a few pixels, to the right and down, spread over each image: (N, 2, rows * columns)."""
    strength = elastic * torch.rand(len(images), 1, 1, device=images.device)
    pushes = strength * torch.randn(len(images), 2, points**2, device=images.device)
    each = torch.eye(points**2, device=images.device).view(1, -1, points, points)
    return pushes @ F.interpolate(each, images.shape[2:], mode="bicubic", align_corners=True).flatten(2)[0]


@dataclass(frozen=True)
class RandomDistortion:
    """Turn, scale, slant, shift and bend every image of a batch (N, channels, rows, columns) by its own random draw."""

    degrees: float = 10.0  # rotation, at most, either way
    scale: float = 0.1  # size, as a fraction more or less
    shear: float = 0.15  # tangent of the slant
    shift: float = 1.5  # pixels
    elastic: float = 0.0  # pixels: the largest standard deviation of the pushes
    points: int = 5  # pushed at points × points places
    background: float = BACKGROUND  # a black pixel after normalisation

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        places = affine_places(images, self.degrees, self.scale, self.shear, self.shift)
        if self.elastic:
            places = places + bend(images, self.elastic, self.points)
        rows, columns = images.shape[2:]
        half = torch.tensor([[columns / 2], [rows / 2]], device=images.device)  # grid_sample's unit
        grid = (places / half).view(-1, 2, rows, columns).movedim(1, -1)
        # grid_sample fills with 0 what lies outside the image, so make the background 0 for a moment.
        return F.grid_sample(images - self.background, grid, align_corners=False) + self.background


def moving_average(model: nn.Module, least: float = 0.001) -> AveragedModel:
    """A copy of the model that follows it: an average of the weights and of BatchNorm's statistics.

    After each batch it moves a share of the way: a tenth after 80 batches, then less and less, down to the least.
    """

    def towards(averages, values, count):
        share = max(9 / (10 + int(count)), least)
        for average, value in zip(averages, values):
            if average.is_floating_point():  # not BatchNorm's counters
                average.lerp_(value, share)

    return AveragedModel(model, multi_avg_fn=towards, use_buffers=True)


# ---- The lesson's recipes: the brief's, then one change at a time

AS_SUBMITTED = Recipe(
    name="as submitted",
    network=Net,
    optimizer=lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9),
    scheduler=lambda optimizer, batches: ReduceLROnPlateau(optimizer, "min", patience=2, factor=0.5),
    batch_size=64,
    epochs=20,
)
REPAIRED = replace(AS_SUBMITTED, name="repaired", network=RepairedNet)
ONE_CYCLE = replace(REPAIRED, name="one-cycle", **one_cycle(0.1, companions=False))
COMPANIONS = replace(ONE_CYCLE, name="companions", **one_cycle(0.1, weight_decay=2e-4))
AUGMENTED = replace(COMPANIONS, name="augmentation", augment=RandomDistortion())
AVERAGED = replace(AUGMENTED, name="averaged weights", average=0.001)
UNDISTORTED = replace(AVERAGED, name="undistorted at the end", plain_epochs=2)
ELASTIC = replace(UNDISTORTED, name="elastic distortion", augment=RandomDistortion(elastic=1.0))
FINAL = replace(
    ELASTIC,
    name="final",
    network=final_network,
    **one_cycle(0.1, weight_decay=5e-4),
    batch_size=128,
    channels_last=True,  # faster on a CPU
)
STEPS = [AS_SUBMITTED, REPAIRED, ONE_CYCLE, COMPANIONS, AUGMENTED, AVERAGED, UNDISTORTED, ELASTIC, FINAL]

QUICK = replace(FINAL, name="quick", epochs=4, batch_size=64, plain_epochs=0)
FAST = replace(
    FINAL,
    name="fast",
    network=fast_network,
    **one_cycle(0.2, weight_decay=5e-4),
    batch_size=256,
    epochs=2,
    augment=RandomDistortion(degrees=8.0, scale=0.08, shear=0.1, shift=1.0),
    plain_epochs=0,
    average=None,
)


def small(width: int) -> Recipe:
    """The recipe of small_network at a width, the same for all widths."""
    return replace(FINAL, name=f"small, width {width}", network=partial(small_network, width), epochs=15)


WIDTHS = [16, 14, 10, 8, 7, 6, 5]
RECIPES = {recipe.name: recipe for recipe in [*STEPS, *map(small, WIDTHS), QUICK, FAST]}
