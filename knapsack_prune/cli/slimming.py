"""`slim` and `verify`: from a plan to the small network, and to the truth of what the plan says."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from knapsack_prune.cli.command import command
from knapsack_prune.cli.console import Stages, notes, output, stages
from knapsack_prune.cli.reading import PlanFile
from knapsack_prune.errors import RequestError
from knapsack_prune.settings import NetworkSettings

if TYPE_CHECKING:
    from knapsack_prune.networks import Network
    from knapsack_prune.planning.plan_file import Plan


@command
def slim(
    plan_file: PlanFile,
    /,
    *,
    directory: Annotated[
        Path,
        Parameter(
            name=["--output", "-o"],
            help="Write model.safetensors, plan.json and config.json into this directory.",
        ),
    ],
    network: NetworkSettings,
) -> None:
    """Make the small network that a plan describes, and check it against its parent.

    The parent is rebuilt from what the plan says; options override it (a plan of a --checkpoint needs it
    again).
    """
    from knapsack_prune.cli.loading import check_writable, load_parent, quiet_libraries
    from knapsack_prune.planning.plan_file import Plan
    from knapsack_prune.slimming.slim import check_fingerprint, save_slim
    from knapsack_prune.slimming.slim import slim as make_slim

    found = Plan.load(plan_file)
    check_writable(directory, directory=True)
    with stages() as progress:
        progress.enter("loading the network")
        parent = load_parent(network, found)
        check_fingerprint(parent.model, found)
        progress.enter("slimming and checking")
        with quiet_libraries(), _holds(plan_file):
            small = make_slim(parent.model, found)
        progress.enter("writing")
        save_slim(small, found, directory)
    before, after = (sum(p.numel() for p in network.parameters()) for network in (parent.model, small))
    console = output()
    console.print(
        f"{found.model.name}: {before:,} parameters, slim {after:,} ({100 * after / before:.2f} %)."
    )
    console.print("The slim network equals the masked parent, and fvcore counts in it what the plan says.")
    notes().print(f"Written: {directory}", markup=False)


@command
def verify(
    plan_file: PlanFile,
    /,
    *,
    network: NetworkSettings,
) -> None:
    """Check everything a plan says, trusting none of it: network, groups, costs, importance, slim output."""
    from rich.markup import escape
    from rich.table import Table

    from knapsack_prune.cli.loading import load_parent
    from knapsack_prune.planning.plan_file import Plan

    found = Plan.load(plan_file)
    with stages() as progress:
        progress.enter("loading the network")
        parent = load_parent(network, found)
        checks = _verified(plan_file, found, parent, progress)
    table = Table(title=f"{escape(str(plan_file))} holds", title_justify="left")
    table.add_column("what")
    table.add_column("found", overflow="fold")
    for what, result in checks:
        table.add_row(what, escape(result))
    output().print(table)


def _verified(path: Path, plan: Plan, parent: Network, progress: Stages) -> list[tuple[str, str]]:
    """What was checked and found, in order; the first claim that does not hold is a `RequestError`."""
    import torch

    from knapsack_prune.cli.loading import quiet_libraries
    from knapsack_prune.costs.counting import count_params, total
    from knapsack_prune.planning.allocation import ranked
    from knapsack_prune.settings.importance import DATA_CRITERIA, WEIGHT_CRITERIA
    from knapsack_prune.slimming.equivalence import check_slim
    from knapsack_prune.slimming.slicing import sliced_copy
    from knapsack_prune.slimming.slim import check_fingerprint
    from knapsack_prune.tracing.trial import trace
    from knapsack_prune.values.criteria import score

    check_fingerprint(parent.model, plan)
    checks = [("fingerprint", plan.model.fingerprint)]

    progress.enter("tracing")
    with quiet_libraries():
        graph = trace(parent.model, torch.zeros(1, *parent.input_shape))
    kept = {group.name: group.kept for group in plan.groups}
    sizes = {group.name: group.size for group in graph.groups}
    for group in plan.groups:
        if sizes.get(group.name) != group.size:
            raise _broken(path, f"group {group.name} of {group.size} units is not in the network")
    # A group of the network that the plan does not list was pinned: all of it stays.
    counts = [len(kept.get(group.name, range(group.size))) for group in graph.groups]
    checks.append(
        ("groups", f"{len(plan.groups)} of the network's {len(graph.groups)} are planned, the rest stay")
    )

    terms = graph.cost_terms()
    for budget in plan.budgets:
        if budget.resource not in terms:
            continue
        parent_cost, planned = (
            total(terms[budget.resource], graph.sizes),
            total(terms[budget.resource], counts),
        )
        if (parent_cost, planned) != (budget.parent, budget.planned):
            raise _broken(
                path,
                f"{budget.resource} are {planned:,} of {parent_cost:,}, the plan says {budget.planned:,} of "
                f"{budget.parent:,}",
            )
        checks.append(
            (budget.resource, f"{planned:,} of {parent_cost:,}, within the limit of {budget.limit:,}")
        )

    criterion = plan.importance.criterion
    if criterion in WEIGHT_CRITERIA and parent.weights == plan.model.weights:
        scores = score(
            graph,
            parent.model,
            criterion,
            seed=plan.importance.seed,
            normalize=plan.importance.normalize,
        )
        value = 0.0
        for scored, values in zip(graph.groups, scores.values, strict=True):
            units = list(kept.get(scored.name, ()))
            if sorted(ranked(values)[: len(units)].tolist()) != units:
                raise _broken(
                    path, f"group {scored.name} does not keep its {len(units)} most important units"
                )
            value += float(values[units].sum())
        if abs(value - plan.solver.value) > 1e-6 * max(1.0, value):
            raise _broken(path, f"the importance kept is {value:.6g}, the plan says {plan.solver.value:.6g}")
        checks.append(
            ("importance", f"{criterion} kept is {value:.6g}, at most {plan.solver.bound:.6g} is possible")
        )
    else:
        why = "needs data" if criterion in DATA_CRITERIA else "belongs to other weights"
        checks.append(("importance", f"not recomputed: {criterion} {why}"))

    progress.enter("slimming and checking")
    with quiet_libraries(), _holds(path):
        small = sliced_copy(parent.model, plan)
        report = check_slim(parent.model, small, plan)
    params = plan.budget("params")
    if params is not None and count_params(small) != params.planned:
        raise _broken(
            path, f"the slim network has {count_params(small):,} parameters, not {params.planned:,}"
        )
    if report.flops is not None:
        checks.append(("fvcore's recount", f"{report.flops:,}, as planned"))
    if report.difference is None:
        checks.append(("slim against masked", f"not comparable: {', '.join(report.mixing)}"))
    else:
        checks.append(("slim against masked", f"outputs differ by {report.difference:.1e} of the largest"))
    return checks


@contextmanager
def _holds(path: Path) -> Iterator[None]:
    """A slim network that is not what its plan says becomes a refusal of the plan."""
    from knapsack_prune.slimming.equivalence import GateError

    try:
        yield
    except (GateError, IndexError, KeyError) as error:
        raise _broken(path, str(error)) from error


def _broken(path: Path, what: str) -> RequestError:
    return RequestError(f"{path} does not hold: {what}; the file was changed, so make the plan again")
