"""Seconds to train, against PyTorch's own MNIST example and against the least that is possible.

    python -m benchmarks.speed                  measure, write benchmarks/speed.csv, print the table
    python -m benchmarks.speed --device cuda    the same on a GPU, to benchmarks/speed_cuda.csv

All ways take their turns in one process, round by round, each round in another order; medians are compared.
A way is one epoch of the brief's network, unless its name says otherwise.
"""

import argparse
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
from lesson.recipes import AS_SUBMITTED, ELASTIC, FAST, FINAL, prepare, small

ROOT = Path(__file__).resolve().parent.parent
CSV = ROOT / "benchmarks" / "speed.csv"


def official_loader() -> DataLoader:
    """Batches as PyTorch's example makes them (pytorch/examples, mnist/main.py), and shuffled: each picture anew."""
    steps = transforms.Compose([transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,))])
    return DataLoader(datasets.MNIST(ROOT / "data", download=True, transform=steps), 64, shuffle=True)


def official_epoch(model, device, loader, optimizer) -> None:
    """An epoch as in that example: a loss is fetched every 10 batches."""
    model.train()
    for batch, (images, labels) in enumerate(loader):
        images, labels = images.to(device), labels.to(device)
        optimizer.zero_grad()
        loss = F.nll_loss(model(images), labels)
        loss.backward()
        optimizer.step()
        if batch % 10 == 0:
            loss.item()


def train_fast(train_set, test_set, device) -> None:
    """All of fast: every epoch of its training, and five looks at all test images at the end."""
    run = prepare(FAST, train_set, device)
    for _ in range(FAST.epochs):
        train(run["model"], device, run["train_loader"], run["optimizer"], run["scheduler"])
    five_looks(run["model"], test_set.tensors[0])


def ways(device: str) -> dict[str, Callable]:
    """What is compared, by name: functions without arguments."""
    train_set, test_set = load_mnist(ROOT / "data", device)

    def ours(recipe) -> Callable:  # without its schedule, which ends after a run
        run = prepare(recipe, train_set, device) | {"scheduler": None}
        return partial(train, device=device, loader=run.pop("train_loader"), **run)

    def official(loader) -> Callable:
        run = prepare(AS_SUBMITTED, train_set, device)
        return partial(official_epoch, run["model"], device, loader, run["optimizer"])

    return {
        "floor": official([train_set[:64]] * 938),  # one batch again and again: nothing to prepare
        "ours": ours(AS_SUBMITTED),
        "ours with elastic distortion": ours(replace(AS_SUBMITTED, augment=ELASTIC.augment)),
        "final's epoch": ours(FINAL),
        "small's epoch, width 16": ours(small(16)),
        "official epoch": official(official_loader()),
        "fast": partial(train_fast, train_set, test_set, device),
    }


def measure(device: str, repetitions: int) -> pd.DataFrame:
    """Time every way once a round; one row each, with the median, the fastest and the slowest."""
    todo, seconds = ways(device), []
    for _ in tqdm(range(1 + repetitions), unit="round"):
        seconds.append({})
        for name in random.sample(list(todo), len(todo)):  # none is always the first, or always after the same one
            start = time.perf_counter()
            todo[name]()
            if device == "cuda":
                torch.cuda.synchronize()  # the GPU may still be at work
            seconds[-1][name] = time.perf_counter() - start
    times = pd.DataFrame(seconds[1:])[list(todo)]  # without the first round, which warms up
    rows = pd.DataFrame({"seconds": times.median(), "fastest": times.min(), "slowest": times.max()})
    made_by = {"repetitions": repetitions, "threads": torch.get_num_threads(), "torch": torch.__version__}
    return rows.assign(**made_by).reset_index(names="way")


def table(rows: pd.DataFrame) -> str:
    """The Markdown table of a file's rows."""
    lines = ["| | seconds, median | fastest to slowest | ÷ floor | ÷ official epoch |", "|---|---|---|---|---|"]
    seconds = rows.set_index("way")["seconds"]
    for row in rows.itertuples():
        ratios = f"{row.seconds / seconds['floor']:.2f} | {row.seconds / seconds['official epoch']:.2f}"
        lines.append(f"| {row.way} | {row.seconds:.2f} | {row.fastest:.2f} to {row.slowest:.2f} | {ratios} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    options = parser.parse_args()
    rows = measure(options.device, options.repetitions)
    path = CSV if options.device == "cpu" else CSV.with_stem("speed_cuda")
    rows.to_csv(path, index=False, float_format="%.4g", lineterminator="\n")
    print(table(rows))


if __name__ == "__main__":
    main()
