"""Train the lesson's recipes over seeds, on test or held-out images, and record every epoch.

    python -m benchmarks.study --recipes "as submitted" final --seeds 1 2 3 4 5 --jobs 2
    python -m benchmarks.study --held-out --recipes fast    trains on 50,000 images, tests on the other 10,000
    python -m benchmarks.study --table                      the table of complete runs, trains nothing

A run (recipe, seed, epochs) that the file already holds is skipped, so a study that was stopped goes on
where it was. Of each run, accuracy.csv (held_out.csv) has a row an epoch, and one with five looks at the
end; mistakes.csv has what it got wrong on the test images.
"""

import argparse
import os
from pathlib import Path

import joblib
import pandas as pd
import torch
import torch.nn.functional as F
from torch.utils.data import TensorDataset
from tqdm import tqdm

from benchmarks.recipes import RECIPES, five_looks
from helpers import load_mnist, log_probabilities
from lesson.recipe import run_recipe

ROOT = Path(__file__).resolve().parent.parent
ACCURACY, HELD_OUT, MISTAKES = (ROOT / "benchmarks" / name for name in ("accuracy.csv", "held_out.csv", "mistakes.csv"))
RUN = ["recipe", "seed", "epochs"]  # what names a run
TARGET = 99.28  # the brief's accuracy, in %


def read_runs(path: Path = ACCURACY) -> pd.DataFrame:
    """The complete runs of a file, a row an epoch; a run that was cut off while it was written is left out."""
    if not path.exists():
        return pd.DataFrame(columns=[*RUN, "looks", "epoch"])
    rows = pd.read_csv(path).dropna().drop_duplicates([*RUN, "looks", "epoch"], keep="last")
    lengths = rows["epoch"].where(rows["looks"] == 1).groupby([rows[name] for name in RUN]).transform("count")
    return rows[lengths == rows["epochs"]]


def append(rows: pd.DataFrame, path: Path) -> None:
    """Add rows to a CSV file, on a new line where the last one was cut off."""
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    text = rows.to_csv(index=False, header=not before, float_format="%.6g", lineterminator="\n")
    with open(path, "a", encoding="utf-8", newline="") as file:
        file.write(text if before.endswith("\n") or not before else "\n" + text)


def count_parameters(model: torch.nn.Module) -> int:
    """All numbers that a network learns."""
    return sum(parameter.numel() for parameter in model.parameters())


def load_images(held_out: bool, device="cpu") -> tuple[TensorDataset, TensorDataset]:
    """What to train and what to test on: MNIST's own two sets, or the training set's first 50,000 and the rest."""
    train_set, test_set = load_mnist(ROOT / "data", device)
    if held_out:
        train_set, test_set = TensorDataset(*train_set[:50_000]), TensorDataset(*train_set[50_000:])
    return train_set, test_set


def run(name: str, seed: int, epochs: int, held_out=False, device="cpu") -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train one recipe with one seed on one thread; return rows for the files: its history, and its mistakes."""
    torch.set_num_threads(1)
    train_set, test_set = load_images(held_out, device)
    recipe = RECIPES[name]
    model, history = run_recipe(recipe, train_set, test_set, device, seed, epochs, after_epoch=lambda history: None)
    images, labels = test_set.tensors
    looks = five_looks(model, images)
    accuracy, loss = 100 * (looks.argmax(1) == labels).float().mean().item(), F.nll_loss(looks, labels).item()
    last = history.tail(1).assign(looks=5, test_accuracy=accuracy, test_loss=loss)
    run_of = {"recipe": name, "seed": seed, "epochs": epochs}
    machine = {"threads": 1, "torch": torch.__version__, "device": str(device)}
    rows = pd.concat([last, history.assign(looks=1)])  # the run counts as complete when its last line is there
    rows = rows.assign(**run_of, **machine, parameters=count_parameters(model))
    columns = [*RUN, "looks", "epoch", "parameters", "lr", "train_loss", "train_accuracy", "test_loss", "test_accuracy"]
    answers = {1: log_probabilities(model, images).argmax(1), 5: looks.argmax(1)}
    mistakes = []
    for count, answer in answers.items():
        wrong = (answer != labels).nonzero().flatten()
        found = {"image": wrong.cpu(), "label": labels[wrong].cpu(), "answer": answer[wrong].cpu()}
        mistakes.append(pd.DataFrame({**run_of, "looks": count, **found}))
    return rows[[*columns, "seconds", *machine]], pd.concat(mistakes)


def study(runs: list[tuple], jobs: int) -> None:
    """Do the runs, several at a time, through whichever joblib backend is active; record each as it ends."""
    results = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")(joblib.delayed(run)(*each) for each in runs)
    held_out = runs[0][3] if runs else False
    for history, mistakes in tqdm(results, total=len(runs), unit="run"):
        if not held_out:
            append(mistakes, MISTAKES)
        append(history, HELD_OUT if held_out else ACCURACY)  # the last: a run counts as done once it is there


def table(rows: pd.DataFrame) -> str:
    """The Markdown table of complete runs: mean ± standard deviation at the last epoch."""
    lines = [
        "| recipe | looks | parameters | epochs | n | accuracy, last epoch | worst | best | loss |",
        "|---" * 9 + "|",
    ]
    last = rows[rows["epoch"] == rows["epochs"]]
    for (name, epochs, looks), runs in last.groupby(["recipe", "epochs", "looks"], sort=False):
        found = runs["test_accuracy"]
        lines.append(
            f"| {name} | {looks} | {runs['parameters'].iloc[0]:,} | {epochs} | {len(runs)} | {found.mean():.2f} ± "
            f"{found.std():.2f}% | {found.min():.2f}% | {found.max():.2f}% | {runs['test_loss'].mean():.4f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--epochs", type=int, help="default: the recipe's own")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs side by side, one thread each")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--held-out", action="store_true", help="train on 50,000 training images, test on the others")
    parser.add_argument("--table", action="store_true", help="print the table of complete runs, train nothing")
    options = parser.parse_args()
    path = HELD_OUT if options.held_out else ACCURACY
    if not options.table:
        names = [(name, seed) for seed in options.seeds for name in options.recipes]
        wanted = [(name, seed, options.epochs or RECIPES[name].epochs) for name, seed in names]
        done = set(read_runs(path)[RUN].itertuples(index=False, name=None))
        study([(*each, options.held_out, options.device) for each in wanted if each not in done], options.jobs)
    print(table(read_runs(path)))


if __name__ == "__main__":
    main()
