"""Greedy: raise the group with the most value per cost, re-price everything, repeat.

Costs of several resources are added up after division by what their budgets leave above the starting point.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

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
    plain = _PlainSteps(evaluator, choice, stride)
    alive = set(range(evaluator.count)) - set(plain.groups.tolist())
    while go_on():
        gradients = evaluator.gradients(levels)
        best, best_ratio, best_change = plain.best(gradients, slack, weight)
        for group in sorted(alive):
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
            if ratio > best_ratio or (ratio == best_ratio and group < best[0]):
                best, best_ratio, best_change = (group, step), ratio, change
        if best_change is None:
            break
        group, step = best
        choice[group] = step
        levels[group] = evaluator.levels[group][step]
        slack = slack - best_change
        plain.moved(group, step)
        alive.update(other for other, _, _ in evaluator.pairs[group])  # may gain beside the new level
    return choice


class _PlainSteps:
    """The next step of every group without tables, of costs or of values: these change with the group alone.

    Two steps a group, the `stride` ahead and the next level, each with its gain and its distance in levels (2, n); a
    gain of 0 where there is no such step.
    """

    def __init__(self, evaluator: Evaluator, choice: IntArray, stride: int) -> None:
        self._evaluator, self._stride = evaluator, stride
        joined = [bool(evaluator.pairs[g] or evaluator.tables[g]) for g in range(evaluator.count)]
        self.groups = np.flatnonzero(~np.array(joined, dtype=bool))
        self._index = {int(group): at for at, group in enumerate(self.groups)}
        self._steps, self._gains, self._distances = (
            np.zeros((2, self.groups.size), dtype=np.int64) for _ in range(3)
        )
        self._squares = np.array(evaluator.squares, dtype=np.int64).reshape(-1, evaluator.count)[
            :, self.groups
        ]
        for group in self.groups.tolist():
            self.moved(group, int(choice[group]))

    def moved(self, group: int, here: int) -> None:
        """Look up the steps of a group that is at a level position now."""
        at = self._index.get(group)
        if at is None:
            return
        values, levels = self._evaluator.values[group], self._evaluator.levels[group]
        step = _next_step(values, here, self._stride)
        steps = [here, here] if step is None else [step, here + 1]
        self._steps[:, at] = steps
        self._gains[:, at] = np.maximum(values[steps] - values[here], 0)
        self._distances[:, at] = levels[steps] - levels[here]

    def best(
        self, gradients: IntArray, slack: IntArray, weight: npt.NDArray[np.float64]
    ) -> tuple[tuple[int, int], float, IntArray | None]:
        """The group and step with the most gain per price, that ratio, and the change of cost; None if none fits."""
        if not self.groups.size:
            return (-1, -1), 0.0, None
        distance = self._distances[:, None, :]
        # Shape (2, resources, groups).
        change = gradients[:, self.groups] * distance + self._squares * distance * distance
        fits = (change <= slack[:, None]).all(axis=1) & (self._gains > 0)
        which = np.where(fits[0], 0, 1)  # a long step that does not fit: the next level alone may
        at = np.arange(self.groups.size)
        price = weight @ change[which, :, at].T
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(price > 0, self._gains[which, at] / price, np.inf)
        ratio[~fits[which, at]] = 0.0
        first = int(np.argmax(ratio))
        if not ratio[first] > 0:
            return (-1, -1), 0.0, None
        step = int(self._steps[which[first], first])
        return (int(self.groups[first]), step), float(ratio[first]), change[which[first], :, first]


def _next_step(values: IntArray, here: int, stride: int) -> int | None:
    """The position `stride` ahead, or the next one beyond it that gains value; None at the top."""
    if here + 1 >= values.size:
        return None
    step = min(here + stride, values.size - 1)
    if values[step] > values[here]:
        return step
    better = np.flatnonzero(values[here + 1 :] > values[here])
    return None if better.size == 0 else here + 1 + int(better[0])
