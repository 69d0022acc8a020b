"""Write the modules that the notebook defines: helpers.py, benchmarks/recipes.py and benchmarks/page.py.

    python benchmarks/export.py

A code cell whose first line is a comment that ends in "saved in NAME.py" gives its definitions to that module:
functions, classes, and constants in capitals, in the order of the cells. Whatever else it does stays in the
notebook. An import comes along from whichever cell makes it, where a definition uses its name.
"""

import ast
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "S6_Part2.ipynb"
MARK = re.compile(r"# .*saved in (\S+\.py)$")
NOTICE = "# Made from the cells of S6_Part2.ipynb by benchmarks/export.py: change them there, not here."
MODULES = {  # in the order in which they may import from each other
    "helpers.py": '"""Helpers of the MNIST walkthrough: data, training, receptive field, figures.\n\n'
    "Images are float32 tensors (N, 1, 28, 28), labels int64 tensors (N,). Accuracy is in percent, 0 to 100.\n"
    '"""',
    "benchmarks/recipes.py": '"""The walkthrough\'s networks, and the recipes that train them."""',
    "benchmarks/page.py": '"""The network, alive in a page: an HTML document that runs a trained network."""',
}


def exported_cells(notebook) -> list[tuple[int, str, str]]:
    """(number among the code cells, module, source) of each cell that is marked for a module."""
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    marked = [(number, MARK.match(source.split("\n", 1)[0]), source) for number, source in enumerate(code, 1)]
    return [(number, mark[1], source) for number, mark, source in marked if mark]


def is_definition(node: ast.stmt) -> bool:
    """Whether a statement defines a function, a class, or constants in capitals."""
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    names = [name.id for target in targets if target for name in ast.walk(target) if isinstance(name, ast.Name)]
    constants = isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign)) and all(name.isupper() for name in names)
    return isinstance(node, (ast.FunctionDef, ast.ClassDef)) or constants


def definitions(source: str) -> list[tuple[ast.stmt, str]]:
    """The definitions of a cell, each with its text and the comments above it."""
    lines, end, found = source.split("\n"), 1, []  # the first line is the mark
    for node in ast.parse(source).body:
        text = "\n".join(lines[end : node.end_lineno]).strip("\n")
        end = node.end_lineno
        if is_definition(node):
            found.append((node, text))
    return found


def defined_names(node: ast.stmt) -> set[str]:
    """The names that a definition makes."""
    if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
        return {node.name}
    return {name.id for name in ast.walk(node) if isinstance(name, ast.Name) and isinstance(name.ctx, ast.Store)}


def used_names(node: ast.stmt) -> set[str]:
    """The names that a definition takes from outside."""
    names = [name for name in ast.walk(node) if isinstance(name, ast.Name)]
    made = {name.id for name in names if isinstance(name.ctx, ast.Store)}
    return {name.id for name in names} - made


def imports_of(notebook) -> dict[str, tuple[str, str]]:
    """Every name that a cell imports -> (module, what is imported from it, or "" for the module itself)."""
    imports = {}
    for cell in notebook.cells:
        for node in ast.parse(cell.source).body if cell.cell_type == "code" else []:
            if isinstance(node, ast.Import):
                imports.update({(name.asname or name.name): (name.name, "") for name in node.names})
            elif isinstance(node, ast.ImportFrom):
                imports.update({(name.asname or name.name): (node.module, name.name) for name in node.names})
    return imports


def import_lines(imports: dict[str, tuple[str, str]]) -> str:
    """The import statements of a module: standard library, packages, own modules, each sorted."""
    own = {Path(module).stem for module in MODULES}
    groups = [{}, {}, {}]
    for name, (module, item) in imports.items():
        top = module.split(".")[0]
        group = groups[2 if top in own else 0 if top in sys.stdlib_module_names else 1]
        group.setdefault((item != "", module), []).append((name, item))
    blocks = []
    for group in groups:
        lines = []
        for (is_from, module), names in sorted(group.items(), key=lambda entry: (entry[0][0], entry[0][1].lower())):
            items = [item if item == name else f"{item} as {name}" for name, item in names]
            items.sort(key=lambda item: (not item.isupper(), not item[0].isupper(), item))  # as ruff sorts them
            plain = module if names[0][0] == module else f"{module} as {names[0][0]}"
            lines.append(f"from {module} import {', '.join(items)}" if is_from else f"import {plain}")
        blocks.append("\n".join(lines))
    return "\n\n".join(block for block in blocks if block)


def module_texts(notebook) -> tuple[dict[str, str], dict[str, list[tuple[int, int]]]]:
    """The text of each module; and of each, the lines at which cells begin, as (line, cell)."""
    imports, texts, places, known = imports_of(notebook), {}, {}, {}
    for module, docstring in MODULES.items():
        cells = [(number, definitions(source)) for number, name, source in exported_cells(notebook) if name == module]
        nodes = [node for _, found in cells for node, _ in found]
        own = set().union(*map(defined_names, nodes)) if nodes else set()
        used = set().union(*map(used_names, nodes)) - own
        needed = {name: imports[name] for name in sorted(used & set(imports))}
        needed |= {name: known[name] for name in sorted(used & set(known))}
        path = "sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # where helpers.py lies"
        if "/" in module:
            needed |= {"sys": ("sys", ""), "Path": ("pathlib", "Path")}
        lines = import_lines(needed)
        if "/" in module:
            head, _, tail = lines.rpartition("\n\n")
            lines = f"{head}\n\n{path}\n{tail}  # noqa: E402"
        text, places[module] = f"{NOTICE}\n{docstring}\n\n{lines}\n", []
        last_was_block = None  # before the first definition
        for number, found in cells:
            for node, definition in found:
                is_block = isinstance(node, (ast.FunctionDef, ast.ClassDef))
                text += "\n\n" if is_block or last_was_block else "\n" if last_was_block is None else ""
                places[module].append((text.count("\n") + 1, number))
                text, last_was_block = text + definition + "\n", is_block
        texts[module] = text
        known |= {name: (Path(module).stem, name) for name in own}
    return texts, places


def check(texts: dict[str, str], places: dict[str, list[tuple[int, int]]]) -> None:
    """Import the modules, in a folder of their own; raise ValueError that names the cell where one fails."""
    with tempfile.TemporaryDirectory() as folder:
        for module, text in texts.items():
            path = Path(folder, module)
            path.parent.mkdir(exist_ok=True)
            path.write_text(text, encoding="utf-8")
            done = subprocess.run([sys.executable, str(path)], cwd=folder, capture_output=True, text=True)
            if done.returncode:
                lines = [int(line) for line in re.findall(rf'{re.escape(path.name)}", line (\d+)', done.stderr)]
                cell = [number for line, number in places[module] if line <= lines[-1]][-1] if lines else "?"
                raise ValueError(
                    f"{module} can't be imported: code cell {cell} of {NOTEBOOK.name} says "
                    f"{done.stderr.strip().splitlines()[-1]!r}; is what it uses defined in a later cell?"
                )


def write_if_new(path: Path, text: str) -> bool:
    """Write a text file where it differs, whole or not at all; tell whether it did."""
    if path.exists() and path.read_bytes() == text.encode():
        return False
    half = path.with_name(f"{path.name}.{os.getpid()}")
    half.write_bytes(text.encode())
    os.replace(half, path)
    return True


def main() -> bool:
    texts, places = module_texts(nbformat.read(NOTEBOOK, as_version=4))
    if any(not (ROOT / name).exists() or (ROOT / name).read_bytes() != text.encode() for name, text in texts.items()):
        check(texts, places)
    changed = [name for name, text in texts.items() if write_if_new(ROOT / name, text)]
    print(f"{', '.join(texts)}: {'written' if changed else 'as they were'}")
    return bool(changed)


if __name__ == "__main__":
    main()
