"""A recipe: all that a training needs in one object; how it is run, and how runs of two recipes are compared."""

from collections.abc import Callable
from dataclasses import dataclass

import pandas as pd
import torch
from scipy import stats
from torch import nn

from helpers import TensorLoader, fit


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
    augment: Callable | None = None  # (images) -> images
    plain_epochs: int = 0  # at the end, not augmented
    average: Callable | None = None  # (model) -> AveragedModel
    channels_last: bool = False  # how weights lie in a CPU's memory: convolutions are faster then


def build(recipe: Recipe, device="cpu") -> nn.Module:
    """A fresh network of a recipe, on the device."""
    # On the CPU only: on Apple's GPUs, PyTorch before mid-2026 got BatchNorm's gradients wrong with it.
    use_it = recipe.channels_last and torch.device(device).type == "cpu"
    return recipe.network().to(device, memory_format=torch.channels_last if use_it else torch.contiguous_format)


def run_recipe(recipe: Recipe, train_set, test_set, device="cpu", seed=1, epochs=None, **fit_options):
    """Train a fresh network by a recipe; return (the network to use, the history).

    fit_options go to fit: checkpoint, resume, after_epoch.
    """
    epochs = epochs or recipe.epochs
    torch.manual_seed(seed)  # weights, dropout, augmentation
    order = torch.Generator().manual_seed(seed)  # of the images: the same for every network
    model = build(recipe, device)
    plan = {"augment": recipe.augment, "augment_epochs": max(1, epochs - recipe.plain_epochs)}
    loader = TensorLoader(train_set, recipe.batch_size, shuffle=True, generator=order, **plan)
    test_loader = TensorLoader(test_set, 1000)
    optimizer = recipe.optimizer(model.parameters())
    scheduler = recipe.scheduler(optimizer, epochs * len(loader))
    average = recipe.average(model) if recipe.average else None
    how = {"average": average, "step_every": recipe.step_every, **fit_options}
    history = fit(model, device, loader, test_loader, optimizer, scheduler, epochs, **how)
    return (average.module if average else model), history


def compare(before: list[float], after: list[float]) -> tuple[float, float, bool]:
    """Mean gain of paired runs in points of accuracy, its standard error, and whether it is shown.

    Shown: if the change did nothing, fewer than 5 in 100 such sets of seeds would make as much of it (Student's t).
    """
    gains = pd.Series([new - old for old, new in zip(before, after)])
    error = gains.std() / len(gains) ** 0.5
    return gains.mean(), error, abs(gains.mean()) > stats.t.ppf(0.975, len(gains) - 1) * error


def table_of_gains(results: dict, pairs: dict[str, tuple[str, str]]) -> pd.DataFrame:
    """Gains of results.json's recipes, a row for each pair (before, after), over the seeds that both have."""
    runs, rows = {name: recipe["last"] for name, recipe in results["recipes"].items()}, {}
    for name, (before, after) in pairs.items():
        gain, error, shown = compare(runs[before], runs[after])
        gain = round(gain, 2) + 0  # no -0.00
        rows[name] = {"gain": f"{gain:+.2f}", "shown": "yes" if shown else "no", "std error": f"{error:.2f}"}
    return pd.DataFrame.from_dict(rows, orient="index")


def closing_table(results: dict, yours: dict[str, float]) -> pd.DataFrame:
    """Accuracies (%) of your runs beside results.json's, mean ± standard deviation, with one look and with five."""
    rows = {}
    for name in ("as submitted", "final", "fast", "small"):
        for column, words in [("last", name), ("five_looks", f"{name}, five looks")]:
            runs = pd.Series(results["recipes"][name].get(column, []), dtype=float)
            if len(runs):
                mine = f"{yours[words]:.2f}%" if words in yours else ""
                rows[words] = {"your run": mine, "ten runs": f"{runs.mean():.2f} ± {runs.std():.2f}%"}
    return pd.DataFrame.from_dict(rows, orient="index")
