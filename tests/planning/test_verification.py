"""`kp.verify`: what a plan says is recomputed, and what does not hold is named."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import knapsack_prune as kp
from knapsack_prune.errors import RequestError
from knapsack_prune.planning.claims import BrokenPlanError
from tests.zoo import ZOO, enliven

EXAMPLE = torch.zeros(1, 3, 8, 8)


def network() -> nn.Module:
    return enliven(ZOO["residual"]())


def plan() -> kp.Plan:
    return kp.plan(network(), EXAMPLE, flops_budget=0.6, params_budget=0.9, keep=["a"], importance="l1")


def test_every_claim_of_a_plan_is_checked() -> None:
    made = plan()
    checks = {check.claim: check.result for check in kp.verify(made, network()).checks}
    assert list(checks) == [
        *("fingerprint", "structure", "weights", "flops", "params", "importance", "proof"),
        *("fvcore's recount", "slim against masked"),
    ]
    assert checks["structure"] == "1 groups, 4 layers, 2 frozen, as traced"
    assert checks["importance"].startswith("l1 kept is")
    assert checks["fvcore's recount"] == f"{made.budgets[0].planned:,}, as planned"


def _with(part: str, **changes: object) -> Callable[[kp.Plan], kp.Plan]:
    return lambda made: made.model_copy(update={part: getattr(made, part).model_copy(update=changes)})


def _budget(index: int, **changes: object) -> Callable[[kp.Plan], kp.Plan]:
    def edit(made: kp.Plan) -> kp.Plan:
        budgets = list(made.budgets)
        budgets[index] = budgets[index].model_copy(update=changes)
        return made.model_copy(update={"budgets": tuple(budgets)})

    return edit


def _group(**changes: object) -> Callable[[kp.Plan], kp.Plan]:
    return lambda made: made.model_copy(update={"groups": (made.groups[0].model_copy(update=changes),)})


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (_group(name="c"), "group c of 8 units is not in the network"),
        (_group(kept=(0,)), "layers.0.kept_out is 4, by the network it is 1"),
        (_budget(1, planned=1), "params are .* the plan says 1 of"),
        (_with("solver", value=1.0), "the importance kept is .* the plan says 1"),
        (_with("importance", criterion="l2"), "most important units|the importance kept is"),
        (lambda made: made.model_copy(update={"layers": made.layers[1:]}), "layers has 3 entries"),
        (_group(slices=()), "groups.0.slices has 0 entries"),
    ],
)
def test_a_claim_that_does_not_hold_is_named(edit: Callable[[kp.Plan], kp.Plan], words: str) -> None:
    with pytest.raises(
        BrokenPlanError, match=rf"^edited.json does not hold: ({words}).*make (the plan|it) again"
    ):
        kp.verify(edit(plan()), network(), source="edited.json")


@pytest.mark.parametrize(
    ("edit", "same_weights", "why"),
    [
        (
            _with("importance", criterion="taylor"),
            True,
            "taylor needs the images that it was made with: give `data`",
        ),
        (_with("importance", round=2), True, "l1 was scored on the network of round 2"),
        (_with("importance", criterion="by hand"), True, "by hand is no criterion known here"),
        (lambda made: made, False, "l1 belongs to other weights"),
    ],
)
def test_importance_that_cannot_be_recomputed_is_said(
    edit: Callable[[kp.Plan], kp.Plan], same_weights: bool, why: str
) -> None:
    checks = kp.verify(edit(plan()), network(), same_weights=same_weights).checks
    assert {check.claim: check.result for check in checks}["importance"] == f"not recomputed: {why}"


def test_a_plan_of_another_network_is_refused() -> None:
    with pytest.raises(RequestError, match="the plan was made for Net"):
        kp.verify(plan(), ZOO["plain"]())
