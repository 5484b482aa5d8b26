"""Planning in one call: trace, score, allocate, and write down what follows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor, nn

import solvers
from knapsack_prune.costs.counting import UNITS, check_polynomial, total
from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import (
    ChannelGraph,
    CostTerm,
    Form,
    Group,
    IntArray,
    Slice,
    TabulatedTerm,
)
from knapsack_prune.planning.allocation import (
    Allocation,
    Levels,
    allocate,
    allowed_levels,
    build_instance,
)
from knapsack_prune.planning.plan_file import (
    BudgetPart,
    FrozenPart,
    GroupPart,
    ImportancePart,
    LayerPart,
    MixingPart,
    ModelPart,
    Plan,
    SlicePart,
    SolverPart,
    StagePart,
)
from knapsack_prune.settings import AllocationSettings, PlanSettings
from knapsack_prune.slimming.followers import attribute_parts, full_width_parts
from knapsack_prune.tracing.trial import trace
from knapsack_prune.values.criteria import Batches, Scores, score

Terms = Sequence[CostTerm | TabulatedTerm]


def plan(
    model: nn.Module,
    example: Tensor,
    settings: PlanSettings | None = None,
    /,
    *,
    data: Batches | None = None,
    name: str | None = None,
    weights: str | None = None,
    **given: Any,
) -> Plan:
    """The plan that keeps the most importance under the budgets.

    Args:
        model: the trained parent; left as it was.
        example: an input batch of size 1.
        settings: what is asked for; at least one budget.
        data: labelled batches, for the criteria that need them.
        name: the parent's name in the plan; the class name by default.
        weights: where its weights come from, for the plan.
        given: fields of `PlanSettings` by name, as in `flops_budget=0.3, importance="l1"`.

    Raises:
        RequestError: the request is wrong or cannot be met; the message says the remedy.
    """
    asked = PlanSettings.of(settings, **given)
    graph = trace(model, example, keep=asked.keep)
    check_prunable(graph)
    limits = budget_limits(graph, asked.requested())
    check_polynomial(graph, model)
    criterion = asked.criterion(images=data is not None)
    scores = score(graph, model, criterion, data=data, seed=asked.seed, normalize=asked.normalize)
    return plan_from_scores(graph, scores, limits, asked, name=name or type(model).__name__, weights=weights)


def plan_from_scores(
    graph: ChannelGraph,
    scores: Scores,
    limits: Mapping[str, int],
    settings: AllocationSettings | None = None,
    *,
    terms: Mapping[str, Terms] | None = None,
    levels: Levels | None = None,
    name: str = "network",
    weights: str | None = None,
    report: Callable[[float, int | None, int | None], None] | None = None,
    **given: Any,
) -> Plan:
    """The plan for a network that is traced and scored already.

    Args:
        graph, scores: of the network.
        limits: absolute, per resource.
        settings: allowed widths, solver and seed.
        terms: per resource, its cost; by default those of the graph.
        levels: allowed widths, instead of those of the settings.
        name, weights: of the network, for the plan.
        report: called with seconds, value and bound as the solver improves them.
        given: fields of `AllocationSettings` by name, instead of the settings' own.
    """
    settings = AllocationSettings.of(settings, **given)
    terms = terms or graph.cost_terms()
    levels = levels or allowed_levels(settings)
    instance = build_instance(graph, scores, limits, terms=terms, levels=levels, name=name)
    allocation = allocate(
        graph,
        scores,
        instance,
        solver=settings.solver,
        limits=solvers.Limits(seconds=settings.time_limit, seed=settings.seed),
        report=report,
    )
    return _assemble(graph, scores, limits, terms, settings, allocation, instance, name, weights)


def check_prunable(graph: ChannelGraph) -> None:
    """Raise a `RequestError` that says what froze everything, if nothing can be pruned."""
    if graph.groups:
        return
    reasons: dict[str, int] = defaultdict(int)
    for frozen in graph.frozen:
        reasons[frozen.reason] += frozen.size
    listed = "; ".join(
        f"{size} channels: {reason}"
        for reason, size in sorted(reasons.items(), key=lambda item: -item[1])[:4]
    )
    raise RequestError(
        "0 groups of this network can be pruned; every channel is frozen "
        f"({listed or 'it has no layer with weights'}); "
        f"pin less with `keep`, or use a network whose operators have rules"
    )


def require_budget(requested: Mapping[str, float | int]) -> None:
    """`RequestError` if no budget is given."""
    if not requested:
        raise RequestError(
            "no budget is given, and without one nothing would be pruned: give `flops_budget` or `params_budget`, for "
            "example 0.3"
        )


def budget_limits(graph: ChannelGraph, requested: Mapping[str, float | int]) -> dict[str, int]:
    """Absolute limits from fractions (in (0, 1]) or numbers (> 1) of each resource.

    Raises:
        RequestError: no budget, one that is not above 0, or a fractional number above 1.
    """
    require_budget(requested)
    terms = graph.cost_terms()
    limits = {}
    for resource, value in requested.items():
        parent = total(terms[resource], graph.sizes)
        if not value > 0 or value == float("inf"):
            raise RequestError(
                f"{resource} budget {value}: must be above 0; give a fraction of the parent in (0, 1], or a "
                "number above 1"
            )
        if value <= 1:
            limits[resource] = int(value * parent)
        elif float(value).is_integer():
            limits[resource] = min(int(value), parent)
        else:
            raise RequestError(
                f"{resource} budget {value}: above 1 a budget is an absolute number and must be whole; for a "
                "fraction of "
                f"the parent give one in (0, 1]"
            )
    return limits


def _assemble(
    graph: ChannelGraph,
    scores: Scores,
    limits: Mapping[str, int],
    terms: Mapping[str, Terms],
    settings: AllocationSettings,
    allocation: Allocation,
    instance: solvers.Instance,
    name: str,
    weights: str | None,
) -> Plan:
    counts, result = allocation.counts, allocation.result
    assert result.value is not None and result.bound is not None and result.gap is not None
    keep = [_mask(group, kept) for group, kept in zip(graph.groups, allocation.kept, strict=True)]
    parent_flops = total(graph.flops, graph.sizes)
    pruned = {index for index, group in enumerate(graph.groups) if counts[index] < group.size}
    return Plan(
        schema_version=1,
        model=ModelPart(
            name=name, weights=weights, input_shape=graph.input_shape, fingerprint=graph.fingerprint
        ),
        importance=ImportancePart.model_validate(
            {
                "criterion": scores.criterion,
                "samples": scores.samples,
                "seed": scores.seed,
                "normalize": scores.normalize,
            }
        ),
        budgets=tuple(
            _budget(resource, limit, terms[resource], graph, counts) for resource, limit in limits.items()
        ),
        solver=SolverPart(
            name=result.solver,
            version=result.version,
            status="OPTIMAL" if result.status is solvers.Status.OPTIMAL else "FEASIBLE",
            value=result.value / instance.value_scale,
            bound=result.bound / instance.value_scale,
            gap=result.gap,
            seconds=round(result.seconds, 3),
            seed=settings.seed,
        ),
        groups=tuple(
            _group(group, kept.tolist(), settings.round_to)
            for group, kept in zip(graph.groups, allocation.kept, strict=True)
        ),
        layers=_layers(graph, counts),
        frozen=tuple(
            FrozenPart(
                name=frozen.name,
                size=frozen.size,
                reason=frozen.reason,
                flops_share=frozen.flops / parent_flops if parent_flops else 0.0,
            )
            for frozen in graph.frozen
        ),
        attributes=attribute_parts(graph, keep),
        full_width=full_width_parts(graph, keep),
        mixing=tuple(
            MixingPart(module=found.module, operator=found.operator)
            for found in graph.mixing
            if pruned.intersection(found.groups)
        ),
        stages=tuple(
            StagePart(
                module=found.module,
                dim=found.dim,
                of=len(found.owner.groups),
                kept=tuple(np.flatnonzero(found.owner.kept(keep)).tolist()),
            )
            for found in graph.stages
        ),
    )


def _mask(group: Group, kept: IntArray) -> npt.NDArray[np.bool_]:
    mask = np.zeros(group.size, dtype=np.bool_)
    mask[kept] = True
    return mask


def _budget(
    resource: str, limit: int, terms: Terms, graph: ChannelGraph, counts: Sequence[int]
) -> BudgetPart:
    parent, planned = total(terms, graph.sizes), total(terms, counts)
    return BudgetPart(
        resource=resource,
        unit=UNITS.get(resource, resource),
        limit=limit,
        parent=parent,
        planned=planned,
        kept_fraction=planned / parent,
        removed_fraction=1 - planned / parent,
    )


def _group(group: Group, kept: Sequence[int], round_to: int) -> GroupPart:
    layers = dict.fromkeys(part.parameter.rpartition(".")[0] for part in group.slices if part.role == "out")
    return GroupPart(
        name=group.name,
        size=group.size,
        channels=group.channels,
        kept=tuple(kept),
        round_to=round_to,
        layers=tuple(layers),
        slices=tuple(part for found in group.slices for part in _slices(found)),
    )


def _slices(found: Slice) -> list[SlicePart]:
    """A slice as regular runs (offset, step, block) where it is one, else as lists of indices."""
    positions = found.positions
    units = len(positions)
    first = positions[0]
    step = int(positions[1, 0] - first[0]) if units > 1 else int(first[-1] - first[0]) + 1
    steps = np.arange(units)[:, None] * step
    if step > 0 and bool((positions == first[None, :] + steps).all()):
        breaks = np.flatnonzero(np.diff(first) != 1) + 1
        return [
            SlicePart(
                parameter=found.parameter,
                dim=found.dim,
                role=found.role,
                offset=int(run[0]),
                step=step,
                block=len(run),
            )
            for run in np.split(first, breaks)
        ]
    indices = tuple(tuple(row) for row in positions.tolist())
    return [SlicePart(parameter=found.parameter, dim=found.dim, role=found.role, indices=indices)]


def _layers(graph: ChannelGraph, counts: Sequence[int]) -> tuple[LayerPart, ...]:
    before: dict[str, int] = defaultdict(int)
    after: dict[str, int] = defaultdict(int)
    forms: dict[str, tuple[Form, Form]] = {}
    for term in graph.flops:
        before[term.layer] += term.at(graph.sizes)
        after[term.layer] += term.at(counts)
        factors = (term.form,) if isinstance(term, TabulatedTerm) else term.factors
        if factors:
            forms.setdefault(term.layer, (factors[0], factors[-1]))
    forms.update({layer.name: (layer.kept_in, layer.kept_out) for layer in graph.layers})
    return tuple(
        LayerPart(
            name=name,
            kept_in=forms[name][0].at(counts) if name in forms else 0,
            of_in=forms[name][0].at(graph.sizes) if name in forms else 0,
            kept_out=forms[name][1].at(counts) if name in forms else 0,
            of_out=forms[name][1].at(graph.sizes) if name in forms else 0,
            flops_before=before[name],
            flops_after=after[name],
        )
        for name in dict.fromkeys((*before, *forms))
    )
