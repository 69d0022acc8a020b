"""Seconds to train, against PyTorch's own MNIST example and against the least that is possible.

    python -m benchmarks.speed    measures, writes benchmarks/speed.csv

All ways take their turns in one process, round by round, each round in another order; medians are compared.
A recipe's name stands for one of its epochs.
"""

import random
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from torchvision import datasets, transforms
from tqdm import tqdm

from helpers import MEAN, STD, five_looks, load_mnist, train
from lesson.recipes import AS_SUBMITTED, ELASTIC, FAST, FINAL, QUICK, prepare, small

ROOT = Path(__file__).resolve().parent.parent
CSV = ROOT / "benchmarks" / "speed.csv"
TIMED = [AS_SUBMITTED, FINAL, QUICK, small(16)]


def official_loader() -> DataLoader:
    """Batches as PyTorch's example makes them (pytorch/examples, mnist/main.py), and shuffled: each picture anew."""
    steps = transforms.Compose([transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,))])
    return DataLoader(datasets.MNIST(ROOT / "data", download=True, transform=steps), 64, shuffle=True)


def official_epoch(model, loader, optimizer) -> None:
    """An epoch as in that example: a loss is fetched every 10 batches."""
    model.train()
    for batch, (images, labels) in enumerate(loader):
        optimizer.zero_grad()
        loss = F.nll_loss(model(images), labels)
        loss.backward()
        optimizer.step()
        if batch % 10 == 0:
            loss.item()


def train_fast(train_set, test_set) -> None:
    """All of fast: every epoch of its training, and five looks at all test images at the end."""
    run = prepare(FAST, train_set)
    for _ in range(FAST.epochs):
        train(run["model"], "cpu", run["train_loader"], run["optimizer"], run["scheduler"])
    five_looks(run["model"], test_set.tensors[0])


def ways() -> dict[str, Callable]:
    """What is compared, by name: functions without arguments."""
    train_set, test_set = load_mnist(ROOT / "data")

    def ours(recipe) -> Callable:  # without its schedule, which ends after a run
        run = prepare(recipe, train_set) | {"scheduler": None}
        return partial(train, device="cpu", loader=run.pop("train_loader"), **run)

    def official(loader) -> Callable:
        run = prepare(AS_SUBMITTED, train_set)
        return partial(official_epoch, run["model"], loader, run["optimizer"])

    return {
        "floor": official([train_set[:64]] * 938),  # one batch again and again: nothing to prepare
        **{recipe.name: ours(recipe) for recipe in TIMED},
        "as submitted, distorted": ours(replace(AS_SUBMITTED, augment=ELASTIC.augment)),
        "official epoch": official(official_loader()),
        "fast, all of it": partial(train_fast, train_set, test_set),
    }


def measure(repetitions: int) -> pd.DataFrame:
    """Time every way once a round; one row each, with the median, the fastest and the slowest."""
    todo, seconds = ways(), []
    for _ in tqdm(range(1 + repetitions), unit="round"):
        seconds.append({})
        for name in random.sample(list(todo), len(todo)):  # none is always the first, or always after the same one
            start = time.perf_counter()
            todo[name]()
            seconds[-1][name] = time.perf_counter() - start
    times = pd.DataFrame(seconds[1:])[list(todo)]  # without the first round, which warms up
    rows = pd.DataFrame({"seconds": times.median(), "fastest": times.min(), "slowest": times.max()})
    return rows.assign(repetitions=repetitions, threads=torch.get_num_threads(), torch=torch.__version__)


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """A file's rows, by way, against the floor and PyTorch's example."""
    columns = {"seconds, median": rows["seconds"], "fastest": rows["fastest"], "slowest": rows["slowest"]}
    for other in ("floor", "official epoch"):
        columns[f"÷ {other}"] = rows["seconds"] / rows.loc[other, "seconds"]
    return pd.DataFrame(columns).map("{:.2f}".format)


def table_of_times(results: dict, rows: pd.DataFrame) -> pd.DataFrame:
    """Until a run stays at an accuracy: epochs in the median of runs, seconds here, epochs of PyTorch's example."""
    times = {}
    for name in (recipe.name for recipe in TIMED):
        one, official = rows.loc[name, "seconds"], rows.loc["official epoch", "seconds"]
        epochs = results["recipes"][name]["epochs_to"]
        words = [f"{n:g}; {n * one:.0f} s; {n * one / official:.1f}" if n else "never" for n in epochs.values()]
        times[name] = dict(zip((f"{bar}%" for bar in epochs), words))
    return pd.DataFrame.from_dict(times, orient="index")


if __name__ == "__main__":
    measure(repetitions=3).to_csv(CSV, index_label="way", float_format="%.4g", lineterminator="\n")
