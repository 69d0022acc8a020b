"""Bring all that is made from other files up to date, in the order in which one thing is made from another.

It executes nothing: whether the notebook's outputs are those of today's code only its execution tells. By tags of the
notebook's cells: "carried" is the cell with the texts of helpers.py and lesson/, "image:NAME" one whose picture becomes
images/NAME.png, "page" the one that shows the page. In Markdown, what stands between <!-- made: NAME --> and
<!-- end --> is made here: tables (parts_of), and output:TAG, what a cell printed.
"""

import argparse
import base64
import html
import json
import re
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import nbformat
import pandas as pd
from PIL import Image

from benchmarks import speed, study
from lesson import page
from lesson.fields import count_multiplications
from lesson.recipes import RECIPES, WIDTHS, small
from lesson.results import markdown, read_results, runs_of, summary_table, table_of_the_bar

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "S6_Part2.ipynb"
CARRIED = ["helpers.py", *(f"lesson/{path.name}" for path in sorted((ROOT / "lesson").glob("[!.]*.*")))]


def numbers_of(runs: pd.DataFrame, recipe) -> dict:
    """What results.json says of a recipe, from its runs; accuracies (%) by seed, and the mean by epoch."""
    runs = runs.sort_values(["seed", "epoch"]).set_index("seed")
    one, five = (runs[runs["looks"] == looks] for looks in (1, 5))
    last = one[one["epoch"] == recipe.epochs]
    return {
        "parameters": int(last["parameters"].iloc[0]),
        "epochs": recipe.epochs,
        "multiplications": count_multiplications(recipe.network()),
        "last": last["test_accuracy"].to_dict(),
        "five_looks": five["test_accuracy"].to_dict(),
        "best": one["test_accuracy"].groupby("seed").max().to_dict(),
        "least_of_last_five": one["test_accuracy"][one["epoch"] > recipe.epochs - 5].groupby("seed").min().to_dict(),
        "epochs_to": {bar: epochs_to(one, float(bar)) for bar in ("99.0", "99.3", "99.4")},
        "by_epoch": one.groupby("epoch")["test_accuracy"].mean().round(2).tolist(),
        "training": round(last["train_accuracy"].mean(), 2),
    }


def epochs_to(runs: pd.DataFrame, bar: float) -> int | None:
    """The epoch from which more than half of the runs stay at an accuracy (%) or above; None where they never do."""
    last_below = runs["epoch"].where(runs["test_accuracy"] < bar, 0).groupby("seed").max()
    epoch = int(1 + last_below.quantile(0.5, interpolation="higher"))
    return epoch if epoch <= runs["epoch"].max() else None


def worst_loss(runs: pd.DataFrame) -> dict:
    """The run with the largest test loss of all epochs: its seed, its losses and accuracies by epoch."""
    one = runs[runs["looks"] == 1].sort_values("epoch")
    seed = int(one.loc[one["test_loss"].idxmax(), "seed"])
    return {"seed": seed, **one.loc[one["seed"] == seed, ["test_loss", "test_accuracy"]].round(3).to_dict("list")}


def hardest_images(mistakes: pd.DataFrame, count: int = 20) -> list[list[int]]:
    """The images that most runs get wrong with one look: image, usual wrong answer, number of runs."""
    wrong = mistakes[mistakes["looks"] == 1].drop_duplicates(["seed", "image"])
    found = wrong.groupby("image")["answer"].agg([lambda answers: answers.mode().iloc[0], "size"])
    return found.sort_values("size", ascending=False, kind="stable").head(count).reset_index().values.tolist()


def results(rows: pd.DataFrame, mistakes: pd.DataFrame) -> dict:
    """The study's numbers that the notebook shows. Ends, and names them, where recipes have no runs."""
    missing = [name for name in RECIPES if not (rows["recipe"] == name).any()]
    if missing:
        raise SystemExit(f"no run of {', '.join(missing)} as they are now: run python -m benchmarks.study")
    found = {name: numbers_of(rows[rows["recipe"] == name], recipe) for name, recipe in RECIPES.items()}
    mistakes = mistakes.merge(rows[study.RUN].drop_duplicates())  # those of other runs, such as short ones, go
    return {
        "brief": 99.28,
        "recipes": found,
        "dead_digit": worst_loss(rows[rows["recipe"] == "as submitted"]),
        "hardest": hardest_images(mistakes[mistakes["recipe"] == "final"]),
    }


def stored(cell, kind: str) -> str | None:
    """What a cell's last output of a kind holds, such as text/html."""
    found = [output.data[kind] for output in cell.get("outputs", []) if kind in output.get("data", {})]
    return found[-1] if found else None


def parts_of(cells: dict) -> dict[str, str]:
    """All made parts of Markdown, by name."""
    found, seconds = read_results(), pd.read_csv(speed.CSV).set_index("way")
    widths = [small(width).name for width in WIDTHS]  # the widest first
    passing = [name for name in widths if runs_of(found, name).mean() > found["brief"]]
    parts = {
        "table": markdown(summary_table(found, ["as submitted", "final", "quick", passing[-1]])),
        "bar": markdown(table_of_the_bar(found, ["as submitted", "final", *widths[:4]])),
        "study": markdown(study.table(study.todays(study.read_runs()))),
        "speed": markdown(speed.table(seconds)),
        "times": markdown(speed.table_of_times(found, seconds)),
    }
    for tag, cell in cells.items():
        texts = [output.get("text", output.get("data", {}).get("text/plain", "")) for output in cell.get("outputs", [])]
        parts[f"output:{tag}"] = "```text\n{}\n```".format("".join(texts).strip("\n"))
    return parts


def with_parts(text: str, parts: dict) -> str:
    """Markdown in which every made part is as it must be."""
    block = re.compile(r"(<!-- made: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
    return block.sub(lambda found: f"{found[1]}{parts[found[2]]}\n{found[3]}", text)


def page_output(words: str) -> str:
    """The page as the notebook shows it: over the words and images/page.png, which show where scripts don't run."""
    document = (ROOT / "docs" / "index.html").read_text(encoding="utf-8")
    picture = base64.b64encode((ROOT / "images" / "page.png").read_bytes()).decode()
    size = "max-width: 100%; max-height: 880px"  # no larger than the frame
    still = f'<br><img style="{size}" alt="The page, with a 4" src="data:image/png;base64,{picture}"></p>'
    return page.frame(document, words).replace("</p>", still, 1)


def results_json() -> bytes:
    rows = study.todays(study.read_runs())
    mistakes = pd.read_csv(study.mistakes_of(study.ACCURACY), dtype={"fingerprint": str})
    return (json.dumps(results(rows, mistakes), indent=0) + "\n").encode()


def notebook_file(notebook: nbformat.NotebookNode, cells: dict) -> bytes:
    texts = [f'FILES["{name}"] = {(ROOT / name).read_text(encoding="utf-8")!r}' for name in CARRIED]
    between = re.compile(r"(?<=\n# fmt: off\n).*(?=\n# fmt: on\n)", re.DOTALL)
    cells["carried"].source = between.sub(lambda _: "\n".join(texts), cells["carried"].source)
    for output in cells["page"].outputs:
        output.data["text/html"] = page_output(output.data["text/plain"])
    parts = parts_of(cells)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = with_parts(cell.source, parts)
    return (nbformat.writes(notebook) + "\n").encode()


def made_files() -> list[tuple[str, Callable[[], bytes]]]:
    """Every made file and the function that makes it, in the order in which they need each other."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    cells = {tag: cell for cell in notebook.cells for tag in cell.metadata.get("tags", [])}
    files = [("lesson/results.json", results_json)]
    if shown := stored(cells["page"], "text/html"):  # else it waits for an execution
        files.append(("docs/index.html", lambda: page.render(page.data_of(html.unescape(shown))).encode()))
    files.append((NOTEBOOK.name, partial(notebook_file, notebook, cells)))
    for tag, cell in cells.items():
        if tag.startswith("image:") and (picture := stored(cell, "image/png")):
            files.append((f"images/{tag.removeprefix('image:')}.png", partial(base64.b64decode, picture)))
    for name in ("README.md", "benchmarks/README.md"):
        text = (ROOT / name).read_text(encoding="utf-8")
        files.append((name, lambda text=text: with_parts(text, parts_of(cells)).encode()))
    return files


def photograph(document: str) -> None:
    """Make images/page.png, the still of the page. Needs Chromium."""
    from playwright.sync_api import sync_playwright

    still = ROOT / "images" / "page.png"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        opened = browser.new_page(viewport={"width": 1000, "height": 960})
        opened.set_content(document)
        opened.locator("input[name=network]").first.check()  # as submitted
        opened.evaluate("keep({layer: 7, map: 4, row: 6, column: 6})")  # in conv3
        opened.locator("#needed", has_text=re.compile("Of the maps|Whichever")).wait_for()  # it takes a while
        opened.screenshot(path=still)
    Image.open(still).convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=2).save(still, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; name what is stale, and exit with 1")
    options, stale = parser.parse_args(), []
    for name, make in made_files():
        path, content = ROOT / name, make()
        before = path.read_bytes() if path.exists() else b""
        if before.replace(b"\r\n", b"\n") == content.replace(b"\r\n", b"\n"):  # git may have changed line ends
            continue
        stale.append(name)
        if name == "docs/index.html" and not options.check:
            photograph(content.decode())  # first: where there is no browser, the page stays stale
        if not options.check:
            path.write_bytes(content)
    print("\n".join(stale) or "everything is as it should be")
    sys.exit(1 if options.check and stale else 0)


if __name__ == "__main__":
    main()
