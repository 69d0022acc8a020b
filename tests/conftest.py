"""Several workers share the cores: one thread each, in the notebook's kernel too. Two would wait for each other."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported
