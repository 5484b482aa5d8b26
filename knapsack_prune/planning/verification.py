"""Verification: everything that a plan says, recomputed from the network, trusting nothing in the file."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from knapsack_prune.costs.counting import count_activations, count_params
from knapsack_prune.costs.peak_memory import live_tensors
from knapsack_prune.costs.registry import RESOURCES
from knapsack_prune.costs.resource import Resource
from knapsack_prune.errors import RequestError
from knapsack_prune.markup import html_table
from knapsack_prune.narrowing.copying import narrow_copy
from knapsack_prune.narrowing.equivalence import EquivalenceError, check_equivalence
from knapsack_prune.planning.claims import BrokenPlanError, Check, Subject
from knapsack_prune.planning.identity import check_fingerprint, check_weights, kept_units
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.planning.pricing import price_network
from knapsack_prune.planning.structure import check_structure
from knapsack_prune.planning.value_claims import (
    check_importance,
    check_next_widths,
    check_proof,
    check_values,
    made_again,
    obstacle,
    recorded_tables,
    unsolvable,
)
from knapsack_prune.settings.budget import amount
from knapsack_prune.values.losses import Batches
from knapsack_prune.values.tables import ValueTables


@dataclass(frozen=True)
class Verification:
    """What was checked of a plan, in order, and all of it holds; and the keys that nothing was compared with.

    Attributes:
        checks: every claim that was recomputed.
        trusted: keys of the plan that are taken on trust, as in `solver.seconds` or `budgets.*.limit`.
    """

    checks: tuple[Check, ...]
    trusted: tuple[str, ...]

    def _repr_html_(self) -> str:
        rows = [(check.claim, check.result) for check in self.checks]
        return html_table("Holds", ("what", "found"), [*rows, ("taken on trust", ", ".join(self.trusted))])


LABELS = ("model.name", "model.weights", "importance.seed")
SOLVER_LABELS = ("solver.name", "solver.version", "solver.seconds", "solver.seed")
REQUEST = ("budgets.*.limit", "groups.*.round_to", "groups.*.levels", "ties")
"""What was asked for: the proof is about that, and nothing tells whether it is what the user meant."""
PROOF = (
    *("solver.status", "solver.bound", "solver.gap"),
    *("budgets.*.binds", "budgets.*.worth_of_percent", "budgets.*.multiplier"),
)
NEXT = "groups.*.next"
VALUES = (
    *("importance.criterion", "importance.samples", "importance.normalize", "importance.round"),
    *("importance.loss", "importance.images", "importance.options"),
)
RECORDED = ("groups.*.order", "groups.*.values", "groups.*.none")
SUMMED = ("solver.value", "importance.predicted_loss", "groups.*.kept")


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
        same_weights: the parent is to have the weights that the plan was made with; otherwise importance is not
            recomputed.
        data: the batches that values were made with, to make them anew; without them, those that the plan records are
            only checked against each other.
        table: the latency table that the plan was made with; without it latency is not recomputed.
        quick: do not solve the problem again; the proof is taken on trust.
        time_limit: seconds to solve it in.
        source: what messages call the plan.
        enter: called with the name of every step.

    Raises:
        BrokenPlanError: a claim does not hold; the message names the first one.
        RequestError: the plan is of another network, or of other weights.
    """
    check_fingerprint(model, plan)
    if same_weights:
        check_weights(model, plan)
    enter("tracing")
    there = {"search": plan.search, "data": plan.data, "model.inputs": plan.model.inputs}
    trusted = [*LABELS, *SOLVER_LABELS, *REQUEST, *(key for key, part in there.items() if part)]
    try:
        graph = check_structure(model, plan)
        subject = Subject(plan, model, graph, kept_units(graph, plan), same_weights, data, table)
        checks = [Check("fingerprint", plan.model.fingerprint), _check_groups(subject)]
        if same_weights and plan.model.weights_digest is not None:
            checks.append(Check("weights", plan.model.weights_digest))
        else:
            trusted.append("model.weights_digest")
        resources = _priced(subject)
        checks += _check_costs(subject, resources)
        for missing in {budget.resource for budget in plan.budgets} - resources.keys():
            trusted += [
                f"budgets.{missing}.{key}" for key in ("parent", "planned", "note", "conditions", "unit")
            ]
        checks += check_values(subject)
        enter("valuing")
        why, recorded = obstacle(subject), recorded_tables(subject)
        if why is None:
            tables: ValueTables | None = made_again(subject)
            assert tables is not None
            checks.append(check_importance(subject, tables, recorded))
        else:
            tables = recorded
            checks.append(Check("importance", f"not recomputed: {why}"))
            trusted += [*VALUES, *(SUMMED if recorded is None else RECORDED)]
        missing_why = unsolvable(subject, tables, resources)
        if tables is None or missing_why is not None:
            trusted.append(NEXT)
        else:
            check_next_widths(subject, tables, resources, exact=why is None)
        if quick or tables is None or missing_why is not None:
            checks.append(
                Check("proof", f"not solved again: {missing_why or 'it was not asked for (`quick`)'}")
            )
            trusted += PROOF
        else:
            enter("solving again")
            proof, confirmed = check_proof(subject, tables, resources, time_limit, exact=why is None)
            checks.append(proof)
            trusted += [] if confirmed else PROOF[:3]
        enter("slimming and checking")
        checks += _check_slim_network(subject)
    except (RequestError, EquivalenceError, IndexError, KeyError) as error:
        remedy = "" if "make it again" in str(error) else "; the file was changed, so make the plan again"
        raise BrokenPlanError(f"{source} does not hold: {error}{remedy}") from error
    return Verification(tuple(checks), tuple(trusted))


def _check_groups(subject: Subject) -> Check:
    """What the plan says of the network is what tracing finds (`check_structure` has made sure of it)."""
    plan = subject.plan
    found = f"{len(plan.groups)} groups, {len(plan.layers)} layers, {len(plan.frozen)} frozen"
    return Check("structure", f"{found}, as traced")


def _priced(subject: Subject) -> dict[str, Resource]:
    """The plan's resources that can be priced here."""
    names = [part.resource for part in subject.plan.budgets]
    for name in names:
        if name not in RESOURCES:
            raise BrokenPlanError(f"{name} is no resource known here: there are {', '.join(RESOURCES)}")
    if subject.table is None and "latency" in names:
        names.remove("latency")
    return price_network(subject.graph, subject.model, names, table=subject.table, force=True)


def _check_costs(subject: Subject, resources: Mapping[str, Resource]) -> list[Check]:
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


def _check_slim_network(subject: Subject) -> list[Check]:
    """The slim network computes what the masked parent does, and costs what the plan says."""
    plan, selection = subject.plan, subject.plan.selection()
    small = narrow_copy(subject.model, selection)
    report = check_equivalence(subject.model, small, selection, plan.model.example(), plan.planned_flops)
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
        counted = count_activations(small, plan.model.example())
        if counted != written.planned:
            raise BrokenPlanError(f"the slim network writes {counted:,} activations, not {written.planned:,}")
        checks.append(Check("activations recounted", f"{counted:,}, as planned"))
    if memory is not None:
        peak = live_tensors(small, plan.model.example()).peak
        if peak > memory.planned:
            raise BrokenPlanError(
                f"the slim network holds {peak:,} bytes at once, more than {memory.planned:,}"
            )
        checks.append(Check("peak memory run", f"{peak:,} bytes at once, {memory.planned:,} planned"))
    return checks
