"""S6_Part2.ipynb: what is made from it, what it repeats, what it stores. (nbval runs it; test_alone.py, too.)"""

import copy
import importlib
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest

import export
import refresh
import speed
from recipes import AS_SUBMITTED, FAST, FINAL, RECIPES
from results import BENCHMARKS, NOTEBOOK, README, ROOT, TARGET, by_epoch, last_epochs, read_runs

BRIEF_SUMMARY = """
Conv2d-1 [-1, 4, 28, 28] 40
BatchNorm2d-2 [-1, 4, 28, 28] 8
Dropout2d-3 [-1, 4, 28, 28] 0
Conv2d-4 [-1, 16, 13, 13] 592
BatchNorm2d-5 [-1, 16, 13, 13] 32
Dropout2d-6 [-1, 16, 13, 13] 0
Conv2d-7 [-1, 16, 13, 13] 2,320
BatchNorm2d-8 [-1, 16, 13, 13] 32
MaxPool2d-9 [-1, 16, 6, 6] 0
Dropout2d-10 [-1, 16, 6, 6] 0
Conv2d-11 [-1, 32, 6, 6] 4,640
BatchNorm2d-12 [-1, 32, 6, 6] 64
Conv2d-13 [-1, 32, 3, 3] 9,248
Conv2d-14 [-1, 10, 1, 1] 2,890
"""
COMMAND = "run: python benchmarks/refresh.py"


def code_of(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def prose_of(notebook) -> str:
    return "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")


def text_of(cell) -> str:
    """All text that a cell's outputs store."""
    return "".join(output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in cell.outputs)


# ---------------------------------------------------------------- one source


def test_the_modules_are_what_the_notebook_defines(notebook):
    texts, _ = export.module_texts(notebook)
    for name, text in texts.items():
        assert (ROOT / name).read_bytes().replace(b"\r\n", b"\n") == text.encode(), COMMAND
        assert text.startswith("# Made from the cells of S6_Part2.ipynb")


def test_it_repeats_the_other_files_as_they_stand(notebook):
    fresh = copy.deepcopy(notebook)
    refresh.refresh(fresh)
    for cell, expected in zip(notebook.cells, fresh.cells):
        assert cell.source == expected.source, COMMAND
    parts, shown = refresh.made_parts(notebook), ""
    for path in refresh.DOCUMENTS:
        text = path.read_text(encoding="utf-8")
        assert text == refresh.refreshed_readme(text, parts), COMMAND
        shown += text
    assert set(re.findall(r"<!-- ([\w ]+) -->", shown)) == set(parts)


def small_notebook(*sources) -> nbformat.NotebookNode:
    return nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source) for source in sources])


def test_only_definitions_of_marked_cells_are_exported():
    texts, _ = export.module_texts(
        small_notebook(
            "import math\nimport os as system\nfrom pathlib import Path, PurePath",
            "# saved in helpers.py\n# said above\nSIZE = math.pi\n\n\ndef area(r):\n    return SIZE * r  # in place\n\n\nprint(area(2))",
            "def not_this():\n    pass",
            "# @title Machinery – saved in benchmarks/recipes.py\nclass Circle:\n    path = Path(system.sep)\n    size = area(1)",
        )
    )
    helpers, recipes = texts["helpers.py"], texts["benchmarks/recipes.py"]
    assert helpers.endswith(
        "import math\n\n# said above\nSIZE = math.pi\n\n\ndef area(r):\n    return SIZE * r  # in place\n"
    )
    assert "import os as system" in recipes and "from pathlib import Path\n" in recipes
    assert "from helpers import area" in recipes and "not_this" not in recipes + helpers and "print" not in helpers


def test_a_cell_in_the_wrong_order_is_named():
    late = small_notebook(
        "# saved in helpers.py\nONE = 1",
        "1 + 1",
        "# saved in helpers.py\nTWO = 2 * THREE",
        "# saved in helpers.py\nTHREE = 3",
    )
    with pytest.raises(ValueError, match="helpers.py can't be imported: code cell 3.*THREE"):
        export.check(*export.module_texts(late))


def test_helpers_serve_the_next_notebook(tmp_path, monkeypatch):
    """Alone in a folder, where nothing else of the project can be imported."""
    shutil.copy(ROOT / "helpers.py", tmp_path)
    for path in [ROOT / "helpers.py", *BENCHMARKS.glob("*.py")]:
        monkeypatch.delitem(sys.modules, path.stem, raising=False)
    monkeypatch.setattr(sys, "path", [path for path in sys.path if Path(path).resolve() not in (ROOT, BENCHMARKS)])
    with pytest.raises(ImportError):
        importlib.import_module("recipes")
    names = runpy.run_path(str(tmp_path / "helpers.py"))
    assert callable(names["fit"]) and {"TensorLoader", "load_mnist", "test", "train"} <= set(names)


def test_code_is_short_and_a_digit_comes_first(notebook):
    code = code_of(notebook)
    cells = [cell for cell in notebook.cells if cell is refresh.tagged(notebook, "digit") or cell.cell_type == "code"]
    assert cells[0] is refresh.tagged(notebook, "digit")  # before any code
    shown = [any("image/png" in output.get("data", {}) for output in cell.outputs) for cell in code]
    assert sum(cell.source.count("\n") + 1 for cell in code[: shown.index(True)]) <= 80
    for cell in code:
        if cell.source.startswith("# @title"):
            assert cell.metadata["cellView"] == "form" and cell.metadata["jupyter"]["source_hidden"]


def test_style():
    for command in (["check"], ["format", "--check"]):
        done = subprocess.run([sys.executable, "-m", "ruff", *command, "."], cwd=ROOT, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_cells_are_short(notebook):
    lengths = {"lesson": [], "page": []}
    for cell in code_of(notebook):
        of_the_page = re.search(r'^PAGE_\w+ = r"""', cell.source, re.M)  # in HTML, CSS and JavaScript
        lengths["page" if of_the_page else "lesson"].append(len(cell.source.splitlines()))
    assert len(lengths["lesson"]) >= 100 and max(lengths["lesson"]) <= 40
    assert len(lengths["page"]) == 7 and max(lengths["page"]) <= 155


# ---------------------------------------------------------------- what it stores


def test_metadata_asks_colab_for_a_gpu(notebook):
    assert notebook.metadata["accelerator"] == "GPU"


def test_it_is_stored_executed_in_order(notebook):
    code = code_of(notebook)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output
            assert not any("widget" in kind for kind in output.get("data", {}))
        assert not re.search(r"(?<![\w.:/<])/[a-z]+/[\w.-]+/[\w.-]+", text_of(cell)), "an absolute path"
    assert NOTEBOOK.stat().st_size < 2.5e6


def test_it_stores_a_full_run(notebook):
    runs = [cell for cell in code_of(notebook) if re.search(r"(20/20|4/4) epochs", text_of(cell))]
    assert len(runs) == 3 and not any("resumed" in text_of(cell) for cell in runs)
    for cell in runs:  # one line and one picture of the curves, however often they were updated
        kinds = [sorted(output["data"]) for output in cell.outputs]
        assert kinds == [["text/plain"], ["image/png", "text/plain"]]
    submitted, final, fast = (float(refresh.stored_accuracy(notebook, each)) for each in (AS_SUBMITTED, FINAL, FAST))
    assert final > submitted >= 99.0 and fast >= 99.0


def test_it_stores_the_briefs_summary(notebook):
    (cell,) = [cell for cell in code_of(notebook) if "\nsummary(" in cell.source]
    rows = [" ".join(line.split()) for line in text_of(cell).splitlines() if re.match(r"\s+\w+-\d+ ", line)]
    assert rows == BRIEF_SUMMARY.strip().splitlines()
    assert "Total params: 19,866" in text_of(cell)


# ---------------------------------------------------------------- what it says


def gains(name: str, base: str) -> pd.Series:
    """How far a recipe lies above another after the last epoch, in points, by the seeds that both have."""
    runs = [last_epochs(read_runs(), each, RECIPES[each].epochs).set_index("seed") for each in (base, name)]
    return (runs[1]["test_accuracy"] - runs[0]["test_accuracy"]).dropna()


def in_standard_errors(pairs: pd.Series) -> float:
    return pairs.mean() / (pairs.std() / len(pairs) ** 0.5)


def test_claims_about_the_steps_are_no_stronger_than_the_study(notebook):
    rows, threshold = read_runs(), {3: 4.3, 4: 3.2, 5: 2.8, 10: 2.3}  # as section 8 says, of standard errors
    for name, base in [
        ("no dropout", "as submitted"),
        ("averaged weights", "augmentation"),
        ("undistorted at the end", "averaged weights"),
        ("elastic distortion", "undistorted at the end"),
        ("final", "elastic distortion"),
    ]:
        pairs = gains(name, base)
        shown = abs(in_standard_errors(pairs)) > threshold[len(pairs)]
        assert not shown, f"{name}: 'nothing that these seeds can show'"
    for name, base in [("one-cycle learning rate", "no dropout"), ("augmentation", "one-cycle learning rate")]:
        pairs = gains(name, base)
        assert pairs.min() > 0 and in_standard_errors(pairs) > threshold[len(pairs)], "a gain with each of the seeds"
    both = gains("augmentation", "no dropout")
    assert in_standard_errors(both) > threshold[len(both)] and both.min() > 0
    assert round(in_standard_errors(both)) == 7
    assert f"beyond doubt: {both.mean():.2f} points, seven times the standard error" in prose_of(notebook)
    for name in ("final", "small", "fast"):
        pairs = gains(name, "as submitted")
        assert in_standard_errors(pairs) > threshold[len(pairs)], name
    first = {name: int(np.argmax(by_epoch(rows, name) >= TARGET)) for name in ("augmentation", "averaged weights")}
    assert first["averaged weights"] < first["augmentation"]
    submitted = last_epochs(rows, "as submitted", 20)["test_accuracy"]
    assert (len(submitted), (submitted >= TARGET).sum()) == (10, 2)  # the README: two seeds of ten
    fast = last_epochs(rows, "fast", FAST.epochs)["test_accuracy"]
    assert len(fast) == 10 and fast.min() >= TARGET  # section 9.1: every one of ten seeds
    dead = rows[(rows["recipe"] == "as submitted") & (rows["test_loss"] > 0.2)]  # section 7.5: one seed, eight epochs
    assert (
        dead["seed"].nunique() == 1 and dead["epoch"].tolist() == list(range(1, 9)) and dead["test_loss"].min() > 0.25
    )
    assert f"{dead['test_accuracy'].iloc[-1]:.1f}% after the eighth epoch" in prose_of(notebook)
    assert float(refresh.stored_accuracy(notebook, AS_SUBMITTED)) < submitted.min()  # section 6: below all ten
    means = [
        last_epochs(rows, name, 20)["test_accuracy"].mean() for name in ("as submitted", "elastic distortion", "final")
    ]
    first, better, half = (round(100 * (100 - mean)) for mean in means)  # mistakes in 10,000
    assert f"{first} mistakes in 10,000 become {better}. With *final*'s network they become {half}, half" in prose_of(
        notebook
    )
    assert 0.47 < half / first < 0.53
    seeds = {name: last_epochs(rows, name, 20).set_index("seed")["test_accuracy"] for name in ("as submitted", "final")}
    assert seeds["as submitted"].idxmax() == 1 and seeds["final"].idxmin() == 1  # section 9, of the live run's seed


def test_the_notebook_states_the_ratios_measured(notebook):
    seconds = pd.read_csv(speed.CSV).set_index("way")["seconds"]
    loader = [seconds[f"official loop, {workers} workers"] / seconds["ours"] for workers in (0, 2)]
    assert f"{loader[0]:.1f} to {loader[1]:.1f} times as long" in prose_of(notebook)
    hurried = pd.read_csv(speed.HURRIED)["seconds"]
    stored = "".join(text_of(cell) for cell in code_of(notebook))
    fast, submitted = map(int, re.search(r"(\d+) s of training; as submitted took (\d+) s", stored).groups())
    assert 14 < submitted / fast < 17  # section 9.1: about a fifteenth
    words = f"takes {hurried[1] / hurried[0]:.2f} of the time of *one* epoch"
    assert words in prose_of(notebook) and words in README.read_text(encoding="utf-8")


# ---------------------------------------------------------------- README and CI


def test_readme_and_ci_give_the_same_command():
    readme, run = README.read_text(encoding="utf-8"), (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    command = run.strip().splitlines()[-1]
    assert "pytest" in command and command in readme
    assert ".ci/run" in (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")


def test_readme_names_the_versions_of_the_stored_run(notebook):
    stored = "".join(text_of(cell) for cell in code_of(notebook))
    versions = re.search(r"(Python \S+), (torch \S+?)(?:\+\w+)?, (torchvision [\d.]+)", stored)
    readme = README.read_text(encoding="utf-8")
    assert all(version in readme for version in versions.groups())


def test_readme_pictures_exist_and_are_described():
    pictures = re.findall(r"!\[(.*?)\]\((images.*?)\)", README.read_text(encoding="utf-8"))
    assert pictures
    for words, path in pictures:
        assert len(words) > 20 and (ROOT / path).exists()
    assert {path.name for path in (ROOT / "images").iterdir()} == {Path(path).name for _, path in pictures}


def test_benchmarks_import_in_one_direction():
    """Each file only imports files of floors below its own, at its top."""
    floors = [
        ["export", "results"],
        ["page", "recipes"],
        ["accuracy", "screening", "speed"],
        ["speed_trials"],
        ["refresh"],
    ]
    floor_of = {name: floor for floor, names in enumerate(floors) for name in names}
    for name, floor in floor_of.items():
        source = (BENCHMARKS / f"{name}.py").read_text(encoding="utf-8")
        imported = re.findall(r"^ *(?:import|from) (\w+)", source, re.MULTILINE)
        assert all(floor_of[other] < floor for other in imported if other in floor_of), name
        assert not re.search(r"^ +(?:import \w|from \w+ import)", source, re.MULTILINE), name
