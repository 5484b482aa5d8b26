"""Verification: everything that a plan says, recomputed from the network, trusting nothing in the file."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from knapsack_prune.costs.counting import count_activations, count_params
from knapsack_prune.costs.peak_memory import live_tensors
from knapsack_prune.costs.registry import RESOURCES
from knapsack_prune.costs.resource import Resource
from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import ChannelGraph, Group, IntArray
from knapsack_prune.narrowing.copying import narrow_copy
from knapsack_prune.narrowing.equivalence import EquivalenceError, check_equivalence
from knapsack_prune.planning.allocation import best_value, worth_of_more
from knapsack_prune.planning.assembly import LEAST_WORTH, importance_part
from knapsack_prune.planning.constraints import Levels, allowed_levels
from knapsack_prune.planning.identity import check_fingerprint, kept_units
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.planning.pricing import price_network
from knapsack_prune.planning.problem import build_problem
from knapsack_prune.planning.structure import check_structure
from knapsack_prune.settings import WidthConstraints
from knapsack_prune.settings.budget import amount
from knapsack_prune.settings.importance import IMAGE_CRITERIA, WEIGHT_CRITERIA
from knapsack_prune.values.estimate import estimate_values
from knapsack_prune.values.losses import Batches
from knapsack_prune.values.tables import GroupValues, Provenance, ValueTables, value_tables
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
    """What was checked of a plan, in order, and all of it holds; and the keys that nothing was compared with.

    Attributes:
        checks: every claim that was recomputed.
        trusted: keys of the plan that are taken on trust, as in `solver.seconds` or `budgets.*.limit`.
    """

    checks: tuple[Check, ...]
    trusted: tuple[str, ...]


LABELS = ("model.name", "model.weights", "importance.seed")
SOLVER_LABELS = ("solver.name", "solver.version", "solver.seconds", "solver.seed")
REQUEST = ("budgets.*.limit", "groups.*.round_to", "groups.*.levels", "ties")
"""What was asked for: the proof is about that, and nothing tells whether it is what the user meant."""
PROOF = ("solver.status", "solver.bound", "solver.gap", "budgets.*.binds", "budgets.*.worth_of_percent")
VALUES = (
    *("importance.criterion", "importance.samples", "importance.normalize", "importance.round"),
    *("importance.loss", "importance.images", "importance.options"),
)
RECORDED = ("groups.*.order", "groups.*.values")
SUMMED = ("solver.value", "importance.predicted_loss", "groups.*.kept")


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
    quick: bool = False,
    time_limit: float = 10.0,
    source: str = "the plan",
    enter: Callable[[str], None] = lambda step: None,
) -> Verification:
    """Check everything that a plan says: network, groups, costs, importance, the proof, and the slim network.

    Args:
        plan: what is doubted.
        model: the parent; left as it was.
        same_weights: the parent has the weights that the plan was made with; otherwise importance is not recomputed.
        data: the batches that values were made with, to make them anew; without them, those that the plan records are
            only checked against each other.
        table: the latency table that the plan was made with; without it latency is not recomputed.
        quick: do not solve the problem again; the proof is taken on trust.
        time_limit: seconds to solve it in.
        source: what messages call the plan.
        enter: called with the name of every step.

    Raises:
        BrokenPlanError: a claim does not hold; the message names the first one.
        RequestError: the plan is of another network.
    """
    check_fingerprint(model, plan)
    enter("tracing")
    trusted = [*LABELS, *SOLVER_LABELS, *REQUEST, *(["search"] if plan.search else [])]
    try:
        graph = check_structure(model, plan)
        subject = _Subject(plan, model, graph, kept_units(graph, plan), same_weights, data, table)
        checks = [Check("fingerprint", plan.model.fingerprint), _check_groups(subject)]
        resources = _priced(subject)
        checks += _check_costs(subject, resources)
        for missing in {budget.resource for budget in plan.budgets} - resources.keys():
            trusted += [
                f"budgets.{missing}.{key}" for key in ("parent", "planned", "note", "conditions", "unit")
            ]
        checks += _check_values(subject)
        enter("valuing")
        why, recorded = _obstacle(subject), _recorded_tables(subject)
        if why is None:
            tables: ValueTables | None = _made_again(subject)
            assert tables is not None
            checks.append(_check_importance(subject, tables, recorded))
        else:
            tables = recorded
            checks.append(Check("importance", f"not recomputed: {why}"))
            trusted += [*VALUES, *(SUMMED if recorded is None else RECORDED)]
        missing_why = _unsolvable(subject, tables, resources)
        if quick or tables is None or missing_why is not None:
            checks.append(
                Check("proof", f"not solved again: {missing_why or 'it was not asked for (`quick`)'}")
            )
            trusted += PROOF
        else:
            enter("solving again")
            proof, confirmed = _check_proof(subject, tables, resources, time_limit, exact=why is None)
            checks.append(proof)
            trusted += [] if confirmed else PROOF[:3]
        enter("slimming and checking")
        checks += _check_slim_network(subject)
    except (RequestError, EquivalenceError, IndexError, KeyError) as error:
        remedy = "" if "make it again" in str(error) else "; the file was changed, so make the plan again"
        raise BrokenPlanError(f"{source} does not hold: {error}{remedy}") from error
    return Verification(tuple(checks), tuple(trusted))


def _check_groups(subject: _Subject) -> Check:
    """What the plan says of the network is what tracing finds (`check_structure` has made sure of it)."""
    plan = subject.plan
    found = f"{len(plan.groups)} groups, {len(plan.layers)} layers, {len(plan.frozen)} frozen"
    return Check("structure", f"{found}, as traced")


def _priced(subject: _Subject) -> dict[str, Resource]:
    """The plan's resources that can be priced here."""
    names = [part.resource for part in subject.plan.budgets]
    for name in names:
        if name not in RESOURCES:
            raise BrokenPlanError(f"{name} is no resource known here: there are {', '.join(RESOURCES)}")
    if subject.table is None and "latency" in names:
        names.remove("latency")
    return price_network(subject.graph, subject.model, names, table=subject.table, force=True)


def _check_costs(subject: _Subject, resources: Mapping[str, Resource]) -> list[Check]:
    """Costs before and after are what pricing the network gives."""
    checks = []
    for budget in subject.plan.budgets:
        if budget.resource not in resources:
            checks.append(Check(budget.resource, "not recomputed: give its `latency_table`"))
            continue
        resource = resources[budget.resource]
        parent, planned = resource.parent, resource.cost(subject.counts)
        if (parent, planned) != (budget.parent, budget.planned):
            raise BrokenPlanError(
                f"{budget.resource} are {planned:,} of {parent:,}, the plan says {budget.planned:,} of "
                f"{budget.parent:,}"
            )
        for key, own in (("unit", resource.unit), ("note", resource.note or None)):
            # What a table was forced to answer for is added to its note.
            if getattr(budget, key) != own and budget.resource != "latency":
                raise BrokenPlanError(
                    f"{budget.resource}: {key} is {own!r}, the plan says {getattr(budget, key)!r}"
                )
        if budget.conditions != resource.conditions:
            raise BrokenPlanError(f"{budget.resource}: the conditions are not those of its table")
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


def _made_again(subject: _Subject) -> ValueTables:
    """The values, estimated as the plan says that they were."""
    said = subject.plan.importance
    data = subject.data if said.criterion in IMAGE_CRITERIA else None
    return estimate_values(
        subject.graph, subject.model, said.criterion, data=data, seed=said.seed, normalize=said.normalize
    )


def _recorded_tables(subject: _Subject) -> ValueTables | None:
    """The values that the plan records; None where there are none."""
    parts, said = subject.plan.groups, subject.plan.importance
    groups = [
        GroupValues(np.array(part.order, dtype=np.int64), np.array(part.values, dtype=np.float64))
        for part in parts
        if part.order and part.values
    ]
    if not groups:
        return None
    return value_tables(subject.graph, groups, Provenance(said.criterion, said.samples, said.seed, said.loss))


def _check_importance(subject: _Subject, tables: ValueTables, recorded: ValueTables | None) -> Check:
    """The most important units stay, and are worth what the plan says, by values that were made again."""
    said, solver = subject.plan.importance, subject.plan.solver
    importance, tolerance = 0.0, _tolerance(subject)
    for group, valued, units in zip(subject.graph.groups, tables.groups, subject.kept, strict=True):
        if valued.kept(len(units)).tolist() != units.tolist():
            raise BrokenPlanError(f"group {group.name} does not keep its {len(units)} most important units")
        importance += float(valued.values[len(units) - 1]) - min(0.0, float(valued.values.min()))
    if abs(importance - solver.value) > tolerance * max(1.0, importance):
        raise BrokenPlanError(f"the importance kept is {importance:.6g}, the plan says {solver.value:.6g}")
    for group, valued, written in zip(
        subject.graph.groups, tables.groups, recorded.groups if recorded else (), strict=bool(recorded)
    ):
        scale = tolerance * max(1.0, float(np.abs(valued.values).max()))
        if (
            valued.values.shape != written.values.shape
            or float(np.abs(valued.values - written.values).max()) > scale
            or (tolerance < 1e-5 and valued.order.tolist() != written.order.tolist())
        ):
            raise BrokenPlanError(
                f"group {group.name}: the recorded values are not those of {said.criterion}"
            )
    own = importance_part(tables, subject.counts)
    for key in ("samples", "loss", "images", "options", "round"):
        if getattr(own, key) != getattr(said, key):
            raise BrokenPlanError(
                f"importance.{key} is {getattr(said, key)!r}, made again it is {getattr(own, key)!r}"
            )
    if (own.predicted_loss is None) != (said.predicted_loss is None) or (
        own.predicted_loss is not None
        and said.predicted_loss is not None
        and abs(own.predicted_loss - said.predicted_loss) > tolerance * max(1.0, abs(own.predicted_loss))
    ):
        raise BrokenPlanError(
            f"importance.predicted_loss is {said.predicted_loss}, made again it is {own.predicted_loss}"
        )
    return Check("importance", f"{said.criterion} kept is {importance:.6g}")


def _tolerance(subject: _Subject) -> float:
    """Activations are not the same to the last bit on every machine, nor is what they add up to."""
    return 1e-3 if subject.plan.importance.criterion in IMAGE_CRITERIA else 1e-6


def _unsolvable(
    subject: _Subject, tables: ValueTables | None, resources: Mapping[str, Resource]
) -> str | None:
    """Why the problem cannot be solved again; None if it can."""
    if tables is None:
        return f"the values of {subject.plan.importance.criterion} are neither recorded nor recomputed"
    if len(resources) < len(subject.plan.budgets):
        return "times need their `latency_table`"
    if (subject.plan.importance.options or {}).get("pairs"):
        return "values of pairs of groups are not recorded"
    return None


def _check_proof(
    subject: _Subject, tables: ValueTables, resources: Mapping[str, Resource], seconds: float, *, exact: bool
) -> tuple[Check, bool]:
    """Solve the plan's problem again: its value, bound and status are confirmed, refuted, or left open in that time.

    Returns:
        The check, and whether it confirms.
    """
    plan, solver = subject.plan, subject.plan.solver
    limits = {part.resource: part.limit for part in plan.budgets}
    index = {group.name: at for at, group in enumerate(subject.graph.groups)}
    problem = build_problem(
        subject.graph,
        tables,
        limits,
        resources=resources,
        levels=_levels(plan),
        tied=[tuple(index[name] for name in tied) for tied in plan.ties],
        name=plan.model.name,
    )
    for part, allowed in zip(plan.groups, problem.allowed, strict=True):
        if len(part.kept) not in allowed:
            raise BrokenPlanError(
                f"group {part.name} keeps {len(part.kept)} units, no multiple of its round_to"
            )
    value, bound, rounding = best_value(problem, seconds, solver.seed)
    slack = 2 * rounding + (_tolerance(subject) if exact else 1e-6) * abs(solver.value)
    if value > solver.bound + slack:
        raise BrokenPlanError(
            f"solver.bound is {solver.bound:.8g}, but another allowed plan keeps {value:.8g}: status "
            f"{solver.status} is refuted"
        )
    if bound > solver.bound + slack:
        open_ = f"solved again for {seconds:g} s, {bound:.6g} is not ruled out: neither confirmed nor refuted"
        return Check("proof", f"{open_}; more with `time_limit`"), False
    _check_worth(plan, worth_of_more(problem, seconds, solver.seed))
    return Check("proof", f"{solver.status}: solved again, no allowed plan keeps more than {bound:.6g}"), True


def _levels(plan: Plan) -> Levels:
    """The widths that were allowed, as the plan records them."""
    parts = {part.name: part for part in plan.groups}

    def levels(group: Group) -> IntArray:
        part = parts[group.name]
        if part.levels is not None:
            return np.array(part.levels, dtype=np.int64)
        return allowed_levels(WidthConstraints(round_to=part.round_to))(group)

    return levels


def _check_worth(plan: Plan, worth: Mapping[str, float]) -> None:
    """What one more percent of each budget buys, where the plan says it."""
    for budget in plan.budgets:
        said, own = budget.worth_of_percent, worth.get(budget.resource)
        if own is None or (said is None and budget.binds is None):
            continue
        if said is None or abs(said - own) > 1e-6 + 0.05 * own:
            raise BrokenPlanError(f"{budget.resource}: one more percent buys {own:.3g}, the plan says {said}")
        if budget.binds != (said > LEAST_WORTH):
            raise BrokenPlanError(
                f"{budget.resource}: binds is {budget.binds}, one more percent buys {own:.3g}"
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
