"""Try ideas on held-out training images; every run adds a row to benchmarks/screening.csv.

    python benchmarks/screening.py --seeds 1 2                                 the distortion, batches of 128, 20 epochs
    python benchmarks/screening.py --network small --epochs 15 --peak_lr 0.05 --elastic 0.5 --seeds 1 2
    python benchmarks/screening.py --table                                     train nothing

The network trains on the first 50,000 training images. The loss and accuracy recorded are those of the last epoch, on
the 10,000 training images held out; the test images are never used. A run that the file already holds is skipped.

A network goes by its name or is written in words: c:16 (convolution to 16 channels, BatchNorm, ReLU), c:16:2:0:5
(with stride 2, padding 0 and a kernel of 5x5; without these numbers 1, 1 and 3), cp:16 (with a 2x2 max pool before
the BatchNorm), r (a residual one), sh:4 (one convolution used four times, residual), p (2x2 max pool), gap (global
average), hd:3 (3x3 convolution to the ten digits).
"""

import argparse
import contextlib
import io
import os
from dataclasses import replace
from functools import partial

import joblib
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.lr_scheduler import OneCycleLR
from torch.utils.data import TensorDataset

import recipes
from results import ROOT, append

from helpers import normalise, read_mnist

CSV = ROOT / "benchmarks" / "screening.csv"
HELD_OUT = 10_000
NETWORKS = {"final": "c:8 c:16:2:0 r r p c:26 c:26:2:1 hd:3", "small": "c:8 c:16:2:0 sh:4 p c:16 sh:3 p hd:3"}
IDEA = {
    "network": "final",
    "epochs": 20,
    "batch_size": 128,
    "peak_lr": 0.1,
    "weight_decay": 5e-4,
    "warm_up": 0.3,
    "degrees": 10.0,
    "scale": 0.1,
    "shear": 0.15,
    "shift": 1.5,
    "elastic": 1.0,
    "points": 5,
    "undistorted_epochs": 2,
    "average_least": 0.001,
    "seed": 1,
}


class Residual(nn.Module):
    """x + block(x)."""

    def __init__(self, *block):
        super().__init__()
        self.block = nn.Sequential(*block)

    def forward(self, x):
        return x + self.block(x)


class Head(nn.Conv2d):
    """Convolution to the ten digits, and log-softmax."""

    def forward(self, x):
        return F.log_softmax(super().forward(x).reshape(-1, 10), dim=1)


def convolution(inputs: int, outputs: int, stride=1, padding=1, kernel=3, pool=False) -> list:
    """Convolution, BatchNorm, ReLU; with a max pool as the second where pool is true."""
    return [
        nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False),
        *[nn.MaxPool2d(2)] * pool,
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    ]


def build(words: str) -> nn.Sequential:
    """The network that the words describe."""
    layers, channels = [], 1
    for word in words.split():
        kind, *numbers = word.split(":")
        numbers = [int(number) for number in numbers]
        if kind in ("c", "cp"):
            layers += convolution(channels, *numbers, pool=kind == "cp")
            channels = numbers[0]
        elif kind == "r":
            layers.append(Residual(*convolution(channels, channels)))
        elif kind == "sh":
            layers.append(recipes.SharedBlock(channels, numbers[0]))
        elif kind == "p":
            layers.append(nn.MaxPool2d(2))
        elif kind == "gap":
            layers.append(nn.AdaptiveAvgPool2d(1))
        elif kind == "hd":
            layers.append(Head(channels, 10, numbers[0]))
        else:
            raise ValueError(f"unknown word {word!r} in the network {words!r}")
    return nn.Sequential(*layers)


def distortion(idea: dict):
    """The affine changes of an idea, with the elastic one if it has any."""
    affine = {name: idea[name] for name in ("degrees", "scale", "shear", "shift")}
    if idea["elastic"]:
        return recipes.RandomDistortion(**affine, elastic=idea["elastic"], points=idea["points"])
    return recipes.RandomAffine(**affine)


def recipe_of(idea: dict) -> recipes.Recipe:
    """The recipe that an idea describes."""
    one_cycle = recipes.one_cycle(idea["peak_lr"], idea["weight_decay"])
    one_cycle["scheduler"] = lambda optimizer, steps: OneCycleLR(
        optimizer, idea["peak_lr"], total_steps=steps, pct_start=idea["warm_up"]
    )
    distorted_epochs = idea["epochs"] - idea["undistorted_epochs"]
    if distorted_epochs < 1:
        raise ValueError(f"undistorted_epochs must leave one of the {idea['epochs']} epochs distorted")
    return replace(
        recipes.FINAL,
        name="idea",
        network=lambda: build(idea["network"]),
        **one_cycle,
        batch_size=idea["batch_size"],
        epochs=idea["epochs"],
        augment=distortion(idea),
        augment_share=(distorted_epochs - 0.5) / idea["epochs"],  # it is rounded up to whole epochs
        average=partial(recipes.MovingAverage, least=idea["average_least"]),
    )


def run(idea: dict) -> pd.DataFrame:
    """Train an idea on one thread; return its row of the table."""
    torch.set_num_threads(1)
    images, labels = read_mnist(ROOT / "data")[:2]
    training, held_out = (
        TensorDataset(normalise(images[part]), labels[part]) for part in (slice(-HELD_OUT), slice(-HELD_OUT, None))
    )
    with contextlib.redirect_stderr(io.StringIO()):  # no bar for each run
        model, history = recipes.run_recipe(recipe_of(idea), training, held_out, "cpu", idea["seed"])
    return pd.DataFrame(
        [
            {
                **idea,
                "parameters": sum(p.numel() for p in model.parameters()),
                "loss": round(history["test_loss"].iloc[-1], 5),
                "accuracy": history["test_accuracy"].iloc[-1],
                "accuracy_by_epoch": " ".join(f"{value:.2f}" for value in history["test_accuracy"]),
            }
        ]
    )


def read() -> pd.DataFrame:
    """The runs so far."""
    return pd.read_csv(CSV) if CSV.exists() else pd.DataFrame(columns=list(IDEA))


def table(rows: pd.DataFrame) -> str:
    """The Markdown table of the ideas: what differs from IDEA, and mean ± standard deviation over the seeds."""
    lines = [
        "| network | what else differs | parameters | n | loss | accuracy, last epoch |",
        "|---|---|---|---|---|---|",
    ]
    names = {words: name for name, words in NETWORKS.items()}
    settings = [name for name in IDEA if name not in ("network", "seed")]
    for idea, runs in rows.groupby(["network", *settings], sort=False):
        other = [
            f"{name.replace('_', ' ')} {value:g}" for name, value in zip(settings, idea[1:]) if value != IDEA[name]
        ]
        loss, accuracy = runs["loss"], runs["accuracy"]
        spread = [f" ± {loss.std():.4f}", f" ± {accuracy.std():.2f}"] if len(runs) > 1 else ["", ""]
        lines.append(
            f"| {names.get(idea[0], f'`{idea[0]}`')} | {', '.join(other)} | {runs['parameters'].iloc[0]:,} "
            f"| {len(runs)} | {loss.mean():.4f}{spread[0]} | {accuracy.mean():.2f}{spread[1]}% |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", nargs="+", type=int, default=[IDEA["seed"]])
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs side by side, one thread each")
    parser.add_argument("--table", action="store_true", help="print the table, train nothing")
    for name, value in IDEA.items():
        if name != "seed":
            parser.add_argument(f"--{name}", type=type(value), default=value)
    options = vars(parser.parse_args())
    if not options["table"]:
        options["network"] = NETWORKS.get(options["network"], options["network"])
        wanted = [{name: options.get(name, seed) for name in IDEA} for seed in options["seeds"]]
        done = read()[list(IDEA)].to_dict("records")
        for row in joblib.Parallel(options["jobs"], return_as="generator_unordered")(
            joblib.delayed(run)(idea) for idea in wanted if idea not in done
        ):
            append(row, CSV)
    print(table(read()))


if __name__ == "__main__":
    main()
