"""Dynamic programming for linear costs: exact, by lists of undominated (cost, value) pairs.

The recursion of Nemhauser and Ullmann (1969) over the groups, in which a pair is dropped when the Lagrangian bound
shows that nothing worth the threshold comes of it (Pisinger 1995, "A minimal algorithm for the multiple-choice
knapsack problem", whose core this finds by the same bound). As in `exact`, the threshold comes down from the bound.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .feasibility import cheap_choice, proof_of_infeasibility
from .instance import Instance, IntArray
from .linear import Linear, linear_costs
from .progress import OutOfTimeError, Progress
from .result import Result

MOST_STATES = 4_000_000
LARGEST = 2**60
SPREAD = (0.9, 0.97, 0.99, 1.01, 1.03, 1.1)  # further multipliers, relative to the best


def run(instance: Instance, progress: Progress) -> Result:
    """Solve to proof; refuses costs that tie groups, and more than one resource."""
    linear = linear_costs(instance, "dp")
    why = proof_of_infeasibility(instance)
    if why:
        return progress.infeasible(why)
    try:
        solve_linear(instance, linear, progress)
    except OutOfTimeError:
        progress.note("the time limit ended the search")
    return progress.result()


def solve_linear(instance: Instance, linear: Linear, progress: Progress) -> None:
    """Bring `progress` to proof, or to where states or time run out; the instance is feasible."""
    start = cheap_choice(instance)
    if start is not None:
        progress.offer(start.tolist())
    highest = [int(g.values.argmax()) for g in instance.groups]
    if progress.offer(highest) and progress.value == instance.trivial_bound():
        progress.prove(instance.trivial_bound())
        return
    _Lists(instance, linear, progress).run()


@dataclass
class _Multiplier:
    """One multiplier p / scale: the best score per group, each level's regret, and the relaxed optimum."""

    p: int
    scale: int
    regret: IntArray
    total: int
    chosen: IntArray


class _Lists:
    def __init__(self, instance: Instance, linear: Linear, progress: Progress) -> None:
        self.progress, self.budget = progress, linear.budget
        self.value = np.concatenate([g.values for g in instance.groups])
        self.cost = np.concatenate(linear.costs)
        self.sizes = np.array([g.levels.size for g in instance.groups], dtype=np.int64)
        self.starts = np.concatenate([[0], np.cumsum(self.sizes)[:-1]]).astype(np.int64)
        self.group = np.repeat(np.arange(self.sizes.size), self.sizes)
        self.worth = sum(int(np.abs(g.values).max()) for g in instance.groups) + 1
        self.most = sum(int(c.max()) for c in linear.costs) + abs(linear.budget) + 1

    def _at(self, multiplier: float) -> _Multiplier:
        scale = max(1, min(LARGEST // (4 * (self.worth + round(multiplier * self.most) + 1)), 2**40))
        p = round(multiplier * scale)
        score = scale * self.value - p * self.cost
        best = np.maximum.reduceat(score, self.starts)
        regret = best[self.group] - score
        first = np.flatnonzero(regret == 0)
        chosen = first[np.searchsorted(self.group[first], np.arange(self.sizes.size))]
        return _Multiplier(p, scale, regret, int(best.sum()) + p * self.budget, chosen)

    def run(self) -> None:
        best, multiplier = self._minimise()
        self.progress.prove(max(best.total // best.scale, self.progress.value or -(2**62)))
        step = 0
        while not self.progress.closed:
            self.progress.check()
            floor = self.progress.value if self.progress.value is not None else -self.worth
            gap = self.progress.bound - floor
            step = max(1, min(step * 4 or gap // 64, gap))
            threshold = self.progress.bound - step + 1
            found = self._search(multiplier, best, threshold)
            if found is not None:
                self.progress.offer(found)
                assert self.progress.value is not None
                self.progress.prove(self.progress.value)
                return
            self.progress.prove(max(threshold - 1, floor))

    def _minimise(self) -> tuple[_Multiplier, float]:
        """The best multiplier: intersect the cuts of the choices on both sides of the budget."""
        at = self._at(0.0)
        low = (int(self.value[at.chosen].sum()), int(self.cost[at.chosen].sum()))
        best, where = at, 0.0
        high: tuple[int, int] | None = None
        point = low[0] / max(1, low[1])
        for _ in range(200):
            at = self._at(point)
            value, cost = int(self.value[at.chosen].sum()), int(self.cost[at.chosen].sum())
            if at.total * best.scale < best.total * at.scale:
                best, where = at, point
            if cost <= self.budget:
                self._offer(at.chosen)
                if high is not None and (value, cost) == high:
                    break
                high = (value, cost)
            else:
                if (value, cost) == low:
                    break
                low = (value, cost)
            if high is None:
                point *= 2
                continue
            if low[1] == high[1]:
                break
            point = (low[0] - high[0]) / (low[1] - high[1])
        return best, where

    def _offer(self, chosen: IntArray) -> None:
        """Fill a feasible choice with what gains most and fits, and offer it."""
        chosen = chosen.copy()
        slack = self.budget - int(self.cost[chosen].sum())
        for _ in range(30):
            gain = self.value - self.value[chosen][self.group]
            fits = (self.cost - self.cost[chosen][self.group] <= slack) & (gain > 0)
            if not fits.any():
                break
            move = int(np.argmax(np.where(fits, gain, 0)))
            slack -= int(self.cost[move] - self.cost[chosen[self.group[move]]])
            chosen[self.group[move]] = move
        self.progress.offer((chosen - self.starts).tolist())

    def _search(self, multiplier: float, best: _Multiplier, threshold: int) -> list[int] | None:
        multipliers = [best] + [self._at(multiplier * f) for f in SPREAD]
        allowed = [m.total - m.scale * threshold for m in multipliers]
        if min(allowed) < 0:
            return None
        keep = np.ones(self.value.size, dtype=bool)
        for m, a in zip(multipliers, allowed, strict=True):
            keep &= m.regret <= a
        left = np.add.reduceat(keep.astype(np.int64), self.starts)
        if not left.all():
            return None
        only = np.flatnonzero(keep & (left[self.group] == 1))
        core = np.flatnonzero(left > 1)
        # Contested groups last: until then regrets add up quickly and lists stay short.
        second = np.where(keep & (best.regret > 0), best.regret, np.iinfo(np.int64).max)
        core = core[np.argsort(-np.minimum.reduceat(second, self.starts)[core], kind="stable")]
        cost = np.array([int(self.cost[only].sum())], dtype=np.int64)
        value = np.array([int(self.value[only].sum())], dtype=np.int64)
        regrets = [np.array([int(m.regret[only].sum())], dtype=np.int64) for m in multipliers]
        history: list[tuple[IntArray, IntArray]] = []
        for group in core.tolist():
            self.progress.check()
            levels = np.flatnonzero(keep[self.starts[group] : self.starts[group] + self.sizes[group]])
            levels += self.starts[group]
            if levels.size * cost.size > 4 * MOST_STATES:
                raise OutOfTimeError
            good = np.ones((levels.size, cost.size), dtype=bool)
            for m, a, regret in zip(multipliers, allowed, regrets, strict=True):
                good &= m.regret[levels][:, None] + regret[None, :] <= a
            which, before = np.nonzero(good)
            cost, value = cost[before] + self.cost[levels[which]], value[before] + self.value[levels[which]]
            order = np.lexsort((-value, cost))
            ranked = value[order]
            rises = np.append(True, ranked[1:] > np.maximum.accumulate(ranked)[:-1])[: ranked.size]
            order = order[rises]
            cost, value, which, before = cost[order], value[order], levels[which[order]], before[order]
            regrets = [r[before] + m.regret[which] for m, r in zip(multipliers, regrets, strict=True)]
            history.append((which, before))
            if cost.size == 0:
                return None
            if cost.size > MOST_STATES:
                raise OutOfTimeError
        fits = np.flatnonzero(cost <= self.budget)
        if fits.size == 0:
            return None
        state = int(fits[np.argmax(value[fits])])
        if int(value[state]) < threshold:
            return None
        chosen = np.zeros(self.sizes.size, dtype=np.int64)
        chosen[self.group[only]] = only
        for which, before in reversed(history):
            chosen[self.group[which[state]]] = which[state]
            state = int(before[state])
        return [int(x) for x in chosen - self.starts]
