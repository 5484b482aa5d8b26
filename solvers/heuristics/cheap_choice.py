"""A feasible choice for next to nothing: every group at its lowest level, then tables' costs lowered."""

import numpy as np

from ..problem.evaluate import Evaluator
from ..problem.instance import Instance, IntArray


def cheap_choice(instance: Instance) -> IntArray | None:
    """A feasible choice of low cost, or None where this simple descent finds none.

    Starts from the lowest levels, which are the cheapest for everything but tables, and moves the one group that
    removes most of the excess (relative to the budgets, summed) until every budget is met. At most 2 G + 2 moves,
    each linear in the number of levels of groups with tables.

    Returns:
        Level positions (G,), or None.
    """
    evaluator = Evaluator(instance)
    choice: IntArray = np.zeros(evaluator.count, dtype=np.int64)
    costs = evaluator.costs(choice)
    for _ in range(2 * evaluator.count + 2):
        excess = np.maximum(costs - evaluator.budgets, 0)
        if not excess.any():
            return choice
        # Only groups with tables can cost less anywhere but at their lowest level.
        weight = 1.0 / np.maximum(evaluator.budgets, 1)
        levels = evaluator.chosen(choice)
        gradients = evaluator.gradients(levels)
        best, best_total = (-1, -1), float(weight @ excess)
        for group in range(evaluator.count):
            if not evaluator.tables[group]:
                continue
            change = evaluator.changes(group, choice, int(levels[group]), gradients)
            after = weight @ np.maximum(costs[:, None] + change - evaluator.budgets[:, None], 0)
            position = int(np.argmin(after))
            if after[position] < best_total:
                best, best_total = (group, position), float(after[position])
        if best[0] < 0:
            return None
        choice[best[0]] = best[1]
        costs = evaluator.costs(choice)
    return None
