"""What a plan says of values and of the proof, made again from the network or from what the plan records."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from knapsack_prune.costs.resource import Resource
from knapsack_prune.graph.channel_graph import Group, IntArray
from knapsack_prune.planning.allocation import best_value, worth_of_more
from knapsack_prune.planning.assembly import LEAST_WORTH, importance_part, multiplier
from knapsack_prune.planning.claims import BrokenPlanError, Check, Subject
from knapsack_prune.planning.constraints import Levels, allowed_levels
from knapsack_prune.planning.next_widths import next_widths
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.planning.plan_parts import GroupPart, RoundPart
from knapsack_prune.planning.problem import Problem, build_problem
from knapsack_prune.settings import WidthConstraints
from knapsack_prune.settings.importance import IMAGE_CRITERIA, WEIGHT_CRITERIA
from knapsack_prune.values.estimate import estimate_values
from knapsack_prune.values.tables import GroupValues, Provenance, ValueTables, value_tables
from knapsack_prune.values.value_file import examples_identity


def check_values(subject: Subject) -> list[Check]:
    """The objective and the predicted loss are sums over the tables that the plan records.

    What an accepted round predicted is of the repaired network, and stands in the round as well.
    """
    said, solver = subject.plan.importance, subject.plan.solver
    valued = [group for group in subject.plan.groups if group.values]
    if not valued:
        return []
    if len(valued) < len(subject.plan.groups):
        raise BrokenPlanError(f"values are recorded for {len(valued)} of {len(subject.plan.groups)} groups")
    chosen, worth = [], 0.0
    for group in valued:
        count, tables = len(group.kept), _recorded(group)
        if sorted((group.order or ())[:count]) != list(group.kept):
            raise BrokenPlanError(
                f"group {group.name} does not keep its {count} most important units in the recorded order"
            )
        if not count and group.none is None:
            raise BrokenPlanError(f"group {group.name} keeps no unit, and no value is recorded for that")
        chosen.append(float(tables.at(np.array(count))))
        worth += chosen[-1] - tables.least
    if not _close(worth, solver.value):
        raise BrokenPlanError(
            f"the importance kept is {worth:.6g} by the recorded values, the plan says {solver.value:.6g}"
        )
    tried = subject.plan.search and subject.plan.search.written()
    told = tried.predicted_loss if isinstance(tried, RoundPart) else -sum(chosen)
    if said.predicted_loss is not None and (told is None or not _close(told, said.predicted_loss)):
        raise BrokenPlanError(
            f"the predicted loss is {told:.6g} by the recorded values or the round, the plan says "
            f"{said.predicted_loss:.6g}"
        )
    loss = "" if said.predicted_loss is None else f", a predicted loss of {said.predicted_loss:.4g}"
    return [Check("recorded values", f"add up to the objective, {solver.value:.6g}{loss}")]


def _recorded(part: GroupPart) -> GroupValues:
    """The values that a plan records of a group."""
    order, values = np.array(part.order, dtype=np.int64), np.array(part.values, dtype=np.float64)
    return GroupValues(order, values, part.none)


def _close(found: float, said: float) -> bool:
    return abs(found - said) <= 1e-6 * max(1.0, abs(said))


def made_again(subject: Subject) -> ValueTables:
    """The values, estimated as the plan says that they were."""
    said = subject.plan.importance
    data = subject.data if said.criterion in IMAGE_CRITERIA else None
    return estimate_values(
        subject.graph,
        subject.model,
        said.criterion,
        data=data,
        seed=said.seed,
        normalize=said.normalize,
        block_removal=any(0 in (group.levels or ()) for group in subject.plan.groups),
    )


def recorded_tables(subject: Subject) -> ValueTables | None:
    """The values that the plan records; None where there are none."""
    parts, said = subject.plan.groups, subject.plan.importance
    groups = [_recorded(part) for part in parts if part.order and part.values]
    if not groups:
        return None
    return value_tables(subject.graph, groups, Provenance(said.criterion, said.samples, said.seed, said.loss))


def check_importance(subject: Subject, tables: ValueTables, recorded: ValueTables | None) -> Check:
    """The most important units stay, and are worth what the plan says, by values that were made again."""
    said, solver = subject.plan.importance, subject.plan.solver
    importance, tolerance = 0.0, _tolerance(subject)
    for group, valued, units in zip(subject.graph.groups, tables.groups, subject.kept, strict=True):
        if valued.kept(len(units)).tolist() != units.tolist():
            raise BrokenPlanError(f"group {group.name} does not keep its {len(units)} most important units")
        importance += float(valued.at(np.array(len(units)))) - valued.least
    if abs(importance - solver.value) > tolerance * max(1.0, importance):
        raise BrokenPlanError(f"the importance kept is {importance:.6g}, the plan says {solver.value:.6g}")
    for group, valued, written in zip(
        subject.graph.groups, tables.groups, recorded.groups if recorded else (), strict=bool(recorded)
    ):
        scale = tolerance * max(1.0, float(np.abs(valued.values).max()))
        if (
            valued.values.shape != written.values.shape
            or float(np.abs(valued.values - written.values).max()) > scale
            or (written.none is not None and abs(written.none - (valued.none or 0.0)) > scale)
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


def _tolerance(subject: Subject) -> float:
    """Activations are not the same to the last bit on every machine, nor is what they add up to."""
    return 1e-3 if subject.plan.importance.criterion in IMAGE_CRITERIA else 1e-6


def unsolvable(subject: Subject, tables: ValueTables | None, resources: Mapping[str, Resource]) -> str | None:
    """Why the problem cannot be solved again; None if it can."""
    if tables is None:
        return f"the values of {subject.plan.importance.criterion} are neither recorded nor recomputed"
    if len(resources) < len(subject.plan.budgets):
        return "times need their `latency_table`"
    if (subject.plan.importance.options or {}).get("pairs"):
        return "values of pairs of groups are not recorded"
    return None


def stated_problem(subject: Subject, tables: ValueTables, resources: Mapping[str, Resource]) -> Problem:
    """The problem that the plan says it answers."""
    plan = subject.plan
    index = {group.name: at for at, group in enumerate(subject.graph.groups)}
    return build_problem(
        subject.graph,
        tables,
        {part.resource: part.limit for part in plan.budgets},
        resources=resources,
        levels=_levels(plan),
        tied=[tuple(index[name] for name in tied) for tied in plan.ties],
        name=plan.model.name,
    )


def check_next_widths(
    subject: Subject, tables: ValueTables, resources: Mapping[str, Resource], *, exact: bool
) -> None:
    """What the plan says of the next width of every group, in value and in costs."""
    problem = stated_problem(subject, tables, resources)
    own = next_widths(problem, tables, subject.counts, resources)
    scale = (_tolerance(subject) if exact else 1e-6) * max(1.0, abs(subject.plan.solver.value))
    for part, wider in zip(subject.plan.groups, own, strict=True):
        said = part.next
        if said is None and wider is None:
            continue
        same = (
            said is not None and wider is not None and (said.units, said.costs) == (wider.units, wider.costs)
        )
        if said is None or wider is None or not same or abs(said.value - wider.value) > scale:
            raise BrokenPlanError(
                f"group {part.name}: next is {said}, by the network and its values it is {wider}"
            )


def check_proof(
    subject: Subject, tables: ValueTables, resources: Mapping[str, Resource], seconds: float, *, exact: bool
) -> tuple[Check, bool]:
    """Solve the plan's problem again: its value, bound and status are confirmed, refuted, or left open in that time.

    Returns:
        The check, and whether it confirms.
    """
    plan, solver = subject.plan, subject.plan.solver
    problem = stated_problem(subject, tables, resources)
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
    _check_worth(plan, worth_of_more(problem, seconds, solver.seed), tables.whole)
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


def _check_worth(plan: Plan, worth: Mapping[str, float], whole: float) -> None:
    """What one more percent of each budget buys, where the plan says it; `whole` is what all units are worth."""
    for budget in plan.budgets:
        said, own = budget.worth_of_percent, worth.get(budget.resource)
        if own is None or (said is None and budget.binds is None):
            continue
        if said is None or abs(said - own) > 1e-6 + 0.05 * own:
            raise BrokenPlanError(f"{budget.resource}: one more percent buys {own:.3g}, the plan says {said}")
        price = multiplier(said, whole, budget.limit)
        if (price is None) != (budget.multiplier is None) or not math.isclose(
            price or 0.0, budget.multiplier or 0.0, rel_tol=1e-3, abs_tol=1e-300
        ):
            raise BrokenPlanError(
                f"{budget.resource}: the multiplier is {price} by `worth_of_percent`, the plan says {budget.multiplier}"
            )
        if budget.binds != (said > LEAST_WORTH):
            raise BrokenPlanError(
                f"{budget.resource}: binds is {budget.binds}, one more percent buys {own:.3g}"
            )


def obstacle(subject: Subject) -> str | None:
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
