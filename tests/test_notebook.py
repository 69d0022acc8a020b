"""S6_Part2.ipynb: what is made from it and carried in it, what it stores, and that it runs alone. (nbval runs it, too.)"""

import base64
import os
import re
import shutil
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from torch import nn
from torch.utils.data import TensorDataset

import helpers
from benchmarks import execute, refresh
from lesson import page
from lesson.fields import trace
from lesson.networks import Net

ROOT = Path(__file__).resolve().parent.parent
FEWER_IMAGES = """
import helpers
from torch.utils.data import TensorDataset
load_all = helpers.load_mnist
helpers.load_mnist = lambda *where: [TensorDataset(*part[::10]) for part in load_all(*where)]
"""


def tagged(notebook, tag: str) -> list:
    return [cell for cell in notebook.cells if tag in cell.metadata.get("tags", [])]


def code_of(notebook) -> list:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def text_of(cell) -> str:
    """All text that a cell's outputs store."""
    return "".join(output.get("text", "") + output.get("data", {}).get("text/plain", "") for output in cell.outputs)


def run_notebook(notebook, folder: Path, **environment) -> None:
    """Run all cells in a folder, in a kernel with these environment variables; an error is raised."""
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=3600, resources=where).execute(env={**os.environ, **environment})


# ---- What is made from what
CHANGES = {  # of a made file, and of what page.html makes
    "lesson/results.json": ("99.28", "99.38"),
    "docs/index.html": ("<title>", "<title>Another: "),
    "S6_Part2.ipynb": ('FILES[\\"helpers.py', 'FILES[\\"other.py'),
    "README.md": ("99.25 ± 0.05%", "99.95 ± 0.05%"),
    "benchmarks/README.md": ("| as submitted | 5 |", "| as submitted | 6 |"),
}


def stale_files(monkeypatch, capsys, *options) -> list[str]:
    """What refresh names, with these options."""
    monkeypatch.setattr("sys.argv", ["refresh", *options])
    with pytest.raises(SystemExit) as ended:
        refresh.main()
    named = capsys.readouterr().out.replace("everything is as it should be\n", "").splitlines()
    assert ended.value.code == (1 if named and options else 0)
    return named


def test_stale_files_are_named_and_made_again(tmp_path, monkeypatch, capsys):
    """The page's still apart, which a browser makes."""
    assert not stale_files(monkeypatch, capsys, "--check"), "run: python -m benchmarks.refresh"
    made = {name: (ROOT / name).read_bytes() for name, _ in refresh.made_files()}
    for name in {*made, *refresh.CARRIED, "images/page.png"}:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    monkeypatch.setattr(refresh, "ROOT", tmp_path)
    monkeypatch.setattr(refresh, "NOTEBOOK", tmp_path / refresh.NOTEBOOK.name)
    monkeypatch.setattr(refresh, "photograph", lambda document: None)
    for name, (before, after) in CHANGES.items():
        text = (tmp_path / name).read_text(encoding="utf-8")
        assert before in text
        (tmp_path / name).write_text(text.replace(before, after), encoding="utf-8")
    assert set(stale_files(monkeypatch, capsys, "--check")) == set(CHANGES)
    assert set(stale_files(monkeypatch, capsys)) == set(CHANGES)
    assert {name: (tmp_path / name).read_bytes() for name in made} == made
    # A change of page.html reaches both places without a training.
    template = page.TEMPLATE.read_text(encoding="utf-8").replace(*CHANGES["docs/index.html"])
    (tmp_path / "page.html").write_text(template, encoding="utf-8")
    monkeypatch.setattr(page, "TEMPLATE", tmp_path / "page.html")
    assert stale_files(monkeypatch, capsys) == ["docs/index.html", "S6_Part2.ipynb"]
    changed = (tmp_path / "docs" / "index.html").read_text(encoding="utf-8")
    assert "<title>Another: " in changed and page.data_of(changed) == page.data_of(made["docs/index.html"].decode())


def test_the_network_built_cell_by_cell_is_the_brief_s(notebook, capsys):
    """The same operations on the same shapes, in the same order; the class holds bn6 besides, and never calls it."""
    names = {"nn": nn}
    for cell in code_of(notebook):
        if "add_to(" in cell.source:
            exec(re.sub(r"(?m)^figures.*", "", cell.source), names)
    built, named = names["layers"], Net()
    assert [(each.kind, each.shape) for each in trace(built)] == [(each.kind, each.shape) for each in trace(named)]
    shapes = [weights.shape for weights in built.parameters()]
    assert shapes == [weights.shape for name, weights in named.named_parameters() if not name.startswith("bn6")]


# ---- The files that travel in the notebook
def test_carried_files_are_the_files_and_one_that_is_there_is_used_and_named(notebook, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (cell,) = tagged(notebook, "carried")
    assert cell.metadata["cellView"] == "form" and cell.metadata["jupyter"]["source_hidden"]  # it is folded
    exec(cell.source, {})
    laid = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")}
    assert laid == {"helpers.py", *(f"lesson/{path.name}" for path in (ROOT / "lesson").glob("*.*"))}
    for name in laid:
        assert Path(name).read_bytes() == (ROOT / name).read_bytes().replace(b"\r\n", b"\n"), name
    exec(cell.source, {})
    assert not capsys.readouterr().out  # they are what they must be
    for content in (b"# an older one\n", b"# caf\xe9, of somebody else\n"):
        Path("helpers.py").write_bytes(content)
        exec(cell.source, {})
        assert Path("helpers.py").read_bytes() == content
        assert re.fullmatch(r"helpers.py differs from .*, and is used as it is\n", capsys.readouterr().out)


def test_it_runs_alone_in_an_empty_folder(notebook, tmp_path):
    """The data is there, for want of a network; training sees a tenth of it: nbval's run sees it all."""
    shutil.copytree(ROOT / "data", tmp_path / "data", ignore=shutil.ignore_patterns("*ubyte"))
    (carried,) = tagged(notebook, "carried")
    notebook.cells.insert(notebook.cells.index(carried) + 1, nbformat.v4.new_code_cell(FEWER_IMAGES))
    run_notebook(notebook, tmp_path, EPOCHS="1", MPLBACKEND="Agg")  # which alone would lose the pictures
    assert sum("image/png" in output.get("data", {}) for cell in code_of(notebook) for output in cell.outputs) > 20
    left = {path.name for path in tmp_path.iterdir() if path.suffix not in (".pt", ".pth")}
    assert left <= {"helpers.py", "lesson", "data", "checkpoints", "__pycache__"} and {"helpers.py", "lesson"} <= left


# ---- What it stores
def test_it_is_stored_as_one_full_run(notebook):
    code = code_of(notebook)
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for cell in code:
        for output in cell.outputs:
            assert output.output_type != "error" and output.get("name") != "stderr", output
            assert not any("widget" in kind for kind in output.get("data", {}))
        assert not re.search(r"(?<![\w.:/<])/[a-z]+/[\w.-]+/[\w.-]+", text_of(cell)), "an absolute path"
    full = [accuracy for cell in code for accuracy in last_accuracies(cell)]
    assert len(full) >= 2 and min(full) >= 99
    assert (ROOT / refresh.NOTEBOOK).stat().st_size < 2.3e6
    (page,) = tagged(notebook, "page")
    still = base64.b64encode((ROOT / "images" / "page.png").read_bytes()).decode()
    assert still in page.outputs[0].data["text/html"]  # what shows where scripts don't run


def last_accuracies(cell) -> list[float]:
    """The test accuracies after 20 epochs that a cell shows with its curves."""
    return [float(found) for found in re.findall(r"^'?epoch 20: .* ([\d.]+)%", text_of(cell), re.MULTILINE)]


@pytest.mark.slow
def test_a_full_run_reaches_99_percent(notebook, tmp_path):
    shutil.copytree(ROOT / "data", tmp_path / "data", ignore=shutil.ignore_patterns("*ubyte"))
    run_notebook(notebook, tmp_path, EPOCHS="20")
    accuracies = [accuracy for cell in code_of(notebook) for accuracy in last_accuracies(cell)]
    assert len(accuracies) >= 2 and min(accuracies) >= 99 and max(accuracies) >= 99.4


# ---- Executing it, and the READMEs
def test_execute_shows_the_epoch_and_stores_all_outputs_or_none(tmp_path, monkeypatch, capsys):
    path, line = tmp_path / "toy.ipynb", "epoch 1: loss 0.5 in training"
    cells = [nbformat.v4.new_code_cell(f"print({line!r})"), nbformat.v4.new_code_cell("1 / 0")]
    heading = nbformat.v4.new_markdown_cell("# 1 A heading\nwords")
    monkeypatch.setattr("sys.argv", ["execute", str(path)])
    nbformat.write(nbformat.v4.new_notebook(cells=[heading, *cells]), path)
    before = path.read_bytes()
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        execute.main()
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
    nbformat.write(nbformat.v4.new_notebook(cells=[heading, cells[0]]), path)
    execute.main()
    assert f"1 A heading: {line}" in capsys.readouterr().err
    stored = nbformat.read(path, as_version=4).cells[1]
    assert text_of(stored) == line + "\n" and not stored.metadata


def test_readmes_give_commands_and_pictures_that_exist():
    for folder in (ROOT, ROOT / "benchmarks"):
        text = (folder / "README.md").read_text(encoding="utf-8")
        modules = re.findall(r"python -m benchmarks\.(\w+)", text)
        assert modules and all((ROOT / "benchmarks" / f"{name}.py").exists() for name in modules)
        assert all((folder / path).exists() for path in re.findall(r"!\[.+?\]\((images/.*?)\)", text))
    (command,) = [line for line in (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines() if "pytest" in line]
    assert command in (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_readme_s_sample_runs(tmp_path, monkeypatch, capsys):
    text = (ROOT / "README.md").read_text(encoding="utf-8").split("## Your next assignment")[1]
    sample = re.search(r"```python\n(.*?)```", text, re.DOTALL)[1]
    monkeypatch.setenv("EPOCHS", "1")
    few = [TensorDataset(*part[::10]) for part in helpers.load_mnist(ROOT / "data")]
    monkeypatch.setattr(helpers, "load_mnist", lambda: few)
    monkeypatch.chdir(tmp_path)
    exec(sample, {})
    assert {path.name for path in tmp_path.iterdir()} == {"curves.png", "mistakes.png"}
    assert "Total params: 7,7" in capsys.readouterr().out
