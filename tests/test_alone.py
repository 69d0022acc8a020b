"""S6_Part2.ipynb runs alone, and nbval notices where an output that is checked has changed."""

import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

import refresh
from recipes import AS_SUBMITTED, FINAL
from results import ROOT


def execute(notebook, folder: Path, **environment) -> None:
    """Run all cells in a folder, in a kernel with these environment variables; an error is raised."""
    options = {"kernel_name": "python3", "timeout": 3600, "resources": {"metadata": {"path": str(folder)}}}
    NotebookClient(notebook, **options).execute(env={**os.environ, **environment})


def test_it_runs_alone_in_an_empty_folder(notebook, tmp_path):
    """The data is elsewhere, for want of a network, and the runs see a tenth of it: nbval's see it all."""
    first_run = next(i for i, cell in enumerate(notebook.cells) if "run_recipe(AS_SUBMITTED" in cell.source)
    fewer = "train_set, test_set = TensorDataset(*train_set[:6000]), TensorDataset(*test_set[:1000])"
    notebook.cells.insert(first_run, nbformat.v4.new_code_cell(fewer))
    execute(notebook, tmp_path, EPOCHS="1", MNIST_ROOT=str(ROOT / "data"))
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoints"]
    assert [path.suffix for path in (tmp_path / "checkpoints").iterdir()] == [".pt"]
    assert str(notebook).count("1/1 epochs") == 3


def test_comparison_bites(notebook, tmp_path):
    """As pytest is set up here, nbval fails where one stored number is changed in a cell with the notebook's tag."""
    checked = [cell for cell in notebook.cells if "nbval-check-output" in cell.metadata.get("tags", [])]
    assert len(checked) >= 10
    stored = [nbformat.v4.new_output("stream", name="stdout", text=text) for text in ("5421\n", "5422\n")]
    tagged = {"execution_count": 1, "metadata": {"tags": ["nbval-check-output"]}}
    cells = [nbformat.v4.new_code_cell("print(5421)", outputs=[output], **tagged) for output in stored]
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=notebook.metadata), tmp_path / "toy.ipynb")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-c", ROOT / "pyproject.toml", "-n", "0", tmp_path],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    failed = [line for line in done.stdout.splitlines() if line.startswith("FAILED")]
    assert len(failed) == 1 and "toy.ipynb::Cell 1" in failed[0] and "1 passed" in done.stdout


@pytest.mark.slow
def test_a_full_run_reaches_99_percent(notebook, tmp_path):
    execute(notebook, tmp_path, EPOCHS="20", MNIST_ROOT=str(ROOT / "data"))
    submitted, final = (float(refresh.stored_accuracy(notebook, each)) for each in (AS_SUBMITTED, FINAL))
    assert submitted >= 99.0 and final >= 99.4
