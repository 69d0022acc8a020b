"""Execute a notebook in place, and show how far it is: python -m benchmarks.execute [S6_Part2.ipynb]

The notebook is written once, when all its cells have run; where one fails, its error is shown and the file stays
as it was. Nothing of the progress shown here is stored.
"""

import argparse
import os
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from jupyter_client import AsyncKernelManager
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from tqdm import tqdm

NOTEBOOK = Path(__file__).resolve().parent.parent / "S6_Part2.ipynb"


class WatchedClient(NotebookClient):
    """Runs a notebook, and shows on a bar which section is running, and the last epoch of what trains in it."""

    def __init__(self, notebook, bar, **options):
        super().__init__(notebook, on_cell_start=self.show_section, on_cell_executed=self.count, **options)
        self.bar, self.section = bar, ""

    def show_section(self, cell, cell_index):
        headings = re.findall(r"^#+ (.*)", cell.source, re.MULTILINE) if cell.cell_type == "markdown" else []
        self.section = headings[-1] if headings else self.section
        self.bar.set_postfix_str(self.section)

    def count(self, cell, cell_index, execute_reply):
        self.bar.update()

    def process_message(self, msg, cell, cell_index):
        text = msg["content"].get("text") or msg["content"].get("data", {}).get("text/plain", "")
        if re.match(r"epoch \d+:", text):  # of a picture that grows, or printed
            self.bar.set_postfix_str(f"{self.section}: {text.strip()}")
        return super().process_message(msg, cell, cell_index)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebook", nargs="?", type=Path, default=NOTEBOOK, help="default: S6_Part2.ipynb")
    path = parser.parse_args().notebook
    execute(path)
    print(f"{path.name} now holds the outputs of this run.")


def execute(path: Path) -> None:
    """Run a notebook's cells in its own folder and store their outputs; exit with the error where one fails."""
    notebook = nbformat.read(path, as_version=4)
    code = sum(cell.cell_type == "code" for cell in notebook.cells)
    look = "{n_fmt}/{total_fmt} cells |{bar:20}| {elapsed} {postfix}"
    with tempfile.TemporaryDirectory() as folder, tqdm(total=code, bar_format=look, mininterval=0.5) as bar:
        # Talk to the kernel through files, where the system can: through a port it warns of listeners.
        files = {} if os.name == "nt" else {"transport": "ipc", "ip": f"{folder}/kernel"}
        manager = AsyncKernelManager(kernel_name="python3", **files)
        where = {"metadata": {"path": str(path.resolve().parent)}}
        client = WatchedClient(notebook, bar, km=manager, timeout=None, record_timing=False, resources=where)
        try:
            client.execute(cleanup_kc=True)  # and end the kernel: it isn't the client's own
        except CellExecutionError as error:
            sys.exit(f"\n{error}\nThe notebook's file is as it was.")
    nbformat.write(notebook, path.with_suffix(".unfinished"))
    os.replace(path.with_suffix(".unfinished"), path)  # whole at any moment


if __name__ == "__main__":
    main()
