"""Train recipes over seeds and record every epoch in benchmarks/accuracy.csv.

    python benchmarks/accuracy.py --recipes "as submitted" final --seeds 1 2 3 4 5 --jobs 2
    python benchmarks/accuracy.py --table               the table of complete runs, trains nothing

Recipes are the notebook's own. A run (recipe, seed, epochs) that the file already holds is skipped, so
a study that was stopped goes on where it was. What each complete run got wrong goes to mistakes.csv.
"""

import argparse
import contextlib
import io
import os

import joblib
import pandas as pd
import torch
from tqdm import tqdm

from recipes import RECIPES, run_recipe
from results import ACCURACY, MISTAKES, ROOT, RUN, TARGET, append, read_runs

from helpers import load_mnist, log_probabilities


def count_parameters(model: torch.nn.Module) -> int:
    """All learned or fixed numbers of a model: parameters, and buffers other than BatchNorm's statistics."""
    statistics = ("running_mean", "running_var", "num_batches_tracked")
    return sum(p.numel() for p in model.parameters()) + sum(
        b.numel() for name, b in model.named_buffers() if not name.endswith(statistics)
    )


def run(recipe_name: str, seed: int, epochs: int, device: str) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Train one recipe with one seed, on one thread; return its history, and its mistakes, as rows for the files."""
    torch.set_num_threads(1)
    train_set, test_set = load_mnist(ROOT / "data", device)
    with contextlib.redirect_stderr(io.StringIO()):  # one bar for the study, none for each run, wherever it runs
        model, history = run_recipe(RECIPES[recipe_name], train_set, test_set, device, seed, epochs)
    named = {"recipe": recipe_name, "seed": seed, "epochs": epochs}
    history = history.assign(
        **named,
        parameters=count_parameters(model),
        threads=1,
        torch=torch.__version__,
        device=device if device == "cpu" else torch.cuda.get_device_name(),
    )
    images, labels = test_set.tensors
    answers = log_probabilities(model, images).argmax(1)
    wrong = (answers != labels).nonzero().flatten().cpu()
    mistakes = pd.DataFrame({**named, "image": wrong, "label": labels.cpu()[wrong], "answer": answers.cpu()[wrong]})
    order = [
        *RUN,
        "epoch",
        "parameters",
        "lr",
        "train_loss",
        "train_accuracy",
        "test_loss",
        "test_accuracy",
        "seconds",
        "threads",
        "torch",
        "device",
    ]
    return history[order], mistakes


def study(runs: list[tuple], jobs: int) -> None:
    """Do the runs, several at a time, through whichever joblib backend is active; record each as it ends."""
    results = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")(joblib.delayed(run)(*r) for r in runs)
    with tqdm(total=len(runs), unit="run") as bar:
        for history, mistakes in results:
            append(mistakes, MISTAKES)
            append(history, ACCURACY)  # the last: a run counts as done once it is there
            last = history.iloc[-1]
            bar.set_postfix_str(f"{last['recipe']}, seed {last['seed']}: {last['test_accuracy']:.2f}%")
            bar.update()


def table(rows: pd.DataFrame, recipes: list[str]) -> str:
    """The Markdown table of these recipes' complete runs: mean ± standard deviation at the last epoch."""
    lines = [
        "| recipe | parameters | epochs | n | test accuracy, last epoch | worst seed | best seed "
        f"| seeds' mean first ≥ {TARGET}% |",
        "|---|---|---|---|---|---|---|---|",
    ]
    rows = rows[rows["recipe"].isin(recipes)]
    for (_, name, epochs), runs in rows.groupby([rows["recipe"].map(recipes.index), "recipe", "epochs"]):
        last = runs.loc[runs["epoch"] == epochs, "test_accuracy"]
        means = runs.groupby("epoch")["test_accuracy"].mean()
        first = f"epoch {means[means >= TARGET].index[0]}" if (means >= TARGET).any() else "never"
        spread = f" ± {last.std():.2f}" if len(last) > 1 else ""
        lines.append(
            f"| {name} | {runs['parameters'].iloc[0]:,} | {epochs} | {len(last)} "
            f"| {last.mean():.2f}{spread}% | {last.min():.2f}% | {last.max():.2f}% | {first} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--recipes",
        nargs="+",
        default=list(RECIPES),
        choices=list(RECIPES),
        metavar="NAME",
        help=f"default: all, {list(RECIPES)}",
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3, 4, 5])
    parser.add_argument("--epochs", type=int, help="default: the recipe's own")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="runs side by side, one thread each")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--table", action="store_true", help="print the table of complete runs, train nothing")
    options = parser.parse_args()
    if not options.table:
        wanted = [
            (name, seed, options.epochs or RECIPES[name].epochs) for seed in options.seeds for name in options.recipes
        ]
        done = set(read_runs()[RUN].itertuples(index=False, name=None))
        study([(*key, options.device) for key in wanted if key not in done], options.jobs)
    print(table(read_runs(), list(RECIPES)))


if __name__ == "__main__":
    main()
