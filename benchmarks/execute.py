"""Execute a notebook in place, and show how far it is: python -m benchmarks.execute [S6_Part2.ipynb]

It is written when all its cells have run; where one fails, its error is shown and the file stays as it was.
"""

import argparse
import re
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from tqdm import tqdm

NOTEBOOK = Path(__file__).resolve().parent.parent / "S6_Part2.ipynb"
LOOK = "{n_fmt}/{total_fmt} cells |{bar:20}| {elapsed} {postfix}"


class WatchedClient(NotebookClient):
    """Runs a notebook, and shows on a bar which section is running, and the last epoch of what trains in it."""

    def __init__(self, notebook, bar, **options):
        super().__init__(notebook, on_cell_start=self.show_section, **options)
        self.bar, self.section = bar, ""

    def show_section(self, cell, cell_index):
        headings = re.findall(r"^#+ (.*)", cell.source, re.MULTILINE) if cell.cell_type == "markdown" else []
        self.section = headings[-1] if headings else self.section
        self.bar.set_postfix_str(self.section)
        self.bar.update()

    def process_message(self, msg, cell, cell_index):
        text = msg["content"].get("text") or msg["content"].get("data", {}).get("text/plain", "")
        if re.match(r"epoch \d+:", text):  # of a picture that grows, or printed
            self.bar.set_postfix_str(f"{self.section}: {text.strip()}")
        return super().process_message(msg, cell, cell_index)


def execute(path: Path) -> None:
    """Run a notebook's cells in its own folder and store their outputs; an error is raised, and nothing stored."""
    notebook = nbformat.read(path, as_version=4)
    where = {"metadata": {"path": str(path.resolve().parent)}}
    quiet = ["--log-level=ERROR"]  # the kernel warns that it is reached through a port of this machine
    with tqdm(total=len(notebook.cells), bar_format=LOOK) as bar:
        options = {"timeout": None, "record_timing": False, "resources": where, "extra_arguments": quiet}
        WatchedClient(notebook, bar, **options).execute()
    nbformat.write(notebook, path)
    print(f"{path.name} now holds the outputs of this run.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebook", nargs="?", type=Path, default=NOTEBOOK, help="default: S6_Part2.ipynb")
    execute(parser.parse_args().notebook)


if __name__ == "__main__":
    main()
