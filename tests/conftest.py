"""What all tests share: one CPU thread each where several processes share the tests."""

from __future__ import annotations

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # Read when torch and OpenMP start; commands that tests start inherit it.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
