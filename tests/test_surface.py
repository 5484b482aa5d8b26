"""The public surface: names of the package, commands of the command line, and what importing them costs."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from importlib.metadata import version

import pytest

import knapsack_prune as kp
from knapsack_prune.cli import load_commands

NAMES = {
    "RepairReport",
    "RepairSettings",
    "ValueTables",
    "estimate_values",
    "repair",
    "ChannelGraph",
    "DataSettings",
    "ExecutionSettings",
    "ExportSettings",
    "FinetuneSettings",
    "IterateSettings",
    "NetworkSettings",
    "PlanSettings",
    "RunSettings",
    "ImageSource",
    "Network",
    "Example",
    "Task",
    "Plan",
    "RequestError",
    "TrainingSettings",
    "Scores",
    "Verification",
    "calibration_loader",
    "export_network",
    "finetune",
    "load_network",
    "load_slim",
    "measure_latency",
    "open_source",
    "plan",
    "plan_schema",
    "pull_slim",
    "push_slim",
    "save_slim",
    "score",
    "slim",
    "trace",
    "verify",
}
COMMANDS = {
    *("plan", "sweep", "inspect", "diff", "slim", "verify"),
    *("finetune", "iterate", "evaluate", "export", "run", "latency-table"),
    "stagewise",
    *("solve", "bench", "report", "push", "pull"),
}


def test_public_names() -> None:
    assert set(kp.__all__) == NAMES | {"__version__"}
    assert all(callable(getattr(kp, name)) for name in NAMES)
    assert kp.__version__ == version("knapsack-prune")
    with pytest.raises(AttributeError, match="no attribute 'prune'"):
        kp.prune  # type: ignore[attr-defined]  # noqa: B018


def test_only_public_names_can_be_seen() -> None:
    # In a process of its own: what tests import of the package becomes its attribute.
    code = "import knapsack_prune as kp; print(dir(kp) == sorted(kp.__all__), [n for n in vars(kp) if n[0] != '_'])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "True []"


def test_no_module_has_the_name_of_a_public_name() -> None:
    # `import knapsack_prune.plan` would put the module in the place of the function `kp.plan`.
    assert not NAMES & {module.name for module in pkgutil.iter_modules(kp.__path__)}


def test_commands() -> None:
    assert {name for name in load_commands() if not name.startswith("-")} == COMMANDS


@pytest.mark.parametrize(
    "statement",
    ["import knapsack_prune", "from knapsack_prune.cli import load_commands; load_commands()"],
)
def test_importing_loads_neither_torch_nor_ortools(statement: str) -> None:
    heavy = "{'torch', 'ortools', 'fvcore', 'numpy'}"
    code = f"{statement}; import sys; print(*({heavy} & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""


def test_reading_a_plan_does_not_load_torch() -> None:
    code = "from knapsack_prune import Plan, RequestError; import sys; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def test_solvers_load_neither_torch_nor_the_product() -> None:
    code = "import solvers, sys; print(*({'torch', 'knapsack_prune', 'ortools'} & sys.modules.keys()))"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == ""


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_knows_every_command(shell: str) -> None:
    script = load_commands().generate_completion(prog_name="knapsack-prune", shell=shell)
    assert all(name in script for name in COMMANDS)
    assert "flops-budget" in script
    if shell == "bash":
        ended = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stderr
