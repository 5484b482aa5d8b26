"""Which features of student and parent are compared: the plan's stages, or modules that the user names."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy

import torch
from torch import nn

from knapsack_prune.errors import RequestError
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.settings.objective import InnerKind
from knapsack_prune.training.distillation.features import FeatureTap, StageMatch


def match_stages(
    plan: Plan,
    parent: nn.Module,
    student: nn.Module,
    kind: InnerKind,
    layers: Sequence[str] | None,
    masked: bool,
) -> tuple[StageMatch, ...]:
    """Match the features of student and parent, and check their shapes by running both once.

    Args:
        plan: knows the stages and their kept channels.
        parent, student: run once, as copies.
        kind: `kept` needs to know which channels a feature keeps, `learned` does not.
        layers: modules to compare instead of the plan's stages.
        masked: the student is the parent with masks held.

    Raises:
        RequestError: no stage at all, an unknown module, one that returns no tensor, or one whose kept
        channels
            the plan does not know.
    """
    known = {stage.module: stage for stage in plan.stages}
    names = list(known) if layers is None else list(layers)
    if not names:
        raise RequestError(
            "the plan names 0 stages whose features could be compared: name modules with `distill_layers`, "
            "or set `distill` to none"
        )
    theirs, ours = _shapes(parent, plan, names), _shapes(student, plan, names)
    matches = []
    for name in names:
        stage = known.get(name)
        if stage is not None:
            matches.append(StageMatch(name, stage.dim, stage.of, stage.kept, masked))
            continue
        differing = [dim for dim, (a, b) in enumerate(zip(theirs[name], ours[name], strict=True)) if a != b]
        if len(differing) > 1 or (differing and kind == "kept"):
            raise RequestError(
                f"`distill_layers` {name}: its {ours[name]} of the parent's {theirs[name]} cannot be "
                f"matched, since "
                f"the plan knows the kept channels of {', '.join(known)} only: use these, or set "
                f"`distill` to learned"
            )
        dim = differing[0] if differing else 1
        of, width = theirs[name][dim], ours[name][dim]
        matches.append(StageMatch(name, dim, of, tuple(range(width)), masked))
    for match in matches:
        expected = list(theirs[match.module])
        expected[match.dim] = match.student_channels
        if tuple(expected) != ours[match.module]:
            raise RequestError(
                f"{match.module} returns {ours[match.module]} in the student, expected {tuple(expected)}: "
                f"the plan "
                "is not the one that this network was slimmed with"
            )
    return tuple(matches)


def _shapes(network: nn.Module, plan: Plan, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    copy = deepcopy(network).eval()
    tap = FeatureTap(copy, names)
    with torch.no_grad():
        plan.model.example().like(copy).run(copy)
    return {name: tuple(f.shape) for name, f in zip(names, tap.take(), strict=True)}
