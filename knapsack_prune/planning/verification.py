"""Verification: everything that a plan says, recomputed from the network, trusting nothing in the file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from knapsack_prune.costs.counting import count_activations, count_params
from knapsack_prune.costs.peak_memory import live_tensors
from knapsack_prune.costs.registry import RESOURCES
from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import ChannelGraph, IntArray
from knapsack_prune.narrowing.copying import narrow_copy
from knapsack_prune.narrowing.equivalence import EquivalenceError, check_equivalence
from knapsack_prune.planning.identity import check_fingerprint, kept_units
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.planning.pricing import price_network
from knapsack_prune.settings.budget import amount
from knapsack_prune.settings.importance import IMAGE_CRITERIA, WEIGHT_CRITERIA
from knapsack_prune.tracing.trial import trace
from knapsack_prune.values.estimate import estimate_values
from knapsack_prune.values.losses import Batches
from knapsack_prune.values.value_file import examples_identity


class BrokenPlanError(RequestError):
    """A plan says something that does not hold."""


@dataclass(frozen=True)
class Check:
    """One claim that holds: what it is about, and what was recomputed."""

    claim: str
    result: str


@dataclass(frozen=True)
class Verification:
    """What was checked of a plan, in order; all of it holds."""

    checks: tuple[Check, ...]


@dataclass(frozen=True, eq=False)
class _Subject:
    """What the checks look at: a plan, its parent, the traced parent, and the units kept of each of its groups."""

    plan: Plan
    model: nn.Module
    graph: ChannelGraph
    kept: Sequence[IntArray]
    same_weights: bool
    data: Batches | None
    table: Path | None

    @property
    def counts(self) -> list[int]:
        return [len(units) for units in self.kept]


def verify(
    plan: Plan,
    model: nn.Module,
    *,
    same_weights: bool = True,
    data: Batches | None = None,
    table: Path | None = None,
    source: str = "the plan",
    enter: Callable[[str], None] = lambda step: None,
) -> Verification:
    """Check everything that a plan says: network, groups, costs, importance, and the slim network.

    Args:
        plan: what is doubted.
        model: the parent; left as it was.
        same_weights: the parent has the weights that the plan was made with; otherwise importance is not recomputed.
        data: the batches that values were made with, to make them anew; without them, they are only checked against
            each other.
        table: the latency table that the plan was made with; without it latency is not recomputed.
        source: what messages call the plan.
        enter: called with the name of every step.

    Raises:
        BrokenPlanError: a claim does not hold; the message names the first one.
        RequestError: the plan is of another network.
    """
    check_fingerprint(model, plan)
    enter("tracing")
    graph = trace(model, torch.zeros(1, *plan.model.input_shape))
    try:
        subject = _Subject(plan, model, graph, kept_units(graph, plan), same_weights, data, table)
        checks = [Check("fingerprint", plan.model.fingerprint), _check_groups(subject)]
        checks += _check_costs(subject)
        checks += _check_values(subject)
        enter("valuing")
        checks.append(_check_importance(subject))
        enter("slimming and checking")
        checks += _check_slim_network(subject)
    except (RequestError, EquivalenceError, IndexError, KeyError) as error:
        raise BrokenPlanError(
            f"{source} does not hold: {error}; the file was changed, so make the plan again"
        ) from error
    return Verification(tuple(checks))


def _check_groups(subject: _Subject) -> Check:
    """Every planned group is one of the network's (`kept_units` has made sure of it)."""
    planned, traced = len(subject.plan.groups), len(subject.graph.groups)
    return Check("groups", f"{planned} of the network's {traced} are planned, the rest stay")


def _check_costs(subject: _Subject) -> list[Check]:
    """Costs before and after are what pricing the network gives."""
    names = [part.resource for part in subject.plan.budgets if part.resource in RESOURCES]
    if subject.table is None and "latency" in names:
        names.remove("latency")
    resources = price_network(subject.graph, subject.model, names, table=subject.table, force=True)
    checks = []
    for budget in subject.plan.budgets:
        if budget.resource not in resources:
            why = "give its `latency_table`" if budget.resource == "latency" else "is no resource known here"
            checks.append(Check(budget.resource, f"not recomputed: {why}"))
            continue
        resource = resources[budget.resource]
        parent, planned = resource.parent, resource.cost(subject.counts)
        if (parent, planned) != (budget.parent, budget.planned):
            raise BrokenPlanError(
                f"{budget.resource} are {planned:,} of {parent:,}, the plan says {budget.planned:,} of "
                f"{budget.parent:,}"
            )
        shown = [amount(budget.resource, number) for number in (planned, parent, budget.limit)]
        result = f"{shown[0]} of {shown[1]}, within the limit of {shown[2]}"
        checks.append(Check(budget.resource, result))
    return checks


def _check_values(subject: _Subject) -> list[Check]:
    """The objective and the predicted loss are sums over the tables that the plan records."""
    said, solver = subject.plan.importance, subject.plan.solver
    valued = [group for group in subject.plan.groups if group.values]
    if not valued:
        return []
    if len(valued) < len(subject.plan.groups):
        raise BrokenPlanError(f"values are recorded for {len(valued)} of {len(subject.plan.groups)} groups")
    chosen, worth = [], 0.0
    for group in valued:
        count, values = len(group.kept), group.values or ()
        if sorted((group.order or ())[:count]) != list(group.kept):
            raise BrokenPlanError(
                f"group {group.name} does not keep its {count} most important units in the recorded order"
            )
        chosen.append(values[count - 1])
        worth += chosen[-1] - min(0.0, *values)
    if not _close(worth, solver.value):
        raise BrokenPlanError(
            f"the importance kept is {worth:.6g} by the recorded values, the plan says {solver.value:.6g}"
        )
    if said.predicted_loss is not None and not _close(-sum(chosen), said.predicted_loss):
        raise BrokenPlanError(
            f"the recorded losses add up to {-sum(chosen):.6g}, the plan says {said.predicted_loss:.6g}"
        )
    loss = "" if said.predicted_loss is None else f", a predicted loss of {said.predicted_loss:.4g}"
    return [Check("recorded values", f"add up to the objective, {solver.value:.6g}{loss}")]


def _close(found: float, said: float) -> bool:
    return abs(found - said) <= 1e-6 * max(1.0, abs(said))


def _check_importance(subject: _Subject) -> Check:
    """The most important units stay, and are worth what the plan says; scored anew where that can be done."""
    said, solver = subject.plan.importance, subject.plan.solver
    why = _obstacle(subject)
    if why is not None:
        return Check("importance", f"not recomputed: {why}")
    data = subject.data if said.criterion in IMAGE_CRITERIA else None
    tables = estimate_values(
        subject.graph, subject.model, said.criterion, data=data, seed=said.seed, normalize=said.normalize
    )
    planned = {group.name for group in subject.plan.groups}
    importance = 0.0
    for group, valued, units in zip(subject.graph.groups, tables.groups, subject.kept, strict=True):
        if group.name not in planned:
            continue
        if valued.kept(len(units)).tolist() != units.tolist():
            raise BrokenPlanError(f"group {group.name} does not keep its {len(units)} most important units")
        importance += float(valued.values[len(units) - 1]) - min(0.0, float(valued.values.min()))
    # Activations are not the same to the last bit on every machine, nor is what they add up to.
    tolerance = 1e-6 if data is None else 1e-3
    if abs(importance - solver.value) > tolerance * max(1.0, importance):
        raise BrokenPlanError(f"the importance kept is {importance:.6g}, the plan says {solver.value:.6g}")
    return Check(
        "importance", f"{said.criterion} kept is {importance:.6g}, at most {solver.bound:.6g} is possible"
    )


def _obstacle(subject: _Subject) -> str | None:
    """Why importance cannot be recomputed; None if it can."""
    said = subject.plan.importance
    if said.round is not None:
        return f"{said.criterion} was scored on the network of round {said.round}"
    if said.criterion not in (*WEIGHT_CRITERIA, "energy", *IMAGE_CRITERIA):
        return f"{said.criterion} is no criterion known here"
    if not subject.same_weights:
        return f"{said.criterion} belongs to other weights"
    options = said.options or {}
    if options.get("around"):
        return f"{said.criterion} was measured around the plan before the last round"
    if options.get("pairs"):
        return f"{said.criterion} comes with values of {options['pairs']} pairs of groups"
    if said.loss == "user":
        return f"{said.criterion} counts a loss that was given as a function"
    if said.criterion not in IMAGE_CRITERIA:
        return None
    if subject.data is None:
        return f"{said.criterion} needs the images that it was made with: give `data`"
    if len(subject.graph.groups) != len(subject.plan.groups):
        return f"{said.criterion} was made with layers pinned by `keep`"
    found, _ = examples_identity(subject.data)
    if said.images != found:
        return f"the images ({found[:19]}…) are others than those of the plan ({str(said.images)[:19]}…)"
    return None


def _check_slim_network(subject: _Subject) -> list[Check]:
    """The slim network computes what the masked parent does, and costs what the plan says."""
    plan, selection = subject.plan, subject.plan.selection()
    small = narrow_copy(subject.model, selection)
    report = check_equivalence(subject.model, small, selection, plan.model.input_shape, plan.planned_flops)
    params = plan.budget("params")
    if params is not None and count_params(small) != params.planned:
        raise BrokenPlanError(
            f"the slim network has {count_params(small):,} parameters, not {params.planned:,}"
        )
    checks = []
    if report.flops is not None:
        checks.append(Check("fvcore's recount", f"{report.flops:,}, as planned"))
    checks += _recounts(plan, small)
    outputs = (
        f"not comparable: {', '.join(report.reductions)}"
        if report.difference is None
        else f"outputs differ by {report.difference:.1e} of the largest"
    )
    return [*checks, Check("slim against masked", outputs)]


def _recounts(plan: Plan, small: nn.Module) -> list[Check]:
    """Activations and peak memory, counted in the slim network itself."""
    checks = []
    written, memory = plan.budget("activations"), plan.budget("peak_memory")
    if written is not None:
        counted = count_activations(small, plan.model.input_shape)
        if counted != written.planned:
            raise BrokenPlanError(f"the slim network writes {counted:,} activations, not {written.planned:,}")
        checks.append(Check("activations recounted", f"{counted:,}, as planned"))
    if memory is not None:
        reference = next(small.parameters())
        example = torch.zeros(1, *plan.model.input_shape, device=reference.device, dtype=reference.dtype)
        peak = live_tensors(small, example).peak
        if peak > memory.planned:
            raise BrokenPlanError(
                f"the slim network holds {peak:,} bytes at once, more than {memory.planned:,}"
            )
        checks.append(Check("peak memory run", f"{peak:,} bytes at once, {memory.planned:,} planned"))
    return checks
