"""Benchmarks are no installed package: they are found in the source tree, after whatever is installed."""

import sys
from pathlib import Path

ROOT = str(Path(__file__).parents[2])
if ROOT not in sys.path:
    sys.path.append(ROOT)
