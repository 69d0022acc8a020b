"""Bring all that is made from other files up to date, in the order in which one thing is made from another.

    python -m benchmarks.refresh            after a change of helpers.py, lesson/ or a recipe, a study, an execution
    python -m benchmarks.refresh --check    write nothing; name what is stale, and exit with 1

It doesn't execute: whether the notebook's outputs, and the page and pictures made of them, are those of today's code
only its execution tells. By tags of the notebook's cells: "recipes" marks definitions that make benchmarks/recipes.py, "carried" is the cell
with the texts of helpers.py and lesson/, "image:NAME" one whose picture becomes images/NAME.png, "page" the one that
shows the page: docs/index.html, and its photograph, images/page.png, which the output holds too. In Markdown, what stands between <!-- made: NAME --> and <!-- end --> is made here:
table, study, speed, or code:TAG and output:TAG, a listing of a cell and of what it printed.
"""

import base64
import html
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pandas as pd
from PIL import Image

from lesson.fields import count_multiplications

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = "S6_Part2.ipynb"
CARRIED = ["helpers.py", *(f"lesson/{name}.py" for name in ("fields", "figures", "page", "questions", "recipe"))]
CARRIED += ["lesson/page.html", "lesson/results.json"]
RECIPES_HEAD = f'''# Made from the cells of {NOTEBOOK} by benchmarks/refresh.py: change them there, not here.
"""The lesson's networks, and the recipes that train them."""
'''
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


def recipes(sources: list[str]) -> str:
    """The module of all marked cells: their imports, which ruff sorts and merges, then their definitions."""
    an_import = re.compile(r"^(?:from [\w.]+ )?import (?:\([^)]*\)|.*)\n?", re.MULTILINE)
    source = "\n\n\n".join(sources)
    text = "\n".join([RECIPES_HEAD, *an_import.findall(source), an_import.sub("", source)])
    for command in (["check", "--quiet", "--select=I,F401,F821", "--fix"], ["format"]):  # F821: an unknown name
        ruff = [sys.executable, "-m", "ruff", *command, "--stdin-filename=benchmarks/recipes.py", "-"]
        text = subprocess.run(ruff, cwd=ROOT, input=text, stdout=subprocess.PIPE, encoding="utf-8", check=True).stdout
    return text


def results(rows: pd.DataFrame, mistakes: pd.DataFrame, speeds: pd.DataFrame, known: dict) -> dict:
    """The study's numbers that the notebook shows. known: the recipes by name; the other runs are older records."""
    found, measured = {}, set(rows["recipe"])
    for name in [name for name in known if name in measured] + sorted(measured - set(known)):
        epochs = known[name].epochs if name in known else 20
        runs = rows[(rows["recipe"] == name) & (rows["epochs"] == epochs)].sort_values(["seed", "epoch"])
        one, five = runs[runs["looks"] == 1], runs[runs["looks"] == 5]
        last = one[one["epoch"] == epochs]
        found[name] = {"parameters": int(last["parameters"].iloc[0]), "epochs": epochs}
        if name in known:
            found[name]["multiplications"] = count_multiplications(known[name].network())
        found[name]["last"] = last["test_accuracy"].round(2).tolist()
        if len(five):
            found[name]["five_looks"] = five["test_accuracy"].round(2).tolist()
        found[name]["best"] = one.groupby("seed")["test_accuracy"].max().round(2).tolist()
        found[name]["by_epoch"] = one.groupby("epoch")["test_accuracy"].mean().round(2).tolist()
        found[name]["training"] = round(last["train_accuracy"].mean(), 2)
    wrong = mistakes[(mistakes["recipe"] == "final") & (mistakes["looks"] == 1)].drop_duplicates()
    hardest = wrong.groupby("image")["answer"].agg([lambda answers: answers.mode().iloc[0], "size"])
    hardest = hardest.sort_values("size", ascending=False, kind="stable").head(20).reset_index().values.tolist()
    seconds = speeds.set_index("way")["seconds"]
    pairs = [("ours", "floor"), ("fast", "official epoch"), ("ours", "official epoch")]
    speed = {f"{one} / {other}": round(seconds[one] / seconds[other], 2) for one, other in pairs}
    submitted = rows[(rows["recipe"] == "as submitted") & (rows["looks"] == 1) & (rows["epochs"] == 20)]
    worst = submitted[submitted["seed"] == submitted.loc[submitted["test_loss"].idxmax(), "seed"]]
    dead = {column: worst.sort_values("epoch")[column].round(3).tolist() for column in ("test_loss", "test_accuracy")}
    return {"brief": 99.28, "recipes": found, "dead_digit": dead, "hardest": hardest, "speed": speed}


def as_json(value) -> str:
    """JSON with a line for each field, and each list of numbers on one line."""
    return re.sub(r"\[[^][]*\]", lambda numbers: " ".join(numbers[0].split()), json.dumps(value, indent=1)) + "\n"


def main_table(numbers: dict) -> str:
    """The Markdown table of five rows: what was reported, and what was measured."""
    found = numbers["recipes"]
    lines = [
        "| | test accuracy | with five looks | runs | parameters | million multiplications (five looks) | epochs |",
        "|---|---|---|---|---|---|---|",
        f"| the brief, as reported | {numbers['brief']}% | | 1 | 19,866 | 0.77 | 20 |",
    ]
    for name in ("as submitted", "final", "small", "fast"):
        run = found[name]
        one, five = pd.Series(run["last"]), pd.Series(run.get("five_looks", []), dtype=float)
        looks = f"{five.mean():.2f} ± {five.std():.2f}%" if len(five) else ""
        cost = f"{run['multiplications'] / 1e6:.2f}" + (f" ({run['multiplications'] / 2e5:.2f})" if len(five) else "")
        size = f"{len(one)} | {run['parameters']:,} | {cost} | {run['epochs']}"
        lines.append(f"| {name} | {one.mean():.2f} ± {one.std():.2f}% | {looks} | {size} |")
    return "\n".join(lines)


def shown(cell, kind: str) -> list[str]:
    """What a cell's outputs store of a kind, such as text/html."""
    return [output.data[kind] for output in cell.get("outputs", []) if kind in output.get("data", {})]


def parts_of(cell, tag: str) -> dict:
    """A tagged cell's source and what it printed, as listings for Markdown."""
    texts = [output.get("text", output.get("data", {}).get("text/plain", "")) for output in cell.get("outputs", [])]
    printed = "".join(texts).strip("\n")
    return {f"code:{tag}": f"```python\n{cell.source}\n```", f"output:{tag}": f"```text\n{printed}\n```"}


def with_parts(text: str, parts: dict) -> str:
    """Markdown in which every made part is as it must be."""
    block = re.compile(r"(<!-- made: (\S+) -->\n).*?(<!-- end -->)", re.DOTALL)
    return block.sub(lambda found: f"{found[1]}{parts[found[2]]}\n{found[3]}", text)


def with_still(page: str) -> str:
    """The page's output with images/page.png under its frame: it shows where scripts don't run, as on GitHub."""
    picture = base64.b64encode((ROOT / "images" / "page.png").read_bytes()).decode()
    size = "max-width: 100%; max-height: 880px"  # no larger than the frame
    still = f'<br><img style="{size}" alt="The page, with a 4" src="data:image/png;base64,{picture}"></p>'
    return re.sub("(<br><img [^>]*>)?</p>", still, page, count=1)


def everything():
    """Each made file: its path from the root, and what it must hold. Later ones are made from earlier ones."""
    notebook = nbformat.read(ROOT / NOTEBOOK, as_version=4)
    tagged = [(tag, cell) for cell in notebook.cells for tag in cell.metadata.get("tags", [])]
    yield "benchmarks/recipes.py", recipes([cell.source for tag, cell in tagged if tag == "recipes"]).encode()
    from benchmarks import recipes as made  # only now: they import the recipes as they were just made
    from benchmarks import speed, study

    rows, speeds = study.read_runs(), pd.read_csv(speed.CSV)
    numbers = results(rows, pd.read_csv(study.MISTAKES), speeds, made.RECIPES)
    yield "lesson/results.json", as_json(numbers).encode()
    parts = {"table": main_table(numbers), "study": study.table(rows), "speed": speed.table(speeds)}
    for tag, cell in tagged:
        parts |= parts_of(cell, tag)
    page = re.search(r'srcdoc="([^"]*)"', "".join(shown(dict(tagged)["page"], "text/html")))
    if page:  # not yet, where it wasn't executed
        yield "docs/index.html", html.unescape(page[1]).encode()
    texts = [f'FILES["{name}"] = {(ROOT / name).read_text(encoding="utf-8")!r}' for name in CARRIED]
    dict(tagged)["carried"].source = CARRYING_CELL.replace("{texts}", "\n".join(texts))
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            cell.source = with_parts(cell.source, parts)
    for output in dict(tagged)["page"].outputs:
        output.data["text/html"] = with_still(output.data["text/html"])
    yield NOTEBOOK, (nbformat.writes(notebook) + "\n").encode()
    for tag, cell in tagged:
        if tag.startswith("image:") and shown(cell, "image/png"):
            yield f"images/{tag.removeprefix('image:')}.png", base64.b64decode(shown(cell, "image/png")[-1])
    for name in ("README.md", "benchmarks/README.md"):
        yield name, with_parts((ROOT / name).read_text(encoding="utf-8"), parts).encode()


def photograph(document: str) -> None:
    """Make images/page.png, the still of the page. Needs Chromium."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"))
        page = browser.new_page(viewport={"width": 1000, "height": 960})
        page.set_content(document)
        page.wait_for_timeout(500)
        page.evaluate("keep({layer: 11, map: 4, row: 6, column: 6})")  # in residual2 of final
        page.wait_for_timeout(500)
        page.screenshot(path=ROOT / "images" / "page.png")
    picture = Image.open(ROOT / "images" / "page.png").convert("RGB")
    picture.quantize(64, dither=Image.Dither.NONE).save(ROOT / "images" / "page.png", optimize=True)


def main() -> None:
    check, stale = "--check" in sys.argv[1:], []
    for name, content in everything():
        path = ROOT / name
        before = path.read_bytes() if path.exists() else b""
        if before.replace(b"\r\n", b"\n") != content.replace(b"\r\n", b"\n"):  # git may have changed line ends
            stale.append(name)
            if check:
                continue
            if name == "docs/index.html":  # first: where there is no browser, the page stays stale
                photograph(content.decode())
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
    print("\n".join(stale) or "everything is as it should be")
    sys.exit(1 if check and stale else 0)


if __name__ == "__main__":
    main()
