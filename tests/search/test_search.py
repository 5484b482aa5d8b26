"""Candidates and rounds: what is tried out is what is written down, and only a lower held-out loss is taken."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import knapsack_prune as kp
from knapsack_prune.data import calibration_parts, from_tensors
from knapsack_prune.data.source import Normalisation
from knapsack_prune.errors import RequestError
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.search import rounds as rounds_module
from knapsack_prune.search import trials as trials_module
from knapsack_prune.slimming.outcome import held_out_loss
from knapsack_prune.slimming.repair import repair
from tests.values.test_cutting import EXAMPLE, images
from tests.zoo import ZOO, enliven

DATA = [images(12, seed=seed) for seed in range(8)]
HELD_OUT, FITTED = [DATA[3], DATA[7]], [*DATA[:3], *DATA[4:7]]


def residual() -> nn.Module:
    return enliven(ZOO["residual"]())


def widths(plan: Plan) -> tuple[int, ...]:
    return tuple(len(group.kept) for group in plan.groups)


def planned(**given: Any) -> Plan:
    return kp.plan(residual(), EXAMPLE, **{"data": DATA, "flops_budget": 0.5, "importance": "l1", **given})


def judged(model: nn.Module, plan: Plan, loss: Callable[..., Tensor] | None = None) -> float:
    """The held-out loss of a plan's repaired network, from the pieces."""
    small = kp.slim(model, plan)
    repair(model, small, plan, FITTED)
    return held_out_loss(model, small, plan, HELD_OUT, loss)[0]


def test_the_best_candidate_on_held_out_images_is_written() -> None:
    plan = planned(candidates=4, candidate_distance=1)
    assert plan.search is not None and not plan.search.rounds and plan.search.start_loss is None
    assert (plan.search.repair_images, plan.search.held_out_images) == (72, 24)
    parts = plan.search.candidates
    assert [part.value for part in parts] == sorted((part.value for part in parts), reverse=True)
    assert all(part.proved for part in parts)
    losses = [part.repaired_loss for part in parts]
    assert [part.rank for part in parts] == (np.argsort(np.argsort(losses)) + 1).tolist()
    (first,) = (part for part in parts if part.rank == 1)
    assert widths(plan) == first.widths
    assert judged(residual(), plan) == pytest.approx(first.repaired_loss, abs=1e-5)
    # Candidates differ by more than a tenth of a group; the first is the plan that is made without them.
    sizes = [group.size for group in plan.groups]
    for index, part in enumerate(parts):
        for other in parts[:index]:
            apart = [abs(n - m) > 0.1 * s for n, m, s in zip(part.widths, other.widths, sizes, strict=True)]
            assert any(apart)
    alone = kp.plan(residual(), EXAMPLE, flops_budget=0.5, importance="l1")
    assert widths(alone) == parts[0].widths and alone.search is None
    # The bound is that of all plans, not that of what the better ones leave.
    assert plan.solver.bound == alone.solver.bound == parts[0].value
    assert (plan.solver.status == "OPTIMAL") == (plan.solver.value == plan.solver.bound)
    assert Plan.from_json(plan.to_json()) == plan
    kp.verify(plan, residual())


def test_a_plan_says_nothing_of_a_search_that_was_not_made() -> None:
    assert "search" not in json.loads(planned().to_json())


def told(losses: list[float], seen: list[Plan]) -> Callable[..., tuple[nn.Module, float]]:
    """Trials that say these losses one after the other."""

    def repaired_loss(_: object, plan: Plan, what: str) -> tuple[nn.Module, float]:
        seen.append(plan)
        return nn.Identity(), losses[len(seen) - 1]

    return repaired_loss


def test_rounds_take_only_what_lowers_the_held_out_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Plan] = []
    monkeypatch.setattr(trials_module.Trials, "repaired_loss", told([1.0, 0.5, 0.7, 0.4], seen))
    centres: list[tuple[int, ...]] = []
    measured = rounds_module.measured_values

    def counted(*arguments: Any, around: tuple[int, ...], **given: Any) -> kp.ValueTables:
        centres.append(around)
        return measured(*arguments, around=around, **given)

    monkeypatch.setattr(rounds_module, "measured_values", counted)
    plan = planned(rounds=3, trust_region=0.3, importance="random")
    assert plan.search is not None and plan.search.start_loss == 1.0
    first, second, third = plan.search.rounds
    assert [part.accepted for part in (first, second, third)] == [True, False, True]
    assert [part.trust_region for part in (first, second, third)] == [0.3, 0.3, 0.15]
    assert widths(plan) == third.widths
    assert plan.importance.predicted_loss == third.predicted_loss <= 0.5
    kp.verify(plan, residual())  # once refuted: what a round predicts is no sum of the recorded losses
    # Measured once around each plan that was accepted: what a rejected one was proposed by still holds.
    assert centres == [widths(seen[0]), first.widths]
    for start, part in ((widths(seen[0]), first), (first.widths, second), (first.widths, third)):
        moved = [abs(n - m) for n, m in zip(part.widths, start, strict=True)]
        assert all(n <= max(1, part.trust_region * g.size) for n, g in zip(moved, plan.groups, strict=True))


def test_two_rounds_in_vain_end_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Plan] = []
    monkeypatch.setattr(trials_module.Trials, "repaired_loss", told([1.0, *[2.0] * 8], seen))
    plan = planned(rounds=9, importance="random")
    assert plan.search is not None
    assert [part.accepted for part in plan.search.rounds] == [False, False]
    assert len({part.widths for part in plan.search.rounds}) == 2  # nothing is tried twice
    assert widths(plan) == widths(seen[0])


def squares(output: Tensor, parent: Tensor, batch: Tensor) -> Tensor:
    return (output - parent).square().mean() + batch.square().mean()  # the second is the parent's own


def test_rounds_and_candidates_by_the_users_loss() -> None:
    plan = planned(importance="measured", rounds=1, candidates=2, loss=squares)
    assert plan.search is not None and plan.search.loss == plan.importance.loss == "user"
    best = min(part.repaired_loss for part in plan.search.candidates)
    assert plan.search.start_loss == best
    written = plan.search.written()
    assert written is not None
    assert written.repaired_loss <= best
    assert judged(residual(), plan, squares) == pytest.approx(written.repaired_loss, abs=1e-5)


def dataset(count: int = 160) -> Any:
    draw = torch.Generator().manual_seed(0)
    pixels = torch.randint(0, 256, (count, 3, 8, 8), dtype=torch.uint8, generator=draw)
    labels = torch.arange(count) % 5
    return from_tensors("noise", (pixels, labels), None, Normalisation((0.5,) * 3, (0.2,) * 3))


def test_parts_of_a_dataset_share_nothing_with_those_that_judge() -> None:
    source = dataset()
    parts = calibration_parts(source, 20, 30, 100, 0, 8, (3, 8, 8))
    drawn = {
        name: {int(i) for i in getattr(parts, name).images.indices}
        for name in ("values", "repair", "held_out")
    }
    assert [len(indices) for indices in drawn.values()] == [20, 30, 40]
    assert drawn["values"] <= drawn["repair"] and not drawn["repair"] & drawn["held_out"]
    with pytest.raises(RequestError, match=r"noise has 3 training images.*give at least 4"):
        calibration_parts(dataset(3), 20, 30, 100, 0, 8, (3, 8, 8))


def test_candidates_may_be_trained_first() -> None:
    plan = planned(data=dataset(), samples=16, candidates=2, candidate_epochs=1)
    assert plan.search is not None and plan.search.epochs == 1
    trained = [part.trained_loss for part in plan.search.candidates]
    assert [part.rank for part in plan.search.candidates] == ([1, 2] if trained[0] <= trained[1] else [2, 1])  # type: ignore[operator]
    assert trained != [part.repaired_loss for part in plan.search.candidates]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"rounds": 0}, r"`rounds` 0: it must be at least 1"),
        ({"candidates": 0}, r"`candidates` 0: it must be at least 1"),
        ({"trust_region": 0.2}, r"`trust_region` 0.2 without `rounds`"),
        ({"candidate_distance": 2}, r"`candidate_distance` 2 without `candidates`"),
        ({"candidates": 3, "data": None}, r"`candidates` 3: .*there are 0; give `data`"),
        ({"rounds": 3, "data": None}, r"`rounds` 3: .*there are 0; give `data`"),
        ({"candidates": 3, "data": DATA[:1]}, r"`data` has 1 batches.*at least 2"),
        ({"candidates": 3, "candidate_epochs": 1}, r"`candidate_epochs` 1: .*`open_source`"),
        ({"candidates": 3, "candidate_distance": 9}, r"`candidate_distance` 9: the network has \d+ groups"),
        (
            {"candidates": 900, "round_to": 4},
            r"`candidates` 900: there are only \d+ plans.*\(proved\); ask for at most",
        ),
        ({"candidates": 2, "solver": "dp"}, r"dp: .*use exact"),
        (
            {"candidates": 2, "loss": lambda o, p, b: o.sum() * float("nan")},
            r"the slim network is nan.*must be finite",
        ),
        ({"rounds": 2, "loss": lambda o, p, b: o}, r"the loss is of shape .*one number"),
        ({"pair_values": True}, r"`pair_values` with importance 'l1'"),
    ],
)
def test_refusals(given: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        planned(**given)


def test_a_plan_whose_search_chose_other_widths_is_refused() -> None:
    data = json.loads(planned(candidates=2).to_json())
    for part in data["search"]["candidates"]:
        part["rank"] = 3 - part["rank"]
    with pytest.raises(RequestError, match=r"search: the widths .* were chosen, groups keep"):
        Plan.from_json(json.dumps(data))
    data["search"]["candidates"][0]["rank"] = 7
    with pytest.raises(RequestError, match=r"the ranks of 2 candidates are not 1 \.\. 2"):
        Plan.from_json(json.dumps(data))
