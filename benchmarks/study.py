"""Train the lesson's recipes over seeds, on test or held-out images, and record every epoch.

    python -m benchmarks.study --recipes "as submitted" final --seeds 1 2 3 4 5 --jobs 2
    python -m benchmarks.study --held-out --recipes fast    trains on 50,000 images, tests on the other 10,000
    python -m benchmarks.study --out trial.csv              records elsewhere than in the committed rows

A run (recipe, fingerprint, seed, epochs) that the file holds is skipped: a study that was stopped goes on, and a recipe
that has changed is run again. accuracy_mistakes.csv has what the runs got wrong on the test images.
"""

import argparse
import ast
import hashlib
import inspect
import json
import math
import os
import subprocess
import textwrap
from pathlib import Path

import joblib
import pandas as pd
import torch
import torch.nn.functional as F
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.utils.data import TensorDataset
from tqdm import tqdm

from helpers import count_parameters, five_looks, load_mnist, log_probabilities, train
from lesson.recipes import RECIPES, Recipe, prepare, run_recipe

ROOT = Path(__file__).resolve().parent.parent
ACCURACY, HELD_OUT = ROOT / "benchmarks" / "accuracy.csv", ROOT / "benchmarks" / "held_out.csv"
RUN = ["recipe", "fingerprint", "seed", "epochs"]  # what names a run
MEASURED = ["lr", "train_loss", "train_accuracy", "test_loss", "test_accuracy", "seconds"]
COLUMNS = [*RUN, "looks", "epoch", *MEASURED, "parameters", "probe", "commit", "threads", "torch", "device"]


def code_of(cls: type) -> str:
    """A class's source without comments and docstrings."""
    tree = ast.parse(textwrap.dedent(inspect.getsource(cls)))
    for node in ast.walk(tree):
        if isinstance(node, (ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.unparse(tree)


def planned(recipe: Recipe) -> list[tuple[float, float]]:
    """Learning rate and momentum at eleven points of the run; a plateau's, as if the loss never fell."""
    optimizer = recipe.optimizer(recipe.network().parameters())
    steps = recipe.epochs if recipe.step_every == "epoch" else 1000
    scheduler, points = recipe.scheduler(optimizer, steps), []
    loss = [1.0] if isinstance(scheduler, ReduceLROnPlateau) else []  # only a plateau is told one
    for _ in range(steps):
        group = optimizer.param_groups[0]
        momentum = group.get("momentum", group.get("betas", [0])[0])
        points.append((float(f"{group['lr']:.6g}"), float(f"{momentum:.6g}")))
        optimizer.step()
        scheduler.step(*loss)
    return [points[round(part * (steps - 1) / 10)] for part in range(11)]


def fingerprint(recipe: Recipe) -> str:
    """A short hash of what a recipe says: its network with the code of its own classes, and how it is trained."""
    network = recipe.network()
    classes = {cls for module in network.modules() for cls in type(module).__mro__}
    own = sorted(code_of(cls) for cls in classes if not cls.__module__.startswith(("torch.", "builtins")))
    optimizer = recipe.optimizer(network.parameters())
    said = {name: getattr(recipe, name) for name in ("step_every", "batch_size", "epochs", "plain_epochs", "average")}
    said |= {
        "network": [repr(network).replace(", bias=True", ""), *own],  # which only some versions of PyTorch say
        "parameters": count_parameters(network),
        "optimizer": [type(optimizer).__name__, {name: value for name, value in optimizer.defaults.items() if value}],
        "plan": planned(recipe),
        "augment": recipe.augment and [type(recipe.augment).__name__, vars(recipe.augment)],
    }
    return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:8]


def probe(recipe: Recipe, train_set: TensorDataset) -> float:
    """Mean training loss of a recipe's first 20 batches, seed 0: a number for the code that a recipe doesn't say.

    The images come sorted by their labels, so that a loader that doesn't shuffle shows.
    """
    labels = train_set.tensors[1][: 20 * recipe.batch_size]
    images = TensorDataset(*train_set[labels.argsort(stable=True)])
    batches = recipe.epochs * math.ceil(len(train_set) / recipe.batch_size)  # for its real plan
    parts = prepare(recipe, images, labels.device, seed=0, batches=batches)
    if recipe.step_every == "epoch":
        parts["scheduler"] = None
    return train(device=labels.device, loader=parts.pop("train_loader"), **parts)[0]


def commit() -> str:
    """The commit of the code that runs, with a + where files have been changed since."""
    command = ["git", "describe", "--always", "--dirty=+", "--exclude=*"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout.strip() or "unknown"


def read_runs(path: Path = ACCURACY) -> pd.DataFrame:
    """The complete runs of a file, a row an epoch; a run that was cut off while it was written is left out."""
    if not path.exists():
        return pd.DataFrame(columns=COLUMNS)
    rows = pd.read_csv(path, dtype={"fingerprint": str}).dropna().drop_duplicates([*RUN, "looks", "epoch"], keep="last")
    return rows.groupby(RUN).filter(lambda run: (run["looks"] == 1).sum() == run["epochs"].iloc[0])


def todays(rows: pd.DataFrame, epochs: int | None = None) -> pd.DataFrame:
    """The rows made by the recipes as they are now, in the recipes' order; of runs of their own length, or of epochs."""
    now = [(name, fingerprint(recipe), epochs or recipe.epochs) for name, recipe in RECIPES.items()]
    return pd.DataFrame(now, columns=["recipe", "fingerprint", "epochs"]).merge(rows)[rows.columns]


def append(rows: pd.DataFrame, path: Path) -> None:
    """Add rows to a CSV file."""
    rows.to_csv(path, mode="a", index=False, header=not path.exists(), float_format="%.6g", lineterminator="\n")


def mistakes_of(path: Path) -> Path:
    """Where what the runs of a file got wrong is kept."""
    return path.with_stem(f"{path.stem}_mistakes")


def load_images(held_out: bool) -> tuple[TensorDataset, TensorDataset]:
    """What to train and what to test on: MNIST's own two sets, or the training set's first 50,000 and the rest."""
    train_set, test_set = load_mnist(ROOT / "data")
    if held_out:
        train_set, test_set = TensorDataset(*train_set[:50_000]), TensorDataset(*train_set[50_000:])
    return train_set, test_set


def run(name: str, seed: int, epochs: int, held_out=False) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train one recipe with one seed on one thread; return rows for the files: epochs and five looks; mistakes."""
    torch.set_num_threads(1)
    train_set, test_set = load_images(held_out)
    recipe, (images, labels) = RECIPES[name], test_set.tensors
    model, history = run_recipe(recipe, train_set, test_set, "cpu", seed, epochs, after_epoch=lambda history: None)
    outputs, mistakes = {1: log_probabilities(model, images), 5: five_looks(model, images)}, []
    for looks, output in outputs.items():
        answers = pd.DataFrame({"looks": looks, "label": labels, "answer": output.argmax(1)})
        mistakes.append(answers[answers["label"] != answers["answer"]].reset_index(names="image"))
    accuracy, loss = 100 * (1 - len(mistakes[1]) / len(labels)), F.nll_loss(outputs[5], labels).item()
    last = history.tail(1).assign(looks=5, test_accuracy=accuracy, test_loss=loss)
    run_of = {"recipe": name, "fingerprint": fingerprint(recipe), "seed": seed, "epochs": epochs}
    made_by = {"parameters": count_parameters(model), "probe": probe(recipe, train_set), "commit": commit()}
    machine = {"threads": 1, "torch": torch.__version__, "device": "cpu"}
    # The run counts as complete when its last line is there.
    rows = pd.concat([last, history.assign(looks=1)]).assign(**run_of, **made_by, **machine)[COLUMNS]
    return rows, pd.concat(mistakes).assign(**run_of)[[*RUN, "looks", "image", "label", "answer"]]


def study(runs: list[tuple], jobs: int, path: Path, held_out=False) -> None:
    """Do the runs, several at a time, through whichever joblib backend is active; record each as it ends."""
    results = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")(joblib.delayed(run)(*each) for each in runs)
    for history, mistakes in tqdm(results, total=len(runs), unit="run"):
        if not held_out:
            append(mistakes, mistakes_of(path))
        append(history, path)  # the last: a run counts as done once it is there


def table(rows: pd.DataFrame) -> pd.DataFrame:
    """Complete runs at their last epoch: accuracy (%) over seeds, and the mean loss."""
    last = rows[rows["epoch"] == rows["epochs"]].groupby(["recipe", "looks", "parameters", "epochs"], sort=False)
    found = last["test_accuracy"].agg(mean="mean", std="std", worst="min", best="max").map("{:.2f}".format)
    found = found.assign(loss=last["test_loss"].mean().map("{:.4f}".format), n=last.size())
    return found.reset_index().set_index("recipe")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=list(RECIPES), metavar="NAME")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--epochs", type=int, help="default: the recipe's own")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs side by side, one thread each")
    parser.add_argument("--held-out", action="store_true", help="train on 50,000 training images, test on the others")
    parser.add_argument("--out", type=Path, metavar="FILE", help="default: accuracy.csv, or held_out.csv")
    options = parser.parse_args()
    path = options.out or (HELD_OUT if options.held_out else ACCURACY)
    done, runs = set(read_runs(path)[RUN].itertuples(index=False, name=None)), []
    for seed in options.seeds:
        for name in options.recipes:
            epochs = options.epochs or RECIPES[name].epochs
            if (name, fingerprint(RECIPES[name]), seed, epochs) not in done:
                runs.append((name, seed, epochs, options.held_out))
    study(runs, options.jobs, path, options.held_out)
    print(table(todays(read_runs(path), options.epochs)).to_string())


if __name__ == "__main__":
    main()
