"""HiGHS and SCIP through OR-Tools MathOpt: the mixed-integer program that they share.

One binary per level. A product of two forms is written per level of the narrower one: with x_i the binary of
level i of a group, `l_i * form` becomes `l_i * y_i` with `y_i >= form - M (1 - x_i)`, exact because costs are
only ever bounded from above. Floats cannot hold every integer: values and costs are given to the solver as
they are, its choice is evaluated exactly, and its bound is rounded outward by the tolerance it worked with.
"""

from __future__ import annotations

import datetime
import math
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from ..errors import InfeasibleError, OutOfTimeError, UnsupportedInstanceError
from ..incumbent import Incumbent
from ..problem.instance import Factor, Instance

if TYPE_CHECKING:
    from ortools.math_opt.python import mathopt

LARGEST_EXACT = 2**53


def run_highs(instance: Instance, incumbent: Incumbent) -> None:
    """The solver `highs`."""
    _solve(instance, incumbent, "HIGHS")


def run_scip(instance: Instance, incumbent: Incumbent) -> None:
    """The solver `scip`."""
    _solve(instance, incumbent, "GSCIP")


def _solve(instance: Instance, incumbent: Incumbent, kind: str) -> None:
    """Build, solve and interpret with the MathOpt solver of that name; numbers beyond 2**53 are refused."""
    from ortools.math_opt.python import mathopt

    check_size(instance, incumbent.solver)
    incumbent.version = f"ortools {version('ortools')}"
    began = incumbent.seconds
    try:
        model, choices = build(instance, incumbent)
    except OutOfTimeError:
        incumbent.note("the time limit ended the building of the model")
        return
    incumbent.build_seconds = incumbent.seconds - began
    parameters = mathopt.SolveParameters(
        time_limit=datetime.timedelta(seconds=max(0.01, incumbent.remaining)),
        random_seed=incumbent.limits.seed,
        relative_gap_tolerance=0.0,
        absolute_gap_tolerance=0.0,
    )
    if kind == "HIGHS":  # its presolve in OR-Tools 9.15 calls a feasible program infeasible (see its test)
        parameters.presolve = mathopt.Emphasis.OFF
    if kind == "GSCIP":  # HiGHS refuses a thread count here, and SCIP's branch and cut is sequential
        parameters.threads = 1
    try:
        solved = mathopt.solve(model, getattr(mathopt.SolverType, kind), params=parameters)
    except (ValueError, RuntimeError) as error:
        raise UnsupportedInstanceError(f"{incumbent.solver}: cannot solve the model: {error}") from error
    if solved.termination.reason == mathopt.TerminationReason.INFEASIBLE:
        # A float solver's word, within its tolerance; no resource alone explains it.
        raise InfeasibleError("no choice is within every budget at once (found by a solver with tolerances)")
    if solved.has_primal_feasible_solution():
        values = solved.variable_values()
        incumbent.offer([max(range(len(row)), key=lambda i: values[row[i]]) for row in choices])
    bound = solved.termination.objective_bounds.dual_bound
    if math.isfinite(bound):
        outward = math.floor(bound + max(1.0, abs(bound)) * 1e-9 + 0.5)
        if solved.termination.reason == mathopt.TerminationReason.OPTIMAL and incumbent.value is not None:
            # Optimal to the solver: its bound is the best integer at or above its own objective.
            outward = max(incumbent.value, math.floor(bound + 1e-6 * max(1.0, abs(bound) * 1e-6)))
        incumbent.prove_better(outward)


def check_size(instance: Instance, solver: str) -> None:
    """Refuse numbers that floats cannot hold, with `UnsupportedInstanceError`."""
    worth = instance.largest_magnitude()
    most = max([r.budget for r in instance.resources], default=0)
    if max(worth, most) > LARGEST_EXACT:
        raise UnsupportedInstanceError(
            f"{solver}: {max(worth, most)} is beyond 2**53, which floats cannot hold; use another solver"
        )


def build(instance: Instance, incumbent: Incumbent) -> tuple[mathopt.Model, list[list[Any]]]:
    """The program, and per group the binary of each level; `incumbent.check` ends it in time."""
    from ortools.math_opt.python import mathopt

    model = mathopt.Model(name=instance.name)
    choices: list[list[Any]] = []
    levels: list[Any] = []
    lowest, highest = instance.lowest_levels(), instance.highest_levels()
    for group in instance.groups:
        row = [model.add_binary_variable() for _ in range(group.levels.size)]
        model.add_linear_constraint(mathopt.fast_sum(row) == 1.0)
        choices.append(row)
        level = model.add_variable(lb=float(group.levels[0]), ub=float(group.levels[-1]))
        weighted = mathopt.fast_sum([float(n) * x for n, x in zip(group.levels.tolist(), row, strict=True)])
        model.add_linear_constraint(level == weighted)
        levels.append(level)
    products: dict[tuple[int, Factor], Any] = {}

    def form(factor: Factor) -> Any:
        parts = [float(w) * levels[g] for g, w in zip(factor.groups, factor.weights, strict=True) if w]
        return mathopt.fast_sum([*parts, float(factor.constant)]) if parts else float(factor.constant)

    def times(g: int, factor: Factor) -> Any:
        """The product of group g's level and a form, from below."""
        if (g, factor) not in products:
            incumbent.check()
            low, high = factor.at(lowest), factor.at(highest)
            linear = form(factor)
            # y_i >= form - low - (high - low) (1 - x_i): what level i multiplies beyond the least of the form.
            parts = []
            for level, x in zip(instance.groups[g].levels, choices[g], strict=True):
                if not int(level):
                    continue
                y = model.add_variable(lb=0.0, ub=float(max(high - low, 0)))
                model.add_linear_constraint(y >= linear - float(low) - float(high - low) * (1.0 - x))
                parts.append(float(int(level)) * y + float(int(level) * low) * x)
            products[g, factor] = mathopt.fast_sum(parts) if parts else 0.0
        return products[g, factor]

    for resource in instance.resources:
        cost: list[Any] = [float(resource.constant)]
        for term in resource.terms:
            if len(term.factors) == 1:
                cost.append(float(term.coefficient) * form(term.factors[0]))
                continue
            left, right = sorted(
                term.factors, key=lambda f: sum(instance.groups[g].levels.size for g in f.groups)
            )
            cost.append(float(term.coefficient * left.constant) * form(right))
            for g, w in zip(left.groups, left.weights, strict=True):
                if w and term.coefficient:
                    cost.append(float(term.coefficient * w) * times(g, right))
        for table in resource.tables:
            first = choices[table.groups[0]]
            if len(table.groups) == 1:
                cost.extend(float(c) * x for c, x in zip(table.costs.tolist(), first, strict=True))
                continue
            second = choices[table.groups[1]]
            for row, x in zip(table.costs.tolist(), first, strict=True):
                # The row's cost above its least entry, active only when its level is chosen.
                least, most = min(row), max(row)
                y = model.add_variable(lb=0.0, ub=float(most - least))
                above = mathopt.fast_sum(
                    [float(c - least) * z for c, z in zip(row, second, strict=True) if c > least]
                )
                model.add_linear_constraint(y >= above - float(most - least) * (1.0 - x))
                cost.extend([y, float(least) * x])
        model.add_linear_constraint(mathopt.fast_sum(cost) <= float(resource.budget))
    value = [
        float(v) * x
        for group, row in zip(instance.groups, choices, strict=True)
        for v, x in zip(group.values.tolist(), row, strict=True)
    ]
    for pair in instance.pair_values:
        first, second = (choices[g] for g in pair.groups)
        for row, x in zip(pair.values.tolist(), first, strict=True):
            # As for tables of costs, from above: the row's value over its least entry, none unless its level is chosen.
            incumbent.check()
            least, most = min(row), max(row)
            y = model.add_variable(lb=0.0, ub=float(most - least))
            above = [float(v - least) * z for v, z in zip(row, second, strict=True) if v > least]
            model.add_linear_constraint(y <= mathopt.fast_sum(above))
            model.add_linear_constraint(y <= float(most - least) * x)
            value.extend([y, float(least) * x])
    model.maximize(mathopt.fast_sum(value))
    return model, choices
