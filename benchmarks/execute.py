"""Execute S6_Part2.ipynb in place, and show how far it is.

    python benchmarks/execute.py

The notebook is written once, when all its cells have run; where one fails, its error is shown and the file stays as
it was. Nothing of the progress shown here is stored.
"""

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
    """Runs a notebook, and passes on to a bar which cell is running and the lines of text that it shows."""

    def __init__(self, notebook, bar, **options):
        super().__init__(notebook, on_cell_start=self.show_cell, on_cell_executed=self.count, **options)
        self.bar, self.heading = bar, ""

    def show_cell(self, cell, cell_index):
        for line in "" if cell.cell_type == "code" else cell.source.splitlines():
            if line.startswith("#"):
                self.heading = line.lstrip("# ")
        self.bar.set_postfix_str(self.heading)

    def count(self, cell, cell_index, execute_reply):
        self.bar.update()

    def process_message(self, msg, cell, cell_index):
        text = msg["content"].get("data", {}).get("text/plain", "")
        epochs = re.match(r"\d+/\d+ epochs", text)
        if epochs:
            self.bar.set_postfix_str(f"{self.heading}: {epochs[0]}")
        return super().process_message(msg, cell, cell_index)


def main() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    code = sum(cell.cell_type == "code" for cell in notebook.cells)
    look = "{n_fmt}/{total_fmt} cells |{bar:20}| {elapsed} {postfix}"
    with tempfile.TemporaryDirectory() as folder, tqdm(total=code, bar_format=look, mininterval=0.5) as bar:
        # Talk to the kernel through files, where the system can: through a port it warns of listeners.
        files = {} if os.name == "nt" else {"transport": "ipc", "ip": f"{folder}/kernel"}
        manager = AsyncKernelManager(kernel_name="python3", **files)
        where = {"metadata": {"path": str(NOTEBOOK.parent)}}
        client = WatchedClient(notebook, bar, km=manager, timeout=None, record_timing=False, resources=where)
        try:
            client.execute(cleanup_kc=True)  # and end the kernel: it isn't the client's own
        except CellExecutionError as error:
            sys.exit(f"\n{error}\nThe notebook's file is as it was.")
    unfinished = NOTEBOOK.with_suffix(".unfinished")
    nbformat.write(notebook, unfinished)
    os.replace(unfinished, NOTEBOOK)  # whole at any moment
    print(f"{NOTEBOOK.name} now holds the outputs of this run.")


if __name__ == "__main__":
    main()
