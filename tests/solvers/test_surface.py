"""What `import solvers` gives, and what it costs."""

from __future__ import annotations

import subprocess
import sys
from types import ModuleType


def test_import_is_light() -> None:
    """Neither torch nor the product nor ortools is imported; the time is measured loosely, for busy
    machines.
    """
    code = (
        "import time; began = time.perf_counter(); import solvers; seconds = time.perf_counter() - began\n"
        "import sys; bad = [m for m in ('torch', 'knapsack_prune', 'ortools', 'scipy') if m in sys.modules]\n"
        "assert not bad, bad\n"
        "assert seconds < 3, seconds\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr


def test_public_surface() -> None:
    import solvers

    names = {n for n, v in vars(solvers).items() if not n.startswith("_") and not isinstance(v, ModuleType)}
    assert names == {
        "SOLVERS",
        "Factor",
        "Group",
        "Instance",
        "Limits",
        "PairValues",
        "Resource",
        "Result",
        "Solver",
        "SolverError",
        "export_model",
        "Status",
        "Table",
        "Term",
        "enumerate_best",
        "least_costs",
        "solve",
        "verify",
    }
