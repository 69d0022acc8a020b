"""Try an idea for the final network on held-out training images; every run adds a row to benchmarks/screening.csv.

    python benchmarks/screening.py --seeds 1 2                                    the final recipe as it is
    python benchmarks/screening.py --network "c:8 c:16:2:0 sh:4 p c:16 sh:3 p hd:3" --epochs 15 --peak_lr 0.05
    python benchmarks/screening.py --table

The last 10,000 training images are held out, the network trains on the other 50,000. A network is written in words:
c:16 (3x3 convolution to 16 channels, BatchNorm, activation), c:16:2:0 (with stride 2 and padding 0), r (a residual
one), sh:4 (one convolution used four times, residual), d5 (residual: 5x5 for each channel apart, then 1x1), se:4
(squeeze to 4 channels and excite), p (2x2 max pool), gap (global average), hd:3 (3x3 convolution to the ten digits).
"""
import argparse
import os
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import joblib
import pandas as pd
import torch
import torch.nn.functional as F
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torch.utils.data import TensorDataset

sys.path.insert(0, str(Path(__file__).parent))
from accuracy import append  # noqa: E402
from walkthrough import ROOT, load_definitions  # noqa: E402

from helpers import load_mnist  # noqa: E402

CSV = ROOT / "benchmarks" / "screening.csv"
HELD_OUT = 10_000
IDEA = {"network": "c:8 c:16:2:0 r r p c:26 c:26:2:1 hd:3", "activation": "relu", "epochs": 20, "seed": 0, "batch_size": 64,
        "optimizer": "sgd", "peak_lr": 0.1, "weight_decay": 2e-4, "warm_up_share": 0.3, "label_smoothing": 0.0,
        "degrees": 15.0, "shift": 2.0, "scale": 0.1, "shear": 0.2, "elastic": 0.0, "distribution": "uniform",
        "undistorted_epochs": 0, "average_share": 0.001, "other": "none"}
ACTIVATIONS = {"relu": nn.ReLU, "silu": nn.SiLU, "gelu": nn.GELU, "hardswish": nn.Hardswish}


class Residual(nn.Module):
    """x + block(x)."""

    def __init__(self, *block):
        super().__init__()
        self.block = nn.Sequential(*block)

    def forward(self, x):
        return x + self.block(x)


class SqueezeExcite(nn.Module):
    """Scale every channel by a number made from the means of all channels."""

    def __init__(self, channels, hidden):
        super().__init__()
        self.squeeze, self.excite = nn.Conv2d(channels, hidden, 1), nn.Conv2d(hidden, channels, 1)

    def forward(self, x):
        return x * torch.sigmoid(self.excite(F.relu(self.squeeze(x.mean((2, 3), keepdim=True)))))


def smooth_labels(output: torch.Tensor, share: float) -> torch.Tensor:
    """Spread a share of every label over all classes: the loss's gradient changes as if the labels were smoothed."""
    if share and output.requires_grad:
        output.register_hook(lambda gradient: (1 - share) * gradient + share * gradient.mean(1, keepdim=True))
    return output


class Head(nn.Module):
    """Convolution to the ten digits, and log-softmax."""

    def __init__(self, channels, kernel, label_smoothing):
        super().__init__()
        self.conv, self.label_smoothing = nn.Conv2d(channels, 10, kernel), label_smoothing

    def forward(self, x):
        return smooth_labels(F.log_softmax(self.conv(x).flatten(1), dim=1), self.label_smoothing)


def build(words: str, activation: str, label_smoothing: float, shared_block) -> nn.Sequential:
    """The network that the words describe."""
    layers, channels, active = [], 1, ACTIVATIONS[activation]

    def conv(outputs, kernel=3, **options):
        return nn.Conv2d(channels, outputs, kernel, bias=False, **options), nn.BatchNorm2d(outputs)

    for word in words.split():
        kind, *numbers = word.split(":")
        numbers = [int(number) for number in numbers]
        if kind == "c":
            stride, padding = numbers[1:] or (1, 1)
            layers += [*conv(numbers[0], stride=stride, padding=padding), active()]
            channels = numbers[0]
        elif kind == "r":
            layers.append(Residual(*conv(channels, padding=1), active()))
        elif kind == "sh":
            layers.append(shared_block(channels, numbers[0]))
        elif kind == "d5":
            layers.append(Residual(*conv(channels, 5, padding=2, groups=channels), *conv(channels, 1), active()))
        elif kind == "se":
            layers.append(SqueezeExcite(channels, numbers[0]))
        elif kind == "p":
            layers.append(nn.MaxPool2d(2))
        elif kind == "gap":
            layers.append(nn.AdaptiveAvgPool2d(1))
        elif kind == "hd":
            layers.append(Head(channels, numbers[0], label_smoothing))
        else:
            raise ValueError(f"unknown word {word!r} in the network {words!r}")
    return nn.Sequential(*layers).to(memory_format=torch.channels_last)


def recipe_of(idea: dict, walkthrough: dict):
    """The notebook's final recipe with the idea's changes."""
    make = walkthrough["one_cycle"](idea["peak_lr"], idea["weight_decay"])
    if idea["optimizer"] == "adamw":
        make["optimizer"] = lambda parameters: torch.optim.AdamW(parameters, weight_decay=idea["weight_decay"])
    make["scheduler"] = lambda optimizer, steps: torch.optim.lr_scheduler.OneCycleLR(
        optimizer, idea["peak_lr"], total_steps=steps, pct_start=idea["warm_up_share"])
    move = partial(walkthrough["move_averages"], least=idea["average_share"])
    augment = walkthrough["RandomAffine"](**{name: idea[name] for name in ("degrees", "shift", "scale", "shear")})
    return replace(walkthrough["FINAL"], name="idea", batch_size=idea["batch_size"], epochs=idea["epochs"], augment=augment,
                   average=lambda model: AveragedModel(model, multi_avg_fn=move, use_buffers=True),
                   augment_share=1 - idea["undistorted_epochs"] / idea["epochs"], **make, network=lambda: build(
                       idea["network"], idea["activation"], idea["label_smoothing"], walkthrough["SharedBlock"]))


def run(idea: dict) -> pd.DataFrame:
    """Train an idea on one thread; return its row of the table."""
    torch.set_num_threads(1)
    if idea["elastic"] or idea["distribution"] != "uniform" or idea["other"] != "none":
        raise ValueError("elastic, distribution and other name what was tried with earlier forms of this script only")
    walkthrough = load_definitions()
    train_set, _ = load_mnist(ROOT / "data")
    parts = [TensorDataset(*(tensor[cut] for tensor in train_set.tensors))
             for cut in (slice(-HELD_OUT), slice(-HELD_OUT, None))]
    model, history = walkthrough["run_recipe"](recipe_of(idea, walkthrough), *parts, "cpu", idea["seed"])
    return pd.DataFrame([{**idea, "parameters": sum(p.numel() for p in model.parameters()),
                          "loss": round(history["test_loss"].iloc[-1], 5), "accuracy": history["test_accuracy"].iloc[-1],
                          "best_accuracy": history["test_accuracy"].max()}])


def table() -> str:
    """The Markdown table of the runs in screening.csv: what differs from the first row, and what came of it."""
    rows = pd.read_csv(CSV)
    base, results = rows.iloc[0], ["parameters", "loss", "accuracy", "best_accuracy"]
    lines = ["| network | what else differs | parameters | accuracy, last epoch | loss |", "|---|---|---|---|---|"]
    for _, row in rows.iterrows():
        other = [f"{name.replace('_', ' ')} {row[name]}" for name in rows.columns
                 if name not in ["network", *results] and row[name] != base[name]]
        other = [words.removesuffix(".0").removeprefix("other ") for words in other]
        lines.append(f"| `{row['network']}` | {', '.join(other)} | {row['parameters']:,} | {row['accuracy']:.2f}% "
                     f"| {row['loss']:.4f} |")
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
    ideas = [{name: options.get(name, seed) for name in IDEA} for seed in options["seeds"]]
    if not options["table"]:
        os.environ["TQDM_DISABLE"] = "1"  # in the workers, which start now
        for row in joblib.Parallel(options["jobs"], return_as="generator_unordered")(joblib.delayed(run)(i) for i in ideas):
            append(row[pd.read_csv(CSV, nrows=0).columns], CSV)
            print(row.iloc[0].to_dict())
    print(table())


if __name__ == "__main__":
    main()
