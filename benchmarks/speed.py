"""Seconds to train, against PyTorch's own MNIST example and against the least that is possible.

    python -m benchmarks.speed                  measure, write benchmarks/speed.csv, print the table
    python -m benchmarks.speed --device cuda    the same on a GPU, to benchmarks/speed_cuda.csv

All ways take their turns in one process, round by round, each round in another order; medians are compared.
A way is one epoch of the brief's network, unless its name says otherwise; fast is its whole training, and
one test with five looks at the end.
"""

import argparse
import os
import platform
import random
import re
import time
from functools import partial
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader
from torchvision import datasets, transforms
from tqdm import tqdm

from helpers import MEAN, STD, TensorLoader, five_looks, load_mnist, train
from lesson.recipes import AS_SUBMITTED, ELASTIC, FAST, FINAL, build, moving_average, prepare, small

ROOT = Path(__file__).resolve().parent.parent
CSV = ROOT / "benchmarks" / "speed.csv"


def official_loader(device: str) -> DataLoader:
    """Batches as PyTorch's example makes them (pytorch/examples, mnist/main.py): each picture is converted anew.

    On a GPU one worker prepares them, as there. Here they are shuffled on a CPU, too.
    """
    steps = transforms.Compose([transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,))])
    train_set = datasets.MNIST(ROOT / "data", train=True, download=True, transform=steps)
    more = {} if device == "cpu" else {"num_workers": 1, "persistent_workers": True, "pin_memory": True}
    return DataLoader(train_set, 64, shuffle=True, **more)


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


def train_fast(train_set, test_set, device) -> float:
    """All of fast: every epoch of its training, and one test at the end. Return the accuracy in %."""
    run = prepare(FAST, train_set, device)
    for _ in range(FAST.epochs):
        train(run["model"], device, run["train_loader"], run["optimizer"], run["scheduler"])
    images, labels = test_set.tensors
    return 100 * (five_looks(run["model"], images).argmax(1) == labels).float().mean().item()


def ways(device: str) -> dict:
    """What is compared, by name: functions without arguments."""
    train_set, test_set = load_mnist(ROOT / "data", device)

    def epoch(loop, loader, recipe=AS_SUBMITTED):
        model = build(recipe, device)
        average = {"average": moving_average(model, recipe.average)} if recipe.average else {}
        return partial(loop, model, device, loader, recipe.optimizer(model.parameters()), **average)

    def ours(recipe=AS_SUBMITTED, augment=None):
        return epoch(train, TensorLoader(train_set, recipe.batch_size, shuffle=True, augment=augment), recipe)

    return {
        "floor": epoch(official_epoch, [train_set[:64]] * 938),  # one batch again and again: nothing to prepare
        "ours": ours(),
        "ours with elastic distortion": ours(augment=ELASTIC.augment),
        "final's epoch": ours(FINAL, FINAL.augment),
        "small's epoch, width 16": ours(small(16), FINAL.augment),
        "official epoch": epoch(official_epoch, official_loader(device)),
        "fast": partial(train_fast, train_set, test_set, device),
    }


def machine(device: str) -> str:
    """The name of the GPU, or of the processor where the system tells it."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    info = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    name = re.search(r"model name\s*: (.*)", info)
    return f"{name[1] if name else platform.processor()}, {os.cpu_count()} cores"


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
    rows = rows.assign(repetitions=repetitions, threads=torch.get_num_threads(), machine=machine(device))
    rows = rows.assign(device=device, torch=torch.__version__, python=platform.python_version())
    return rows.reset_index(names="way")


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
    print(f"{rows['machine'][0]}\n{table(rows)}")


if __name__ == "__main__":
    main()
