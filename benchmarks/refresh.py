"""Bring all that is made from other files up to date, in the order in which one thing is made from another.

It doesn't execute: whether the notebook's outputs are those of today's code only its execution tells. By tags of the
notebook's cells: "carried" is the cell with the texts of helpers.py and lesson/, "image:NAME" one whose picture becomes
images/NAME.png, "page" the one that shows the page. In Markdown, what stands between <!-- made: NAME --> and
<!-- end --> is made here: table, study, speed, output:TAG, what a cell printed, and code:CLASS, a network's listing.
"""

import argparse
import base64
import html
import inspect
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
from lesson import networks, page
from lesson.fields import count_multiplications
from lesson.recipes import RECIPES
from lesson.results import read_results, summary_table

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "S6_Part2.ipynb"
CARRIED = ["helpers.py", *(f"lesson/{path.name}" for path in sorted((ROOT / "lesson").glob("[!.]*.*")))]
CARRYING_CELL = """\
# @title The files that this notebook imports: laid beside it where they are missing (as in Colab)
import importlib
from pathlib import Path

FILES = {}
# fmt: off
{texts}
# fmt: on
for name, text in FILES.items():
    path = Path(name)
    if not path.exists():
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="\\n")
    elif path.read_text(encoding="utf-8", errors="replace") != text:
        print(f"{path} differs from the one that this notebook was made with, and is used as it is")
importlib.invalidate_caches()"""


# ---- From the study: results.json and tables


def by_seed(runs: pd.Series) -> dict[int, float]:
    """Accuracies (%) by seed, rounded to one image in 10,000."""
    return {int(seed): round(accuracy, 2) for seed, accuracy in runs.sort_index().items()}


def numbers_of(runs: pd.DataFrame, recipe) -> dict:
    """What results.json says of a recipe, from its runs: a row an epoch, and those with five looks."""
    one, five = (runs[runs["looks"] == looks].set_index("seed") for looks in (1, 5))
    last = one[one["epoch"] == recipe.epochs]
    return {
        "parameters": int(last["parameters"].iloc[0]),
        "epochs": recipe.epochs,
        "multiplications": count_multiplications(recipe.network()),
        "last": by_seed(last["test_accuracy"]),
        "five_looks": by_seed(five["test_accuracy"]),
        "best": by_seed(one["test_accuracy"].groupby("seed").max()),
        "by_epoch": one.groupby("epoch")["test_accuracy"].mean().round(2).tolist(),
        "training": round(last["train_accuracy"].mean(), 2),
    }


def worst_loss(runs: pd.DataFrame) -> dict:
    """The run with the largest test loss of all epochs: its seed, its losses and accuracies by epoch."""
    one = runs[runs["looks"] == 1]
    seed = int(one.loc[one["test_loss"].idxmax(), "seed"])
    run = one[one["seed"] == seed].sort_values("epoch")
    return {"seed": seed, **{column: run[column].round(3).tolist() for column in ("test_loss", "test_accuracy")}}


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


def as_json(value) -> str:
    """JSON with a line for each field, and each list or table of numbers on one line."""
    innermost = re.compile(r"\[[^][]*\]|\{[^{}\[]*\}")
    return innermost.sub(lambda numbers: " ".join(numbers[0].split()), json.dumps(value, indent=1)) + "\n"


# ---- From the notebook


def stored(cell, kind: str) -> list[str]:
    """What a cell's outputs hold of a kind, such as text/html."""
    return [output.data[kind] for output in cell.get("outputs", []) if kind in output.get("data", {})]


def listings(cells: dict) -> dict[str, str]:
    """Listings for Markdown, by name: what tagged cells printed, and classes of lesson/networks.py."""
    found = {}
    for tag, cell in cells.items():
        texts = [output.get("text", output.get("data", {}).get("text/plain", "")) for output in cell.get("outputs", [])]
        found[f"output:{tag}"] = "```text\n{}\n```".format("".join(texts).strip("\n"))
    for name, cls in inspect.getmembers(networks, inspect.isclass):
        if cls.__module__ == networks.__name__:
            found[f"code:{name}"] = f"```python\n{inspect.getsource(cls)}```"
    return found


def with_parts(text: str, parts: dict) -> str:
    """Markdown in which every made part is as it must be."""
    block = re.compile(r"(<!-- made: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
    return block.sub(lambda found: f"{found[1]}{parts[found[2]]}\n{found[3]}", text)


def with_still(output: str) -> str:
    """The page's output with images/page.png under its frame: it shows where scripts don't run, as on GitHub."""
    picture = base64.b64encode((ROOT / "images" / "page.png").read_bytes()).decode()
    size = "max-width: 100%; max-height: 880px"  # no larger than the frame
    still = f'<br><img style="{size}" alt="The page, with a 4" src="data:image/png;base64,{picture}"></p>'
    return re.sub("(<br><img [^>]*>)?</p>", still, output, count=1)


# ---- Each made file


def results_json() -> bytes:
    rows = study.todays(study.read_runs())
    return as_json(results(rows, pd.read_csv(study.mistakes_of(study.ACCURACY), dtype={"fingerprint": str}))).encode()


def read_cells() -> tuple[nbformat.NotebookNode, dict]:
    """The notebook, and its tagged cells by tag."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    return notebook, {tag: cell for cell in notebook.cells for tag in cell.metadata.get("tags", [])}


def page_document() -> bytes:
    """The page, made again from page.html and the networks that the notebook's output holds."""
    output = stored(read_cells()[1]["page"], "text/html")[0]
    document = html.unescape(re.search(r'srcdoc="([^"]*)"', output)[1])
    return page.render(page.data_of(document)).encode()


def notebook_file() -> bytes:
    notebook, cells = read_cells()
    texts = [f'FILES["{name}"] = {(ROOT / name).read_text(encoding="utf-8")!r}' for name in CARRIED]
    cells["carried"].source = CARRYING_CELL.replace("{texts}", "\n".join(texts))
    document = (ROOT / "docs" / "index.html").read_text(encoding="utf-8")
    for output in cells["page"].outputs:
        output.data["text/html"] = with_still(page.frame(document, output.data["text/plain"]))
    parts = parts_of(cells)
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = with_parts(cell.source, parts)
    return (nbformat.writes(notebook) + "\n").encode()


def parts_of(cells: dict) -> dict[str, str]:
    """All made parts of Markdown, by name."""
    tables = {
        "table": summary_table(read_results()),
        "study": study.table(study.todays(study.read_runs())),
        "speed": speed.table(pd.read_csv(speed.CSV)),
    }
    return tables | listings(cells)


def picture(tag: str) -> bytes:
    return base64.b64decode(stored(read_cells()[1][tag], "image/png")[-1])


def text_file(name: str) -> bytes:
    return with_parts((ROOT / name).read_text(encoding="utf-8"), parts_of(read_cells()[1])).encode()


def made_files() -> list[tuple[str, Callable[[], bytes]]]:
    """Every made file and the function that makes it, in the order in which they need each other."""
    cells = read_cells()[1]
    tags = [tag for tag, cell in cells.items() if tag.startswith("image:") and stored(cell, "image/png")]
    is_executed = bool(stored(cells["page"], "text/html"))
    return [
        ("lesson/results.json", results_json),
        *([("docs/index.html", page_document)] if is_executed else []),
        (NOTEBOOK.name, notebook_file),
        *[(f"images/{tag.removeprefix('image:')}.png", partial(picture, tag)) for tag in tags],
        ("README.md", partial(text_file, "README.md")),
        ("benchmarks/README.md", partial(text_file, "benchmarks/README.md")),
    ]


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
        opened.wait_for_timeout(500)
        opened.screenshot(path=still)
    Image.open(still).convert("RGB").quantize(128, dither=Image.Dither.NONE).save(still, optimize=True)


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
        if options.check:
            continue
        if name == "docs/index.html":  # first: where there is no browser, the page stays stale
            photograph(content.decode())
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    print("\n".join(stale) or "everything is as it should be")
    sys.exit(1 if options.check and stale else 0)


if __name__ == "__main__":
    main()
