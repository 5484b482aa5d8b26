"""CP-SAT of OR-Tools on the natural model: one literal per level, one product per bilinear term."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from .errors import SolverError
from .feasibility import proof_of_infeasibility
from .instance import Factor, Instance
from .progress import Progress
from .result import Limits, Result

if TYPE_CHECKING:
    from ortools.sat.python import cp_model


def run(instance: Instance, progress: Progress) -> Result:
    """Build the model, solve it within the limits, and take CP-SAT's own bound (nothing is scaled)."""
    outcome = solve_model(instance, progress)
    if outcome == "infeasible":
        why = proof_of_infeasibility(instance)
        return progress.infeasible(why or "no choice is within every budget at once (proved by CP-SAT)")
    return progress.result()


class Sink(Protocol):
    """What a run of CP-SAT needs of a progress."""

    limits: Limits
    version: str
    build_seconds: float

    @property
    def remaining(self) -> float: ...
    @property
    def value(self) -> int | None: ...
    def offer(self, choice: Sequence[int]) -> bool: ...
    def prove(self, bound: int) -> bool: ...


def solve_model(
    instance: Instance,
    progress: Sink,
    hint: Sequence[int] | None = None,
    above: int | None = None,
    at_most: int | None = None,
) -> str:
    """Run CP-SAT; its choices and bounds go to `progress`. Returns "optimal", "infeasible" or "open"."""
    from importlib.metadata import version

    from ortools.sat.python import cp_model

    progress.version = f"ortools {version('ortools')}"
    began = progress.remaining
    model = build(instance, hint, above, at_most)
    progress.build_seconds = began - progress.remaining
    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = max(0.01, progress.remaining)
    solver.parameters.num_workers = progress.limits.threads
    solver.parameters.random_seed = progress.limits.seed

    class Watch(cp_model.CpSolverSolutionCallback):
        def on_solution_callback(self) -> None:
            progress.offer([_position(self, literals) for literals in model.literals])

    def bounded(bound: float) -> None:
        progress.prove(max(_floor(bound), progress.value if progress.value is not None else -(2**62)))

    solver.best_bound_callback = bounded
    status = solver.solve(model.model, Watch())
    if status == cp_model.MODEL_INVALID:
        raise SolverError(f"cp_sat: cannot take the instance: {model.model.validate().strip()}")
    if status == cp_model.INFEASIBLE:
        return "infeasible"
    if status in (cp_model.OPTIMAL, cp_model.FEASIBLE):
        progress.offer([_position(solver, literals) for literals in model.literals])
        # Stopped before it knows anything, CP-SAT answers 0, which is no bound; what it had was called back.
        bounded(solver.best_objective_bound)
    return "optimal" if status == cp_model.OPTIMAL else "open"


@dataclass(frozen=True)
class Model:
    """A CP-SAT model and, per group, the literal of each level."""

    model: cp_model.CpModel
    literals: list[list[Any]]


def build(
    instance: Instance,
    hint: Sequence[int] | None = None,
    above: int | None = None,
    at_most: int | None = None,
) -> Model:
    """The natural model of an instance; `hint` is a choice to start from, `above` < value <= `at_most`."""
    from ortools.sat.python import cp_model

    model = cp_model.CpModel()
    literals: list[list[Any]] = []
    levels: list[Any] = []
    for group in instance.groups:
        row = [model.new_bool_var("") for _ in range(group.levels.size)]
        model.add_exactly_one(row)
        literals.append(row)
        level = model.new_int_var(int(group.levels[0]), int(group.levels[-1]), group.name)
        model.add(level == cp_model.LinearExpr.weighted_sum(row, group.levels.tolist()))
        levels.append(level)
    products: dict[tuple[Factor, ...], Any] = {}

    def form(factor: Factor) -> Any:
        chosen = [levels[g] for g in factor.groups]
        return cp_model.LinearExpr.weighted_sum(chosen, list(factor.weights)) + factor.constant

    def product(factors: tuple[Factor, ...]) -> Any:
        if len(factors) == 1 or not factors[0].groups or not factors[1].groups:
            plain = [f for f in factors if f.groups]
            scale = math.prod(f.constant for f in factors if not f.groups)
            return scale * form(plain[0]) if plain else scale
        if factors not in products:
            most = math.prod(_most(instance, f) for f in factors)
            products[factors] = model.new_int_var(0, most, "")
            model.add_multiplication_equality(products[factors], [form(f) for f in factors])
        return products[factors]

    for resource in instance.resources:
        cost: Any = resource.constant
        for term in resource.terms:
            cost = cost + term.coefficient * product(term.factors)
        for table in resource.tables:
            first = table.groups[0]
            if len(table.groups) == 1:
                cost = cost + cp_model.LinearExpr.weighted_sum(literals[first], table.costs.tolist())
                continue
            second = table.groups[1]
            width = int(table.costs.shape[1])
            flat = table.costs.ravel().tolist()
            index = model.new_int_var(0, len(flat) - 1, "")
            model.add(
                index
                == cp_model.LinearExpr.weighted_sum(
                    literals[first], [width * i for i in range(len(literals[first]))]
                )
                + cp_model.LinearExpr.weighted_sum(literals[second], list(range(width)))
            )
            entry = model.new_int_var(min(flat), max(flat), "")
            model.add_element(index, flat, entry)
            cost = cost + entry
        model.add(cost <= resource.budget)
    value = sum(
        (
            cp_model.LinearExpr.weighted_sum(x, g.values.tolist())
            for x, g in zip(literals, instance.groups, strict=True)
        ),
        start=cp_model.LinearExpr.weighted_sum([], []),
    )
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


def _most(instance: Instance, factor: Factor) -> int:
    return factor.constant + sum(
        w * int(instance.groups[g].levels[-1]) for g, w in zip(factor.groups, factor.weights, strict=True)
    )


def _position(source: Any, literals: list[Any]) -> int:
    value = source.boolean_value
    return next(i for i, literal in enumerate(literals) if value(literal))


def _floor(bound: float) -> int:
    """The largest integer certainly not below an integer bound that CP-SAT passed through floats.

    CP-SAT divides the objective by common factors and shifts it; scaled back, 131 may read 130.99999999999997.
    Rounding up by a few units in the last place only ever weakens the bound.
    """
    slack = 1e-9 + 64 * (math.nextafter(abs(bound), math.inf) - abs(bound))
    return math.floor(bound + slack)
