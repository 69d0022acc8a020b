"""Where the results of the studies lie, and how they are read, added to, and summed up. Imports nothing of the project."""

import statistics
from pathlib import Path

import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK, README = ROOT / "S6_Part2.ipynb", ROOT / "README.md"
BENCHMARKS = ROOT / "benchmarks"
ACCURACY, MISTAKES = BENCHMARKS / "accuracy.csv", BENCHMARKS / "mistakes.csv"
RUN = ["recipe", "seed", "epochs"]  # what names a run
TARGET = 99.28  # the brief's accuracy, in %


def read_runs(path: Path = ACCURACY) -> pd.DataFrame:
    """The complete runs in accuracy.csv, a row an epoch; one that was cut off while it was written is left out."""
    if not path.exists():
        return pd.DataFrame(columns=[*RUN, "epoch"])
    rows = pd.read_csv(path).dropna().drop_duplicates([*RUN, "epoch"], keep="last")
    return rows[rows.groupby(RUN)["epoch"].transform("count") == rows["epochs"]]


def append(rows: pd.DataFrame, path: Path) -> None:
    """Add rows to a CSV file in one write, on a new line where the last one was cut off."""
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    text = rows.to_csv(index=False, header=not before, float_format="%.6g", lineterminator="\n")
    if before and not before.endswith("\n"):
        text = "\n" + text
    with open(path, "a", encoding="utf-8", newline="") as file:
        file.write(text)


def last_epochs(rows: pd.DataFrame, recipe: str, epochs: int) -> pd.DataFrame:
    """The last row of each run of a recipe that has its full length, by seed."""
    chosen = (rows["recipe"] == recipe) & (rows["epochs"] == epochs)
    return rows[chosen & (rows["epoch"] == epochs)].sort_values("seed")


def by_epoch(rows: pd.DataFrame, recipe: str, epochs=20) -> pd.Series:
    """A recipe's test accuracy after each epoch, mean over the seeds."""
    runs = rows[(rows["recipe"] == recipe) & (rows["epochs"] == epochs)]
    return runs.groupby("epoch")["test_accuracy"].mean()


def hardest_images(recipe="final", count=20, path: Path = MISTAKES) -> list[tuple[int, int, int]]:
    """(test image, usual answer, number of seeds that got it wrong), most often wrong first."""
    rows = pd.read_csv(path).drop_duplicates([*RUN, "image"], keep="last")
    rows = rows[rows["recipe"] == recipe]
    rows = rows[rows["epochs"] == rows["epochs"].max()]
    answers = rows.groupby("image")["answer"].agg([lambda column: column.mode().iloc[0], "size"])
    answers = answers.sort_values("size", ascending=False, kind="stable").head(count)
    return [(int(image), int(answer), int(size)) for image, (answer, size) in zip(answers.index, answers.values)]


def mean_and_spread(accuracies) -> str:
    """Mean ± standard deviation between seeds, in %."""
    return f"{statistics.mean(accuracies):.2f} ± {statistics.stdev(accuracies):.2f}%"
