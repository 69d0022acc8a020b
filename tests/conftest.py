"""Several workers share the cores: one thread each, in the notebook's kernel too. And the notebook and MNIST, read."""

import os
from pathlib import Path

import nbformat
import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported


@pytest.fixture
def notebook():
    return nbformat.read(Path(__file__).parent.parent / "S6_Part2.ipynb", as_version=4)


@pytest.fixture(scope="session")
def mnist():
    from helpers import read_mnist  # with torch, which reads the environment

    return read_mnist(Path(__file__).parent.parent / "data")
