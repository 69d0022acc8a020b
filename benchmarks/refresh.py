"""Bring all that is made from other files up to date.

    python benchmarks/refresh.py

From the notebook's cells: helpers.py, benchmarks/recipes.py and benchmarks/page.py. From benchmarks/*.csv and the notebook's stored run:
the numbers in the notebook's cells and the tables of both READMEs. Run it after changing a helper, a network or a
recipe in the notebook, after a study, and after executing the notebook.
"""

import base64
import re
import subprocess
import sys
import textwrap

import nbformat
import pandas as pd
import torch

import accuracy
import export
import screening
import speed
import speed_trials
from recipes import AS_SUBMITTED, FAST, FINAL, RECIPES, SMALL, Net, Recipe
from results import (
    BENCHMARKS,
    NOTEBOOK,
    README,
    ROOT,
    TARGET,
    by_epoch,
    hardest_images,
    last_epochs,
    mean_and_spread,
    read_runs,
)

from helpers import read_mnist, receptive_field, trace_layers

RESULT_HEADER = "| | test accuracy | runs | parameters | multiplications | epochs |"
DOCUMENTS = (README, BENCHMARKS / "README.md")


def tagged(notebook, tag: str):
    """The notebook's only cell that carries a tag."""
    (cell,) = [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]
    return cell


def stored_accuracy(notebook, recipe: Recipe) -> str:
    """The last epoch's accuracy of the notebook's stored run of a recipe, in %."""
    cell = tagged(notebook, f"result-{recipe.name.split()[-1]}")
    text = "".join(output.get("text", "") for output in cell.outputs)
    found = re.search(rf"last epoch \({recipe.epochs}\): ([\d.]+)%", text)
    if not found:
        raise ValueError(f"the notebook stores no run of {recipe.name!r} of {recipe.epochs} epochs: execute it whole")
    return found[1]


def parameters_of(recipe) -> int:
    """The number of parameters of a recipe's network."""
    return sum(p.numel() for p in recipe.network().parameters())


def multiplications_of(recipe) -> str:
    """How many multiplications a recipe's network makes for one image, in millions."""
    return f"{sum(layer.multiplications for layer in trace_layers(recipe.network())) / 1e6:.2f} million"


def study_cell(rows: pd.DataFrame) -> str:
    """The study's accuracies, by recipe and seed, in Python."""
    lines = ["STUDY = {"]
    for recipe in RECIPES.values():
        last = last_epochs(rows, recipe.name, recipe.epochs)
        test = [round(value, 2) for value in last["test_accuracy"]]
        if list(last["seed"]) != list(range(1, len(last) + 1)):
            raise ValueError(f"{recipe.name}: the seeds are {list(last['seed'])}, and differences pair them by place")
        lines.append(f'    "{recipe.name}": {{"test": {test}, "training": {last["train_accuracy"].mean():.2f}}},')
    losses = rows[rows["recipe"] == "as submitted"]["test_loss"]
    return "\n".join(
        [*lines, "}", f"WORST_LOSS = {losses.max():.3f}  # of as submitted, on the test images after any epoch"]
    )


def by_epoch_cell(rows: pd.DataFrame) -> str:
    """Mean test accuracy by epoch of the recipes that the notebook compares so."""
    lines = ["BY_EPOCH = {"]
    for name in ("as submitted", "augmentation", "averaged weights"):
        means = [round(float(mean), 2) for mean in by_epoch(rows, name)]
        text = f'"{name}": {means},'
        lines += textwrap.wrap(text, 95, initial_indent="    ", subsequent_indent=" " * 8)
    return "\n".join([*lines, "}  # fmt: skip"])


def mistakes_text() -> str:
    """The images that most seeds get wrong, in Python."""
    images = hardest_images()
    rows = [", ".join(map(str, images[i : i + 6])) for i in range(0, len(images), 6)]
    return "HARDEST = [" + ",\n           ".join(rows) + "]  # fmt: skip"


def digit_text() -> str:
    """The first training image as text: two rows of pixels to a line, five shades."""
    pixels = read_mnist(ROOT / "data")[0][0].float()
    shades = (pixels.view(14, 2, 28).mean(1) / 255 * 4).ceil().clamp(0, 4).to(torch.int64)
    lines = ["".join(" ░▒▓█"[shade] for shade in row).rstrip() for row in shades[2:12]]
    return "```text\n" + "\n".join(lines) + "\n```"


def result_table(notebook, rows: pd.DataFrame) -> str:
    """The table at the top of the notebook and of the README, in Markdown."""
    cost = multiplications_of(AS_SUBMITTED)
    lines = [
        RESULT_HEADER,
        "|---|---|---|---|---|---|",
        f"| the brief, as reported | {TARGET}% | 1 | 19,866 | {cost} | 20 |",
    ]
    for recipe in (AS_SUBMITTED, FINAL, SMALL, FAST):
        accuracies = last_epochs(rows, recipe.name, recipe.epochs)["test_accuracy"]
        size = f"{parameters_of(recipe):,} | {multiplications_of(recipe)} | {recipe.epochs}"
        lines.append(f"| {recipe.name} | {mean_and_spread(accuracies)} | {len(accuracies)} | {size} |")
        if recipe is not SMALL:
            lines.append(f"| {recipe.name}, stored run | {stored_accuracy(notebook, recipe)}% | 1 | {size} |")
    return "\n".join(lines)


def replaced(source: str, start: str, new: str, end: str) -> str:
    """Source with what stands from the start mark up to and with the end mark replaced."""
    before, rest = source.split(start, 1)
    return before + new + rest[rest.index(end) + len(end) :]


def refresh(notebook) -> None:
    """Bring the notebook's cells that repeat other files up to date."""
    rows = read_runs()
    study, epochs, mistakes = (tagged(notebook, tag) for tag in ("study", "by-epoch", "mistakes"))
    study.source = study.source.split("\n", 1)[0] + "\n" + study_cell(rows)
    epochs.source = epochs.source.split("\n", 1)[0] + "\n" + by_epoch_cell(rows)
    mistakes.source = replaced(mistakes.source, "HARDEST = ", mistakes_text() + "\n\n", "\n\n")
    top, digit = tagged(notebook, "top-table"), tagged(notebook, "digit")
    top.source = replaced(top.source, RESULT_HEADER, result_table(notebook, rows) + "\n\n", "\n\n")
    digit.source = replaced(digit.source, "```text", digit_text(), "\n```")


def listing(cell_start: str, notebook) -> str:
    """A cell of the notebook as a Markdown listing, without the line that marks it."""
    (source,) = [cell.source for cell in notebook.cells if cell_start in cell.source and cell.cell_type == "code"]
    return f"```python\n{source[source.index(cell_start) :]}\n```"


def output_of(cell_start: str, notebook) -> str:
    """What a cell of the notebook printed, as a Markdown listing."""
    (cell,) = [cell for cell in notebook.cells if cell.cell_type == "code" and cell_start in cell.source]
    return "```text\n" + "".join(output.get("text", "") for output in cell.outputs).strip("\n") + "\n```"


def field_table() -> str:
    """The brief's layers with what each puts out and sees, and what the brief says, in Markdown."""
    table = receptive_field(Net())
    lines = [
        "| layer | kernel | stride | padding | puts out | sees | the brief says |",
        "|---|---|---|---|---|---|---|",
    ]
    for row, said in zip(table.itertuples(), [3, 5, 9, 13, 21, 29, 45], strict=True):
        size, field = f"{row.output_size}×{row.output_size}", f"{row.receptive_field}×{row.receptive_field}"
        lines.append(
            f"| {row.layer} | {row.kernel} | {row.stride} | {row.padding} | {size} | {field} | {said}×{said} |"
        )
    return "\n".join(lines)


def made_parts(notebook) -> dict[str, str]:
    """What the READMEs repeat, by the name in the comments that stand around it there."""
    rows, names = read_runs(), list(RECIPES)
    return {
        "results": result_table(notebook, rows),
        "steps": accuracy.table(rows, names),
        "screening": screening.table(screening.read()),
        "speed": speed.speed_table(pd.read_csv(speed.CSV)),
        "hurried": speed.hurried_table(pd.read_csv(speed.HURRIED)),
        "seconds": speed.target_table(rows, pd.read_csv(speed.CSV)),
        "trials": speed_trials.trials_table(pd.read_csv(speed_trials.TRIALS)),
        "network": listing("class Net(nn.Module)", notebook),
        "summary": output_of("\nsummary(", notebook),
        "fields": field_table(),
        "profile": speed_trials.profile_table(pd.read_csv(speed_trials.PROFILE)),
    }


def refreshed_readme(text: str, parts: dict[str, str]) -> str:
    """A README's text with everything between <!-- name --> and <!-- / --> up to date."""

    def part(found: re.Match) -> str:
        return f"<!-- {found[1]} -->\n{parts[found[1]]}\n<!-- / -->"

    return re.sub(r"<!-- ([\w ]+) -->\n.*?\n?<!-- / -->", part, text, flags=re.DOTALL)


def main() -> None:
    if export.main():  # this process has the modules as they were
        subprocess.run([sys.executable, __file__], check=True)
        return
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    refresh(notebook)
    export.write_if_new(NOTEBOOK, nbformat.writes(notebook) + "\n")
    still = tagged(notebook, "page").outputs[0]["data"]["image/png"]
    (ROOT / "images" / "page.png").write_bytes(base64.b64decode(still))
    parts = made_parts(notebook)
    for path in DOCUMENTS:
        export.write_if_new(path, refreshed_readme(path.read_text(encoding="utf-8"), parts))
    print(f"{NOTEBOOK.name} and the READMEs repeat the measurements and the stored run as they stand.")


if __name__ == "__main__":
    main()
