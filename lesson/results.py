"""What the notebook reads of the study, lesson/results.json: runs by recipe and seed, and how two recipes compare."""

import json
from pathlib import Path

import pandas as pd
from scipy import stats

from helpers import five_looks

# Others' networks on this assignment, as benchmarks/README.md found them: parameters, accuracy in %; one run each.
PUBLIC_RUNS = [
    (18_594, 99.58), (15_794, 99.59), (9_994, 99.60), (9_844, 99.57), (7_918, 99.52), (7_752, 99.55), (7_510, 99.55),
    (6_260, 99.42), (4_862, 99.07), (4_500, 99.28), (697, 99.0),
]  # fmt: skip


def read_results() -> dict:
    """results.json; every recipe's "last", "five_looks" and "best" are accuracies (%) by seed."""
    return json.loads(Path(__file__).with_name("results.json").read_text(encoding="utf-8"))


def runs_of(results: dict, recipe: str, column: str = "last") -> pd.Series:
    """A recipe's accuracies (%), by seed."""
    return pd.Series(results["recipes"][recipe][column], dtype=float, name=recipe)


def compare(before: pd.Series, after: pd.Series) -> tuple[float, float, bool]:
    """Mean gain in points of accuracy over the seeds that both have, its standard error, and whether it is shown.

    Shown: the gain is larger than chance makes in 95 of 100 such studies (Student's t for paired samples).
    """
    gains = (after - before).dropna()  # joined by seed
    error = gains.std() / len(gains) ** 0.5
    return gains.mean(), error, abs(gains.mean()) > stats.t.ppf(0.975, len(gains) - 1) * error


def table_of_gains(results: dict, steps: list[str]) -> pd.DataFrame:
    """What each recipe gains over the one before it, in points, a row for each but the first."""
    rows = {}
    for before, after in zip(steps, steps[1:]):
        gain, error, is_shown = compare(runs_of(results, before), runs_of(results, after))
        gain = round(gain, 2)
        rows[after] = {
            "gain": f"{gain:+.2f}" if gain else "0.00",
            "shown": "yes" if is_shown else "no",
            "std error": f"{error:.2f}",
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def markdown(table: pd.DataFrame) -> str:
    """A table in Markdown, its index in the first column."""
    rows = [["", *table.columns], ["---"] * (1 + len(table.columns)), *table.reset_index().values.tolist()]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def summary_table(results: dict, names: list[str]) -> pd.DataFrame:
    """What was reported and what was measured: mean ± standard deviation, one look."""
    rows = {"the brief, as reported": [f"{results['brief']}%", "19,866", 20]}
    for name in names:
        runs, recipe = runs_of(results, name), results["recipes"][name]
        rows[f"*{name}*"] = [f"{runs.mean():.2f} ± {runs.std():.2f}%", f"{recipe['parameters']:,}", recipe["epochs"]]
    return pd.DataFrame.from_dict(rows, orient="index", columns=["accuracy", "parameters", "epochs"])


def closing_table(results: dict, yours: dict[str, tuple], images, labels) -> pd.DataFrame:
    """Your accuracies (%) with one look and with five beside the study's mean ± standard deviation.

    yours: by recipe, the network and fit's history.
    """
    rows = {}
    for name, (model, history) in yours.items():
        five = 100 * (five_looks(model, images).argmax(1) == labels).double().mean().item()
        for words, column, accuracy in (
            (name, "last", history["test_accuracy"].iloc[-1]),
            (f"{name}, five looks", "five_looks", five),
        ):
            runs = runs_of(results, name, column)
            study = f"{runs.mean():.2f} ± {runs.std():.2f}% (n = {len(runs)})"
            rows[words] = {"your run": f"{accuracy:.2f}%", "the study": study}
    return pd.DataFrame.from_dict(rows, orient="index")


def table_of_the_bar(results: dict, names: list[str]) -> pd.DataFrame:
    """In how many runs each of the last five epochs is at 99.4% or above, and from when on more than half stay there."""
    rows = {}
    for name in names:
        recipe, last_five = results["recipes"][name], runs_of(results, name, "least_of_last_five")
        rows[name] = {
            "runs there": f"{(last_five >= 99.4).sum()} of {len(last_five)}",
            "from epoch": recipe["epochs_to"]["99.4"] or "never",
            "epochs": recipe["epochs"],
            "parameters": f"{recipe['parameters']:,}",
        }
    return pd.DataFrame.from_dict(rows, orient="index")
