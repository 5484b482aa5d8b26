"""Greedy: raise the group with the most value per cost, re-price everything, repeat.

Costs of several resources are added up after division by what their budgets leave above the starting point.
"""

from collections.abc import Callable

import numpy as np

from .. import tuning
from ..incumbent import Incumbent
from ..problem.evaluate import Evaluator
from ..problem.instance import Instance, IntArray


def run(instance: Instance, incumbent: Incumbent) -> None:
    """Climb from the incumbent's cheap choice until nothing fits; the bound is the trivial one.

    Every step looks at every group: O(G) evaluations, at most `tuning.MOST_GREEDY_STEPS` steps.
    """
    if incumbent.choice:
        start = np.array(incumbent.choice, dtype=np.int64)
        incumbent.offer(climb(instance, start, lambda: incumbent.remaining > 0).tolist())


def climb(instance: Instance, start: IntArray, go_on: Callable[[], bool] = lambda: True) -> IntArray:
    """The choice that greedy steps lead to.

    Args:
        instance: the problem.
        start: level positions (G,) of a feasible choice.
        go_on: asked before every step.

    Returns:
        Level positions (G,) of a feasible choice.
    """
    evaluator = Evaluator(instance)
    choice = start.copy()
    slack = evaluator.budgets - evaluator.costs(choice)
    weight = 1.0 / np.maximum(slack, 1).astype(np.float64)
    stride = max(1, sum(levels.size for levels in evaluator.levels) // tuning.MOST_GREEDY_STEPS)
    levels = evaluator.chosen(choice)
    alive = set(range(evaluator.count))
    while alive and go_on():
        gradients = evaluator.gradients(levels)
        best, best_ratio, best_change = (-1, -1), 0.0, None
        for group in list(alive):
            values = evaluator.values_along(group, choice)
            step = _next_step(values, int(choice[group]), stride)
            if step is None:
                alive.discard(group)
                continue
            change = evaluator.changes(group, choice, int(levels[group]), gradients, step)
            gain = int(values[step] - values[choice[group]])
            if np.any(change > slack):
                if step > choice[group] + 1:  # a long step that does not fit: the next level alone may
                    step = int(choice[group]) + 1
                    change = evaluator.changes(group, choice, int(levels[group]), gradients, step)
                    gain = int(values[step] - values[choice[group]])
                if np.any(change > slack) or gain <= 0:
                    continue
            price = float(weight @ change)
            ratio = gain / price if price > 0 else np.inf
            if ratio > best_ratio:
                best, best_ratio, best_change = (group, step), ratio, change
        if best_change is None:
            break
        group, step = best
        choice[group] = step
        levels[group] = evaluator.levels[group][step]
        slack = slack - best_change
        alive.update(other for other, _, _ in evaluator.pairs[group])  # may gain beside the new level
    return choice


def _next_step(values: IntArray, here: int, stride: int) -> int | None:
    """The position `stride` ahead, or the next one beyond it that gains value; None at the top."""
    if here + 1 >= values.size:
        return None
    step = min(here + stride, values.size - 1)
    if values[step] > values[here]:
        return step
    better = np.flatnonzero(values[here + 1 :] > values[here])
    return None if better.size == 0 else here + 1 + int(better[0])
