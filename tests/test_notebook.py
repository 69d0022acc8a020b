"""S6_Part2.ipynb: what it carries, what it stores, and that it runs alone. (nbval runs it in place.)"""
import copy
import os
import re
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from walkthrough import BENCHMARKS, NOTEBOOK, README, ROOT, load_definitions, mean_and_spread, read, refresh
from walkthrough import refreshed_readme, stored_accuracy, study_results, tables, tagged

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


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def text_of(cell) -> str:
    """All text that a cell's outputs store."""
    return "".join(output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in cell.outputs)


def execute(notebook, folder: Path, **environment) -> None:
    """Run all cells in a folder, in a kernel with these environment variables; an error is raised."""
    NotebookClient(notebook, kernel_name="python3", timeout=3600, resources={"metadata": {"path": str(folder)}}).execute(
        env={**os.environ, **environment})


# ---------------------------------------------------------------- what it carries


def test_it_repeats_the_other_files_as_they_stand(notebook):
    fresh = copy.deepcopy(notebook)
    refresh(fresh)
    for cell, expected in zip(notebook.cells, fresh.cells):
        assert cell.source == expected.source, "run: python benchmarks/walkthrough.py"
    for path in (README, BENCHMARKS):
        assert path.read_text(encoding="utf-8") == refreshed_readme(path, notebook), "run: python benchmarks/walkthrough.py"


def test_every_table_is_shown_somewhere(notebook):
    shown = README.read_text(encoding="utf-8") + BENCHMARKS.read_text(encoding="utf-8")
    assert all(table in shown for table in tables(notebook))


def run_helpers_cell(notebook, folder, monkeypatch, capsys) -> str:
    monkeypatch.chdir(folder)
    exec(tagged(notebook, "helpers")[0].source, {})
    return capsys.readouterr().out


def test_it_writes_helpers_only_where_none_is(notebook, tmp_path, monkeypatch, capsys):
    assert "wrote" in run_helpers_cell(notebook, tmp_path, monkeypatch, capsys)
    assert (tmp_path / "helpers.py").read_bytes() == (ROOT / "helpers.py").read_bytes()
    assert "the same" in run_helpers_cell(notebook, tmp_path, monkeypatch, capsys)
    (tmp_path / "helpers.py").write_text("mine = True\n", encoding="utf-8")
    assert "differs" in run_helpers_cell(notebook, tmp_path, monkeypatch, capsys)
    assert (tmp_path / "helpers.py").read_text(encoding="utf-8") == "mine = True\n"


def test_definitions_run_alone_and_print_nothing(capsys):
    definitions = load_definitions()
    assert capsys.readouterr() == ("", "")
    for recipe in definitions["RECIPES"].values():
        assert sum(p.numel() for p in recipe.network().parameters()) < 20_000
    assert sum(p.numel() for p in definitions["SMALL"].network().parameters()) < 10_000


def test_metadata_asks_colab_for_a_gpu(notebook):
    assert notebook.metadata["accelerator"] == "GPU"
    for tag in ("helpers", "study"):
        (cell,) = tagged(notebook, tag)
        assert cell.metadata["cellView"] == "form" and cell.source.startswith("# @title")
        assert cell.metadata["jupyter"]["source_hidden"]


# ---------------------------------------------------------------- what it stores


def test_it_is_stored_executed_in_order(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output
            assert not any("widget" in kind for kind in output.get("data", {}))
        assert not re.search(r"(?<![\w.:/<])/[a-z]+/[\w.-]+/[\w.-]+", text_of(cell)), "an absolute path"
    assert NOTEBOOK.stat().st_size < 3e6


def test_it_stores_a_full_run(notebook):
    texts = [text_of(cell) for cell in notebook.cells if cell.cell_type == "code"]
    assert sum("20/20 epochs" in text for text in texts) == 2 and not any("resumed" in text for text in texts)
    assert stored_accuracy(notebook, "submitted") >= 99.0
    assert stored_accuracy(notebook, "final") > stored_accuracy(notebook, "submitted")


def test_it_stores_the_briefs_summary(notebook):
    (cell,) = [cell for cell in notebook.cells if cell.source.startswith("summary(")]
    rows = [" ".join(line.split()) for line in text_of(cell).splitlines() if re.match(r"\s+\w+-\d+ ", line)]
    assert rows == BRIEF_SUMMARY.strip().splitlines()
    assert "Total params: 19,866" in text_of(cell)


def test_its_steps_are_those_of_the_study(notebook):
    results = study_results(read(), load_definitions())
    (cell,) = tagged(notebook, "steps")
    shown = dict(re.findall(r"\*\*\d+ · (.*?)\*\*\n- \*Target:\* .+\n- \*Result:\* (.*)\n- \*Analysis:\* .+", cell.source))
    assert list(shown) == [*(recipe.name for recipe in load_definitions()["STEPS"]), "final", "small"]
    for name, text in shown.items():
        accuracies = results[name]["accuracy"]
        assert text.startswith(f"{mean_and_spread(accuracies)}, n = {len(accuracies)}; in training "), name
    rows = read()
    means = [rows[(rows["recipe"] == name) & (rows["split"] == "test")].groupby("epoch")["test_accuracy"].mean()
             for name in ("averaged weights", "augmentation")]
    early, late = (mean.index[mean >= 99.28][0] for mean in means)
    assert f"first passes 99.28% at epoch {early}, not {late}" in cell.source
    assert rows.loc[(rows["recipe"] == "as submitted") & (rows["split"] == "test"), "test_accuracy"].min() > 91  # section 8.1


# ---------------------------------------------------------------- that it runs


def test_it_runs_alone_in_an_empty_folder(notebook, tmp_path):
    """Only the data is elsewhere: the download can't be tested where there is no network."""
    alone = copy.deepcopy(notebook)
    execute(alone, tmp_path, EPOCHS="1", MNIST_ROOT=str(ROOT / "data"))
    assert (tmp_path / "helpers.py").read_bytes() == (ROOT / "helpers.py").read_bytes()
    assert not (tmp_path / "images").exists() and not (tmp_path / "data").exists()
    assert sum("1/1 epochs" in text_of(cell) for cell in alone.cells if cell.cell_type == "code") == 2


def test_comparison_bites(notebook, tmp_path):
    """nbval passes over the notebook's first checked cells, and fails where one stored number is changed."""
    checked = [index for index, cell in enumerate(notebook.cells) if "nbval-check-output" in cell.metadata.get("tags", [])]
    assert len(checked) >= 10
    short = copy.deepcopy(notebook)
    short.cells = short.cells[:checked[1] + 1]
    counts = short.cells[-1].outputs[0]["data"]
    assert "5421" in counts["text/plain"]
    (tmp_path / "helpers.py").write_bytes((ROOT / "helpers.py").read_bytes())

    def failures() -> str:
        nbformat.write(short, tmp_path / "short.ipynb")
        done = subprocess.run([sys.executable, "-m", "pytest", "-q", "--nbval-lax", "-p", "no:cacheprovider", "short.ipynb"],
                              cwd=tmp_path, env={**os.environ, "MNIST_ROOT": str(ROOT / "data")}, capture_output=True, text=True)
        return done.stdout.splitlines()[-1]

    assert "failed" not in failures()
    for kind in counts:
        counts[kind] = counts[kind].replace("5421", "5422")
    assert "1 failed" in failures()


@pytest.mark.slow
def test_a_full_run_reaches_99_percent(notebook, tmp_path):
    full = copy.deepcopy(notebook)
    execute(full, tmp_path, EPOCHS="20", MNIST_ROOT=str(ROOT / "data"))
    assert stored_accuracy(full, "submitted") >= 99.0 and stored_accuracy(full, "final") >= 99.4


# ---------------------------------------------------------------- README and CI


def test_readme_and_ci_give_the_same_command():
    readme, run = README.read_text(encoding="utf-8"), (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    command = run.strip().splitlines()[-1]
    assert "pytest" in command and command in readme
    assert ".ci/run" in (ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8")


def test_readme_names_the_versions_of_the_stored_run(notebook):
    stored = "".join(text_of(cell) for cell in notebook.cells if cell.cell_type == "code")
    versions = re.search(r"(Python \S+), (torch \S+?)(?:\+\w+)?, (torchvision [\d.]+)", stored)
    readme = README.read_text(encoding="utf-8")
    assert all(version in readme for version in versions.groups())


def test_readme_pictures_exist_and_are_described():
    pictures = re.findall(r"!\[(.*?)\]\((.*?)\)", README.read_text(encoding="utf-8"))
    assert pictures
    for words, path in pictures:
        assert len(words) > 20 and (ROOT / path).exists()
