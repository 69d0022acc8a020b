"""What tests and benchmarks take from the notebook, and what the notebook and the READMEs repeat of other files.

`python benchmarks/walkthrough.py` refreshes all that is repeated: in S6_Part2.ipynb the text of helpers.py and the
study's accuracies and mistakes (benchmarks/*.csv); in it and in the README the table of results, with those of the
notebook's stored run; in both READMEs the tables made from benchmarks/*.csv. Run it after changing helpers.py, after a
study, and after executing the notebook.
"""
import os
import re
import statistics
import sys
import textwrap
import types
from pathlib import Path

import nbformat
import pandas as pd

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK, README, BENCHMARKS = ROOT / "S6_Part2.ipynb", ROOT / "README.md", ROOT / "benchmarks" / "README.md"
CSV = ROOT / "benchmarks" / "accuracy.csv"
MISTAKES = ROOT / "benchmarks" / "mistakes.csv"
RUN = ["recipe", "split", "seed", "epochs"]  # what names a run
RESULT_HEADER = "| | test accuracy | runs | parameters | epochs |"
sys.path.insert(0, str(ROOT))  # the notebook's cells import helpers


def tagged(notebook, tag: str) -> list:
    """The notebook's cells that carry a tag, in order."""
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def load_definitions(path=NOTEBOOK) -> dict:
    """Run the cells tagged `definition` in an empty namespace; return it, with the networks and RECIPES."""
    module = types.ModuleType("definitions")  # a module, since dataclasses ask for the one they live in
    sys.modules[module.__name__] = module
    for cell in tagged(nbformat.read(path, as_version=4), "definition"):
        exec(compile(cell.source, f"{Path(path).name}: definition", "exec"), module.__dict__)
    return module.__dict__


def read(path: Path = CSV) -> pd.DataFrame:
    """The complete runs in accuracy.csv; one that was cut off while it was written is left out."""
    if not path.exists():
        return pd.DataFrame(columns=[*RUN, "epoch"])
    rows = pd.read_csv(path).drop_duplicates([*RUN, "epoch"], keep="last")
    return rows[rows.groupby(RUN)["epoch"].transform("count") == rows["epochs"]]


def study_results(rows: pd.DataFrame, definitions: dict) -> dict[str, dict]:
    """Accuracy at the last epoch by seed, for each recipe with complete test runs of its full length."""
    results = {}
    for name, recipe in definitions["RECIPES"].items():
        runs = rows[(rows["recipe"] == name) & (rows["split"] == "test") & (rows["epochs"] == recipe.epochs)]
        last = runs[runs["epoch"] == recipe.epochs].sort_values("seed")
        if len(last):
            results[name] = {"parameters": int(last["parameters"].iloc[0]), "epochs": recipe.epochs,
                             "accuracy": [round(value, 2) for value in last["test_accuracy"]],
                             "training": round(float(last["train_accuracy"].mean()), 2)}
    return results


def means_by_epoch(rows: pd.DataFrame, recipe: str, epochs=20) -> list[float]:
    """A recipe's test accuracy after each epoch, mean over the seeds."""
    runs = rows[(rows["recipe"] == recipe) & (rows["split"] == "test") & (rows["epochs"] == epochs)]
    return [round(float(mean), 2) for mean in runs.groupby("epoch")["test_accuracy"].mean()]


def hardest_images(recipe: str = "final", count: int = 20) -> list[tuple[int, int, int]]:
    """(test image, usual answer, number of seeds that got it wrong), most often wrong first."""
    if not MISTAKES.exists():
        return []
    rows = pd.read_csv(MISTAKES).drop_duplicates([*RUN, "image"], keep="last")
    rows = rows[(rows["recipe"] == recipe) & (rows["split"] == "test") & (rows["epochs"] == rows["epochs"].max())]
    answers = rows.groupby("image")["answer"].agg([lambda column: column.mode().iloc[0], "size"])
    answers = answers.sort_values("size", ascending=False, kind="stable").head(count)
    return [(int(image), int(answer), int(size)) for image, (answer, size) in zip(answers.index, answers.values)]


def study_text() -> str:
    """The study as the notebook carries it, in Python."""
    lines = ["STUDY = {"]
    lines += [f"    {name!r}: {result}," for name, result in study_results(read(), load_definitions()).items()]
    lines += ["}", "STUDY_BY_EPOCH = {"]
    for name in ("as submitted", "augmentation", "averaged weights", "final"):
        lines += textwrap.wrap(f"{name!r}: {means_by_epoch(read(), name)},", 115, initial_indent="    ",
                               subsequent_indent=" " * 8)
    lines += ["}", "# (test image, usual answer, how many seeds of the final recipe got it wrong)",
              *textwrap.wrap(f"STUDY_MISTAKES = {hardest_images()}", 115, subsequent_indent=" " * 18)]
    return "\n".join(lines).replace("'", '"')


def helpers_text() -> str:
    """The cell that carries helpers.py."""
    text = (ROOT / "helpers.py").read_text(encoding="utf-8")
    if "'''" in text:
        raise ValueError("helpers.py must not contain ''', which ends its copy in the notebook")
    return f"HELPERS = r'''{text}'''"


def mean_and_spread(accuracies: list[float]) -> str:
    """Mean ± standard deviation between seeds, in %."""
    return f"{statistics.mean(accuracies):.2f} ± {statistics.stdev(accuracies):.2f}%"


def stored_accuracy(notebook, name: str) -> float | None:
    """The last epoch's accuracy that the notebook's stored 20-epoch run of a recipe printed."""
    (cell,) = tagged(notebook, f"result-{name}")
    found = re.search(r"last epoch \(20\): ([\d.]+)%", "".join(output.get("text", "") for output in cell.outputs))
    return float(found[1]) if found else None


def result_table(notebook) -> str:
    """The table at the top of the notebook and of the README, in Markdown."""
    results = study_results(read(), load_definitions())
    lines = [RESULT_HEADER, "|---|---|---|---|---|", "| the brief, as reported | 99.28% | 1 | 19,866 | 20 |"]
    for name in ("as submitted", "final", "small"):
        if name in results:
            accuracies, size = results[name]["accuracy"], f"{results[name]['parameters']:,} | {results[name]['epochs']}"
            lines.append(f"| {name} | {mean_and_spread(accuracies)} | {len(accuracies)} | {size} |")
            if name != "small":
                lines.append(f"| {name}, stored run | {stored_accuracy(notebook, name.split()[-1])}% | 1 | {size} |")
    return "\n".join(lines)


def replaced(source: str, start: str, new: str, end: str) -> str:
    """Source with what stands from the line that begins with start up to the end mark replaced."""
    before, rest = source.split(start, 1)
    return before + new + rest[rest.index(end) + len(end):]


def with_step_results(text: str) -> str:
    """The list of steps with every Result line up to date."""
    results = study_results(read(), load_definitions())

    def line(found: re.Match) -> str:
        accuracies = results[found[2]]["accuracy"]
        return f"{found[1]}{mean_and_spread(accuracies)}, n = {len(accuracies)}; in training {results[found[2]]['training']}%"

    return re.sub(r"(\*\*\d+ · (.*?)\*\*\n- \*Target:\* .+\n- \*Result:\* ).*", line, text)


def refresh(notebook) -> None:
    """Bring the cells of the notebook that repeat other files up to date."""
    (helpers_cell,), (study_cell,), (top,), (steps,) = (tagged(notebook, tag) for tag in
                                                        ("helpers", "study", "top-table", "steps"))
    helpers_cell.source = replaced(helpers_cell.source, "HELPERS = r'''", helpers_text(), "'''")
    study_cell.source = replaced(study_cell.source, "STUDY = {", study_text() + "\n\n", "\n\n")
    top.source = replaced(top.source, RESULT_HEADER, result_table(notebook) + "\n\n", "\n\n")
    steps.source = with_step_results(steps.source)


def tables(notebook) -> list[str]:
    """All tables that the READMEs repeat, as they should stand."""
    import accuracy  # here, since they import this module
    import screening
    import speed
    made = [(speed.CSV, speed.speed_table), (speed.TRIALS, speed.trials_table), (speed.PROFILE, speed.profile_table)]
    names = list(load_definitions()["RECIPES"])
    return [result_table(notebook), *(accuracy.table(read(), names, split) for split in ("test", "validation")),
            screening.table(), speed.target_table(read()), *(table(pd.read_csv(path)) for path, table in made if path.exists())]


def refreshed_readme(path: Path, notebook) -> str:
    """A README's text with all its tables up to date; each is found by its first line."""
    text = path.read_text(encoding="utf-8")
    for table in tables(notebook):
        header = table.splitlines()[0]
        text = replaced(text, header, table + "\n\n", "\n\n") if header in text else text
    return text


def main() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    refresh(notebook)
    temporary = NOTEBOOK.with_suffix(f".{os.getpid()}")
    nbformat.write(notebook, temporary)
    os.replace(temporary, NOTEBOOK)
    for path in (README, BENCHMARKS):
        path.write_text(refreshed_readme(path, notebook), encoding="utf-8")
    print(f"{NOTEBOOK.name} and the READMEs now repeat helpers.py, the measurements and the stored run as they stand.")


if __name__ == "__main__":
    main()
