"""CP-SAT of OR-Tools on the natural model: one literal per level, one product variable per bilinear term."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from ..errors import InfeasibleError, UnsupportedInstanceError
from ..incumbent import Incumbent
from ..problem.instance import Factor, Instance, IntArray

if TYPE_CHECKING:
    from ortools.sat.python import cp_model

Outcome = Literal["optimal", "infeasible", "open"]


def run(instance: Instance, incumbent: Incumbent) -> None:
    """Build the model, solve it within the limits, and take CP-SAT's own bound (nothing is scaled)."""
    from importlib.metadata import version

    incumbent.version = f"ortools {version('ortools')}"
    began = incumbent.seconds
    model = build(instance)
    incumbent.build_seconds = incumbent.seconds - began
    if optimise(model, incumbent, incumbent.remaining) == "infeasible":
        raise InfeasibleError("no choice is within every budget at once (proved by CP-SAT)")


@dataclass(frozen=True)
class Model:
    """A CP-SAT model and, per group, the literal of each level."""

    model: cp_model.CpModel
    literals: list[list[Any]]


def optimise(
    model: Model, incumbent: Incumbent, seconds: float, positions: Sequence[IntArray] | None = None
) -> Outcome:
    """Run CP-SAT; its choices and bounds go to the incumbent.

    Args:
        model: from `build`.
        incumbent: gives threads and seed; its time left is a limit too.
        seconds: wall-clock limit of this run.
        positions: where the model is over some of the instance's levels, their positions per group. Its bounds then
            hold for choices better than the incumbent's only, which all must be among them.
    """
    from ortools.sat.python import cp_model

    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = max(0.01, min(seconds, incumbent.remaining))
    solver.parameters.num_workers = incumbent.limits.threads
    solver.parameters.random_seed = incumbent.limits.seed

    def offer(solution: Any) -> None:
        choice = [_position(solution, literals) for literals in model.literals]
        if positions is not None:
            choice = [int(p[i]) for p, i in zip(positions, choice, strict=True)]
        incumbent.offer(choice)

    class Watch(cp_model.CpSolverSolutionCallback):
        def on_solution_callback(self) -> None:
            offer(self)

    def bounded(bound: float) -> None:
        incumbent.prove_better(_floor(bound))

    solver.best_bound_callback = bounded
    status = solver.solve(model.model, Watch())
    if status == cp_model.MODEL_INVALID:
        raise UnsupportedInstanceError(f"cp_sat: cannot take the instance: {model.model.validate().strip()}")
    if status == cp_model.INFEASIBLE:
        return "infeasible"
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        offer(solver)
        # Stopped before it knows anything, CP-SAT answers 0, which is no bound; what it had was called back.
        bounded(solver.best_objective_bound)
    return "optimal" if status == cp_model.OPTIMAL else "open"


def build(
    instance: Instance,
    hint: Sequence[int] | None = None,
    above: int | None = None,
    at_most: int | None = None,
) -> Model:
    """The natural model of an instance; `hint` is a choice to start from, `above` < value <= `at_most`."""
    from ortools.sat.python import cp_model

    weighted_sum = cp_model.LinearExpr.weighted_sum
    model = cp_model.CpModel()
    literals: list[list[Any]] = []
    levels: list[Any] = []
    highest = instance.highest_levels()
    for group in instance.groups:
        row = [model.new_bool_var("") for _ in range(group.levels.size)]
        model.add_exactly_one(row)
        literals.append(row)
        level = model.new_int_var(int(group.levels[0]), int(group.levels[-1]), group.name)
        model.add(level == weighted_sum(row, group.levels.tolist()))
        levels.append(level)
    products: dict[tuple[Factor, ...], Any] = {}

    def form(factor: Factor) -> Any:
        return weighted_sum([levels[g] for g in factor.groups], list(factor.weights)) + factor.constant

    def product(factors: tuple[Factor, ...]) -> Any:
        if len(factors) == 1 or not factors[0].groups or not factors[1].groups:
            varying = [f for f in factors if f.groups]
            scale = math.prod(f.constant for f in factors if not f.groups)
            return scale * form(varying[0]) if varying else scale
        if factors not in products:
            products[factors] = model.new_int_var(0, math.prod(f.at(highest) for f in factors), "")
            model.add_multiplication_equality(products[factors], [form(f) for f in factors])
        return products[factors]

    def entry(groups: tuple[int, ...], table: IntArray) -> Any:
        rows = [literals[g] for g in groups]
        if len(rows) == 1:
            return weighted_sum(rows[0], table.tolist())
        flat = table.ravel().tolist()
        index = model.new_int_var(0, len(flat) - 1, "")
        width = len(rows[1])
        starts = weighted_sum(rows[0], [width * i for i in range(len(rows[0]))])
        model.add(index == starts + weighted_sum(rows[1], list(range(width))))
        chosen = model.new_int_var(min(flat), max(flat), "")
        model.add_element(index, flat, chosen)
        return chosen

    for resource in instance.resources:
        cost: Any = resource.constant
        for term in resource.terms:
            cost = cost + term.coefficient * product(term.factors)
        for table in resource.tables:
            cost = cost + entry(table.groups, table.costs)
        model.add(cost <= resource.budget)
    value = sum(
        (weighted_sum(x, g.values.tolist()) for x, g in zip(literals, instance.groups, strict=True)),
        start=weighted_sum([], []),
    )
    value = sum((entry(pair.groups, pair.values) for pair in instance.pair_values), start=value)
    model.maximize(value)
    if above is not None:
        model.add(value >= above + 1)
    if at_most is not None:
        model.add(value <= at_most)
    if hint is not None:
        for row, position in zip(literals, hint, strict=True):
            for i, literal in enumerate(row):
                model.add_hint(literal, i == position)
    return Model(model, literals)


def _position(solution: Any, literals: list[Any]) -> int:
    value = solution.boolean_value
    return next(i for i, literal in enumerate(literals) if value(literal))


def _floor(bound: float) -> int:
    """The largest integer certainly not below an integer bound that CP-SAT passed through floats.

    CP-SAT divides the objective by common factors and shifts it; scaled back, 131 may read 130.99999999999997.
    Rounding up by a few units in the last place only ever weakens the bound.
    """
    slack = 1e-9 + 64 * (math.nextafter(abs(bound), math.inf) - abs(bound))
    return math.floor(bound + slack)
