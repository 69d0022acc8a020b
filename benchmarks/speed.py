"""Seconds an epoch, against PyTorch's official MNIST example and against the floor; and epochs to an accuracy.

    python benchmarks/speed.py              measure the table, write benchmarks/speed.csv, print it
    python benchmarks/speed.py --fast       measure the whole training of fast against one epoch of the official loop,
                                            write benchmarks/fast.csv
    python benchmarks/speed.py --official   train the official example's own network and recipe once (slow),
                                            every epoch recorded in benchmarks/official.csv
    python benchmarks/speed.py --table      print the tables from the files, measure nothing

All ways take their turns in one process, round by round, each round in another order; medians are compared.
"""

import argparse
import contextlib
import io
import math
import os
import platform
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms
from tqdm import tqdm

from recipes import AS_SUBMITTED, AUGMENTED, ELASTIC, FAST, FINAL, Recipe, build, run_recipe
from results import BENCHMARKS, ROOT, read_runs

from helpers import MEAN, STD, TensorLoader, fit, load_mnist, train

CSV = BENCHMARKS / "speed.csv"
OFFICIAL = BENCHMARKS / "official.csv"
HURRIED = BENCHMARKS / "fast.csv"
TARGETS = (99.28, 99.40)


def official_epoch(model, device, loader, optimizer) -> None:
    """One epoch as in PyTorch's example (pytorch/examples, mnist/main.py): a loss is fetched every 10 batches.

    The loaders below shuffle, as the example does on a GPU only.
    """
    model.train()
    for batch, (images, labels) in enumerate(loader):
        images, labels = images.to(device), labels.to(device)
        optimizer.zero_grad()
        loss = F.nll_loss(model(images), labels)
        loss.backward()
        optimizer.step()
        if batch % 10 == 0:
            loss.item()


def floor_epoch(model, device, images, labels, optimizer, steps: int) -> None:
    """The least that an epoch can cost: forward, backward and step, on one batch that never changes."""
    model.train()
    for _ in range(steps):
        optimizer.zero_grad()
        F.nll_loss(model(images), labels).backward()
        optimizer.step()
    if device != "cpu":
        torch.cuda.synchronize()


def official_dataset(is_train: bool):
    """MNIST as the example reads it: one picture after the other, turned into a tensor and normalised."""
    steps = transforms.Compose([transforms.ToTensor(), transforms.Normalize((MEAN,), (STD,))])
    return datasets.MNIST(ROOT / "data", train=is_train, download=True, transform=steps)  # extracts in data/


def official_way(device: str, workers: int):
    """An epoch of the official example's loop on the brief's network, as a function without arguments."""
    torch.manual_seed(1)
    model = build(AS_SUBMITTED, device)
    optimizer = AS_SUBMITTED.optimizer(model.parameters())
    loader = DataLoader(official_dataset(True), 64, shuffle=True, num_workers=workers, pin_memory=device != "cpu")
    return lambda: official_epoch(model, device, loader, optimizer)


def hurried_ways(device: str) -> dict:
    """An epoch of the official loop, and all of fast's training with its tests: functions without arguments."""
    train_set, test_set = load_mnist(ROOT / "data", device)

    def fast():
        with contextlib.redirect_stderr(io.StringIO()):  # no bar in between
            run_recipe(FAST, train_set, test_set, device)

    return {"official loop, one epoch": official_way(device, 0), f"fast, all {FAST.epochs} epochs and tests": fast}


def ways(device: str) -> dict:
    """Every way to train an epoch that is compared, by name: a function without arguments."""
    train_set, _ = load_mnist(ROOT / "data", device)

    def fresh(recipe: Recipe = AS_SUBMITTED):
        torch.manual_seed(1)
        model = build(recipe, device)
        return model, recipe.optimizer(model.parameters())

    def ours(recipe, augment=None):
        model, optimizer = fresh(recipe)
        loader = TensorLoader(train_set, recipe.batch_size, shuffle=True, augment=augment)
        average = recipe.average(model) if recipe.average else None
        return lambda: train(model, device, loader, optimizer, None, average)

    def floor():
        model, optimizer = fresh()
        images, labels = (tensor[:64].clone() for tensor in train_set.tensors)
        return lambda: floor_epoch(model, device, images, labels, optimizer, steps=938)

    return {
        "floor: one batch again and again": floor(),
        "ours": ours(AS_SUBMITTED),
        "ours, augmented": ours(AS_SUBMITTED, AUGMENTED.augment),
        "ours, elastic distortion": ours(AS_SUBMITTED, ELASTIC.augment),
        "official loop, 0 workers": official_way(device, 0),
        "official loop, 2 workers": official_way(device, 2),
        "ours, final network and recipe": ours(FINAL, FINAL.augment),
    }


def peak_memory() -> float:
    """Peak memory in GB of a process that trains and tests the final recipe for one epoch; nan but on Linux."""
    code = (
        "import sys; sys.path[:0] = ['benchmarks']; from recipes import FINAL, run_recipe; "
        "from helpers import load_mnist; run_recipe(FINAL, *load_mnist('data'), epochs=1); "
        "print(open('/proc/self/status').read())"
    )
    if not Path("/proc/self/status").exists():
        return math.nan
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    return int(re.search(r"VmHWM:\s+(\d+) kB", done.stdout)[1]) * 1024 / 1e9


def cpu_name() -> str:
    """The processor's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if info.exists()
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()


def measure(todo: dict, device: str, repetitions: int) -> pd.DataFrame:
    """Time every way once a round, in random order; one row each, with the median, the fastest and the slowest."""
    seconds, order = {name: [] for name in todo}, list(todo)
    for repetition in tqdm(range(-1, repetitions), unit="round"):
        random.shuffle(order)  # none is always the first, or always behind the same one
        for name in order:
            start = time.perf_counter()
            todo[name]()
            if repetition >= 0:  # the first round warms up
                seconds[name].append(time.perf_counter() - start)
    rows = pd.DataFrame(
        [
            {
                "way": name,
                "seconds": pd.Series(times).median(),
                "fastest": min(times),
                "slowest": max(times),
                "repetitions": repetitions,
            }
            for name, times in seconds.items()
        ]
    )
    machine = f"{cpu_name()}, {os.cpu_count()} cores" if device == "cpu" else torch.cuda.get_device_name()
    return rows.assign(
        threads=torch.get_num_threads(),
        machine=machine,
        device=device,
        torch=torch.__version__,
        python=platform.python_version(),
    )


class OfficialNet(nn.Module):
    """The example's own network: 1,199,882 parameters."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(1, 32, 3),
            nn.ReLU(),
            nn.Conv2d(32, 64, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Dropout(0.25),
            nn.Flatten(),
        )
        self.head = nn.Sequential(
            nn.Linear(9216, 128), nn.ReLU(), nn.Dropout(0.5), nn.Linear(128, 10), nn.LogSoftmax(1)
        )

    def forward(self, x):
        return self.head(self.features(x))


def train_official(device: str) -> pd.DataFrame:
    """The example's network by its recipe: 14 epochs, batches of 64, Adadelta at 1.0, 0.7 times that each epoch."""
    torch.manual_seed(1)
    model = OfficialNet().to(device)
    optimizer = torch.optim.Adadelta(model.parameters(), lr=1.0)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.7)
    train_loader = DataLoader(official_dataset(True), 64, shuffle=True)
    test_loader = DataLoader(official_dataset(False), 1000)
    history = fit(model, device, train_loader, test_loader, optimizer, scheduler, epochs=14)
    return history.assign(
        parameters=sum(p.numel() for p in model.parameters()),
        threads=torch.get_num_threads(),
        torch=torch.__version__,
        device=device,
    )


def speed_table(rows: pd.DataFrame) -> str:
    """The Markdown table of seconds an epoch."""
    floor, loop = (
        rows.loc[rows["way"].str.startswith(start), "seconds"].iloc[0] for start in ("floor", "official loop, 0")
    )
    lines = [
        "| one epoch of the brief's network | seconds, median | fastest to slowest | ÷ floor | ÷ official loop |",
        "|---|---|---|---|---|",
    ]
    lines += [
        f"| {row.way} | {row.seconds:.2f} | {row.fastest:.2f} to {row.slowest:.2f} | {row.seconds / floor:.2f} "
        f"| {row.seconds / loop:.2f} |"
        for row in rows.itertuples()
    ]
    return "\n".join(lines)


def hurried_table(rows: pd.DataFrame) -> str:
    """The Markdown table of fast against one epoch of the official loop."""
    loop = rows["seconds"].iloc[0]
    lines = ["| | seconds, median | fastest to slowest | ÷ official epoch |", "|---|---|---|---|"]
    lines += [
        f"| {row.way} | {row.seconds:.2f} | {row.fastest:.2f} to {row.slowest:.2f} | {row.seconds / loop:.2f} |"
        for row in rows.itertuples()
    ]
    return "\n".join(lines)


def epochs_to(history: pd.DataFrame, target: float) -> int | None:
    """The epoch at which the test accuracy of a run first reaches a target."""
    reached = history.loc[history["test_accuracy"] >= target, "epoch"]
    return int(reached.iloc[0]) if len(reached) else None


def target_table(runs: pd.DataFrame, speeds: pd.DataFrame) -> str:
    """The Markdown table of epochs until an accuracy, and their seconds: means over the seeds that reach it."""
    lines = ["| | " + " | ".join(f"until {target:.2f}%" for target in TARGETS) + " |", "|---|---|---|"]
    for name, way in {"as submitted": "ours", "final": "ours, final network and recipe"}.items():
        mine = runs[runs["recipe"] == name]
        histories = [run for _, run in mine[mine["epochs"] == mine["epochs"].max()].groupby("seed")]
        seconds = speeds.loc[speeds["way"] == way, "seconds"].iloc[0]  # of an epoch
        cells = []
        for target in TARGETS:
            epochs = [found for run in histories if (found := epochs_to(run, target))]
            mean = sum(epochs) / len(epochs) if epochs else math.nan
            reached = f"({len(epochs)} of {len(histories)} runs)"
            cells.append(f"{mean:.1f} epochs, {mean * seconds:.0f} s {reached}" if epochs else f"never {reached}")
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=5)
    parser.add_argument("--threads", type=int, help="default: PyTorch's own choice")
    parser.add_argument("--device", default="cpu")
    for name in ("fast", "official", "table"):
        parser.add_argument(f"--{name}", action="store_true")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    device, repetitions = options.device, options.repetitions
    if options.official:
        train_official(device).to_csv(OFFICIAL, index=False, float_format="%.6g")
    elif options.fast:
        measure(hurried_ways(device), device, repetitions).to_csv(HURRIED, index=False, float_format="%.4g")
    elif not options.table:
        rows = measure(ways(device), device, repetitions)
        memory = peak_memory() if device == "cpu" else torch.cuda.max_memory_allocated() / 1e9
        rows.assign(peak_memory_gb=memory).to_csv(CSV, index=False, float_format="%.4g")
    print(speed_table(pd.read_csv(CSV)) + "\n")
    print(hurried_table(pd.read_csv(HURRIED)) + "\n")
    print(target_table(read_runs(), pd.read_csv(CSV)))


if __name__ == "__main__":
    main()
