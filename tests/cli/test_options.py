"""The options that users know: none of them is lost, and none makes them wait."""

from __future__ import annotations

import subprocess
import sys

import pytest

from knapsack_prune.cli import load_commands
from knapsack_prune.cli.app import with_flags

NETWORK = "--model --weights --checkpoint --input-shape --num-classes"
PLANNING = f"{NETWORK} --importance --normalize --samples --round-to --min-channels --keep --solver --time-limit --seed"
DATA = "--data --data-root --mean --std"
DEVICE = "--device --precision --channels-last --channels-first --cache --workers --threads"
TRAINING = (
    f"{DATA} {DEVICE} --epochs --batch-size --accumulate --lr --start-lr --end-lr --weight-decay --compile "
    "--crop --no-crop --mirror --no-mirror --distill --gamma --temperature --label-weight "
    "--checkpoint-every --seed -o --output"
)
KNOWN = {
    "plan": f"{PLANNING} --data --batch-size --flops-budget --params-budget -o --output --export-instance",
    "sweep": f"{PLANNING} --data --batch-size --flops-budgets --params-budget -o --output",
    "inspect": "--json",
    "diff": "--json",
    "slim": f"{NETWORK} -o --output",
    "verify": NETWORK,
    "finetune": f"{TRAINING} --model --weights --checkpoint --num-classes --mask --optimizer --schedule --warmup "
    "--clip --ema --scale-features --no-scale-features --distill-layers --logit-weight --label-smoothing --teacher "
    "--teacher-exclude --held-out --rand-augment --erasing --mixup --cutmix --resume",
    "iterate": f"{TRAINING} {PLANNING} --flops-budget --rounds --round-logit-weight --mixup --cutmix "
    "--rand-augment --erasing --distill-epochs --distill-lr --exclude-start",
    "evaluate": f"{NETWORK} {DATA} {DEVICE} --batch-size --json",
    "export": f"{NETWORK} -o --output --format --batch --seconds --compare --no-compare",
    "run": "--flops-budget --epochs -o --output --lr --plan.batch-size --finetune.batch-size --seed",
    "solve": "--solver --time-limit --seed --threads -o --output --json",
    "bench": "--solvers --time-limit --seeds --threads -o --output --plots --no-plots",
}


def options_of(name: str) -> set[str]:
    arguments = load_commands()[name].assemble_argument_collection()
    return {flag for argument in arguments for flag in (*argument.names, *argument.negatives)}


@pytest.mark.parametrize("name", KNOWN)
def test_no_option_is_lost(name: str) -> None:
    expected = {
        *KNOWN[name].split(),
        *([] if name in ("inspect", "diff", "solve", "bench") else ["--config"]),
    }
    assert expected - options_of(name) == set()


def test_scores_and_features_are_scaled_by_words_that_differ() -> None:
    # `--normalize` (scores) and `--normalise` (features) used to differ by one letter.
    assert "--normalise" not in options_of("finetune") | options_of("iterate")
    assert "--normalize" not in options_of("finetune")


HEAVY = ("torch", "numpy", "scipy", "ortools", "solvers", "matplotlib", "jinja2", "accelerate", "safetensors")


@pytest.mark.parametrize("name", ["", *(name for name in load_commands() if not name.startswith("-"))])
def test_help_imports_nothing_heavy(name: str) -> None:
    # What makes it come at once; how long it takes is the machine's business (benchmarks/results/command_line.md).
    code = (
        "import sys\n"
        f"sys.argv = ['knapsack-prune', *{name.split()}, '--help']\n"
        "from knapsack_prune.cli import main\n"
        "main()\n"
        f"print([name for name in {HEAVY} if name in sys.modules])\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.splitlines()[-1] == "[]"


def test_parameters_in_messages_become_flags_and_other_words_do_not() -> None:
    assert with_flags("`flops_budget` 2: run `iterate` first") == "--flops-budget 2: run `iterate` first"
