"""The knapsack of Aflalo et al. (2020): every unit at a fixed cost, its share at the parent's widths.

A unit's cost is what it costs while everything else has its full width, products of two widths shared half
and half. Real cost is a product and falls faster, so the linear budget that meets the real one is searched
for by bisection: the allocation compared with others is the paper's at the same real cost. OR-Tools' knapsack
solver does each step.
"""

import math
from collections import Counter
from importlib.metadata import version

import numpy as np

from .. import tuning
from ..errors import UnsupportedInstanceError
from ..incumbent import Incumbent
from ..problem.evaluate import Evaluator
from ..problem.instance import Instance, IntArray
from ..problem.separable import separable, separable_values


def run(instance: Instance, incumbent: Incumbent) -> None:
    """Solve by fixed unit costs; takes one resource without tables of two groups, and values that join none."""
    if len(instance.resources) != 1:
        raise UnsupportedInstanceError(
            f"knapsack: takes one resource, not {len(instance.resources)}; use exact"
        )
    if any(len(t.groups) > 1 for t in instance.resources[0].tables):
        raise UnsupportedInstanceError("knapsack: takes no tables over two groups; use exact")
    values = separable_values(instance, "knapsack")
    incumbent.version = f"ortools {version('ortools')}"
    try:
        parts = separable(instance, "knapsack")
    except UnsupportedInstanceError:
        _bisect(instance, values, incumbent)
        return
    items = _Items(values, parts.costs)
    choice, proven = items.solve(parts.budget, incumbent.remaining)
    incumbent.offer(choice)
    if proven and all(g.levels.size <= 2 for g in instance.groups) and incumbent.value is not None:
        incumbent.prove(incumbent.value)


def _bisect(instance: Instance, values: list[IntArray], incumbent: Incumbent) -> None:
    """Search for the largest linear budget whose allocation meets the real one."""
    evaluator = Evaluator(instance)
    top = np.array([g.levels.size - 1 for g in instance.groups], dtype=np.int64)
    levels = evaluator.chosen(top)
    gradient = evaluator.gradients(levels)[0]
    alone = evaluator.gradients(np.zeros_like(levels))[0]
    units = (gradient + alone) // 2  # a product's two derivatives count it twice; what is linear counts once
    costs = [units[g] * (levels_ - levels_[0]) for g, levels_ in enumerate(evaluator.levels)]
    for table in instance.resources[0].tables:
        costs[table.groups[0]] = costs[table.groups[0]] + np.maximum(0, table.costs - table.costs[0])
    items = _Items(values, costs)
    low, high = 0, sum(int(c[-1]) for c in costs)
    for k in range(tuning.UNIT_COST_BISECTIONS):
        if incumbent.remaining <= 0:
            break
        middle = (low + high + 1) // 2
        choice, _ = items.solve(middle, incumbent.remaining / (tuning.UNIT_COST_BISECTIONS - k))
        if instance.is_feasible(choice):
            incumbent.offer(choice)
            low = middle
        else:
            high = middle - 1
        if low >= high:
            break
    incumbent.note("linear unit costs, their budget chosen so that the real cost just fits")


class _Items:
    """The steps from level to level of all groups as items of a 0/1 knapsack."""

    def __init__(self, values: list[IntArray], costs: list[IntArray]) -> None:
        self.base = [int(np.argmin(c)) for c in costs]
        self.steps: list[tuple[int, int]] = []
        self.positions: dict[int, list[int]] = {}  # per group, where its steps lead, in order
        self.profits: list[int] = []
        self.weights: list[int] = []
        for g, (value, cost) in enumerate(zip(values, costs, strict=True)):
            last = self.base[g]
            for i in range(last + 1, value.size):
                gain, weight = int(value[i] - value[last]), int(cost[i] - cost[last])
                if gain > 0 and weight >= 0:  # a step that gains nothing joins the next one that does
                    self.steps.append((g, i))
                    self.positions.setdefault(g, []).append(i)
                    self.profits.append(gain)
                    self.weights.append(weight)
                    last = i
        self.divisor = math.gcd(*self.weights) or 1

    def solve(self, budget: int, seconds: float) -> tuple[list[int], bool]:
        """A choice of positions (G,), and whether OR-Tools proved it optimal for these items."""
        from ortools.algorithms.python import knapsack_solver

        choice = list(self.base)
        if not self.steps:
            return choice, True
        solver = knapsack_solver.KnapsackSolver(
            knapsack_solver.SolverType.KNAPSACK_MULTIDIMENSION_BRANCH_AND_BOUND_SOLVER, "knapsack"
        )
        solver.set_time_limit(max(0.01, seconds))
        weights = [w // self.divisor for w in self.weights]
        solver.init(self.profits, [weights], [max(0, budget) // self.divisor])
        solver.solve()
        proven = solver.is_solution_optimal()
        best = [k for k in range(len(self.steps)) if solver.best_solution_contains(k)]
        if not proven:
            # Stopped by the time limit, its search may have seen little: by ratio is then often better.
            by_ratio = self._by_ratio(budget)
            best = max(best, by_ratio, key=lambda items: sum(self.profits[k] for k in items))
        for g, number in Counter(self.steps[k][0] for k in best).items():
            choice[g] = self.positions[g][number - 1]  # as many steps as were taken, the cheapest first
        return choice, proven

    def _by_ratio(self, budget: int) -> list[int]:
        """Items taken greedily by profit per weight."""
        taken, left = [], max(0, budget)
        ratios = np.array(self.profits) / np.maximum(self.weights, 1e-9)
        for k in np.argsort(-ratios, kind="stable").tolist():
            if self.weights[k] <= left:
                taken.append(k)
                left -= self.weights[k]
        return sorted(taken)
