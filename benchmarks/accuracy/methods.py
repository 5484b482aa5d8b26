"""Networks at the same counted FLOPs by every method: ours by a plan, others' by the tensors that their tool left."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file

from benchmarks.accuracy.channel_map import network_of
from benchmarks.experiment.bench import Bench, Candidate, plan_candidate
from benchmarks.experiment.plan_set import PlanSet

OTHERS = "tp-"  # what names of Torch-Pruning's methods begin with


def candidates(bench: Bench) -> Callable[[str, float], Candidate]:
    """Candidates by name and budget; a plan or network that is on disk is read, others are made and kept there.

    Only making needs ortools, fvcore and Torch-Pruning.
    """
    plans = PlanSet(bench)

    def make(name: str, budget: float) -> Candidate:
        if not name.startswith(OTHERS):
            return plan_candidate(bench.parent, name, budget, plans.plan(name, budget))
        path = bench.output / "plans" / f"{budget:g}" / f"{name}.safetensors"
        if not path.exists():
            _prune(bench, name, budget, path)
        with safe_open(path, "pt") as file:  # type: ignore[no-untyped-call]
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            flops, whole = (int(file.metadata()[key]) for key in ("flops", "parent_flops"))
        return Candidate(name, budget, network_of(bench.parent, state), flops, whole)

    return make


def _prune(bench: Bench, name: str, budget: float, path: Path) -> None:
    from benchmarks.accuracy.torch_pruning_methods import METHODS, prune
    from knapsack_prune.costs.counting import count_flops
    from knapsack_prune.networks.example import Example

    shape = bench.network.input_shape
    whole = count_flops(bench.parent, Example.zeros(shape))
    images = list(bench.images(bench.config.value_images))
    network, flops = prune(bench.parent, shape, METHODS[name], images, int(budget * whole))
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {key: tensor.contiguous() for key, tensor in network.state_dict().items()}
    save_file(state, path, {"flops": str(flops), "parent_flops": str(whole)})
