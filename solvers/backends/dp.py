"""Dynamic programming for separable costs: exact, by lists of undominated (cost, value) pairs.

The recursion of Nemhauser and Ullmann (1969) over the groups, in which a pair is dropped when the Lagrangian bound
shows that nothing worth the threshold comes of it (Pisinger 1995, "A minimal algorithm for the multiple-choice knapsack
problem", whose core this finds by the same bound). As in `exact`, the threshold comes down from the bound.
"""

from dataclasses import dataclass

import numpy as np

from .. import tuning
from ..errors import TooManyStatesError
from ..incumbent import Incumbent
from ..problem.cost_bounds import over_budget
from ..problem.instance import Instance, IntArray
from ..problem.separable import Separable, separable

NO_LEVEL = np.iinfo(np.int64).max


def run(instance: Instance, incumbent: Incumbent) -> None:
    """Solve to proof; refuses costs and values that join groups, and more than one resource."""
    try:
        solve_separable(separable(instance, "dp"), incumbent)
    except TooManyStatesError:
        incumbent.note("more undominated states than may be kept ended the search")


def solve_separable(parts: Separable, incumbent: Incumbent) -> None:
    """Bring the incumbent to proof.

    Args:
        parts: values and costs of the incumbent's instance, which has one resource.
        incumbent: is told of choices and bounds.

    Raises:
        InfeasibleError: the cheapest choice is over the budget.
        TooManyStatesError: more than `tuning.MOST_DP_STATES` pairs stay undominated. Time and memory grow with the
            pairs, which are few where many groups have one level left within the bound.
        OutOfTimeError: the limit is reached.
    """
    if parts.budget < 0:
        (resource,) = incumbent.instance.resources
        raise over_budget(resource, resource.budget - parts.budget)
    highest = sum(int(v.max()) for v in parts.values)
    if incumbent.offer([int(v.argmax()) for v in parts.values]) and incumbent.value == highest:
        incumbent.prove(highest)
        return
    _ListSearch(parts, incumbent).run()


@dataclass(frozen=True)
class _Relaxed:
    """The relaxed problem at one multiplier: all numbers times `scale`.

    Attributes:
        regret: per level (N,), by how much its score falls short of the best of its group.
        total: the relaxed optimum.
        chosen: per group (G,), the first level of the best score.
    """

    scale: int
    regret: IntArray
    total: int
    chosen: IntArray


class _ListSearch:
    """All levels of all groups in a row, N of them: value, cost and group of each."""

    def __init__(self, parts: Separable, incumbent: Incumbent) -> None:
        self.incumbent, self.budget = incumbent, parts.budget
        self.value = np.concatenate(parts.values)
        self.cost = np.concatenate(parts.costs)
        self.sizes = np.array([v.size for v in parts.values], dtype=np.int64)
        self.starts = np.concatenate([[0], np.cumsum(self.sizes)[:-1]]).astype(np.int64)
        self.group = np.repeat(np.arange(self.sizes.size), self.sizes)
        self.worth = sum(int(np.abs(v).max()) for v in parts.values) + 1
        self.most = sum(int(c.max()) for c in parts.costs) + abs(parts.budget) + 1

    def _relaxed(self, value: IntArray, multiplier: float) -> _Relaxed:
        """The relaxed problem for levels of that value (N,) at one multiplier; O(N)."""
        magnitude = self.worth + round(multiplier * self.most) + 1
        scale = max(1, min(tuning.LARGEST_SUM // (4 * magnitude), tuning.LARGEST_SCALE))
        p = round(multiplier * scale)
        score = scale * value - p * self.cost
        best = np.maximum.reduceat(score, self.starts)
        regret = best[self.group] - score
        first = np.flatnonzero(regret == 0)
        chosen = first[np.searchsorted(self.group[first], np.arange(self.sizes.size))]
        return _Relaxed(scale, regret, int(best.sum()) + p * self.budget, chosen)

    def run(self) -> None:
        """Bound, first choices, then searches below the bound until one gives the optimum."""
        best, multiplier = self._minimise(self.value)
        self.incumbent.prove(max(best.total // best.scale, self.incumbent.value or -(2**62)))
        self._exchange()
        self._explore(best)
        if not self.incumbent.closed:
            self._bound_by_count()
        step = 0
        while not self.incumbent.closed:
            self.incumbent.check()
            floor = self.incumbent.value if self.incumbent.value is not None else -self.worth
            gap = self.incumbent.bound - floor
            step = max(1, min(step * 4 or gap // 64, gap))
            threshold = self.incumbent.bound - step + 1
            choice = self._search(multiplier, best, threshold)
            if choice is not None:
                self.incumbent.offer(choice)
                assert self.incumbent.value is not None
                self.incumbent.prove(self.incumbent.value)
                return
            self.incumbent.prove(max(threshold - 1, floor))

    def _minimise(self, worth: IntArray, offers: bool = True) -> tuple[_Relaxed, float]:
        """The relaxed problem of the least bound for levels of that worth (N,), and its multiplier.

        Cutting planes: intersect those of the choices on both sides of the budget. With `offers`, choices met within it
        are offered.
        """
        at = self._relaxed(worth, 0.0)
        low = (int(worth[at.chosen].sum()), int(self.cost[at.chosen].sum()))
        best, where = at, 0.0
        high: tuple[int, int] | None = None
        point = (abs(low[0]) + 1) / max(1, low[1])  # values may be negative, multipliers are not
        for _ in range(200):
            at = self._relaxed(worth, point)
            value, cost = int(worth[at.chosen].sum()), int(self.cost[at.chosen].sum())
            if at.total * best.scale < best.total * at.scale:
                best, where = at, point
            if cost <= self.budget:
                if offers:
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

    def _moves(self, chosen: IntArray) -> tuple[int, IntArray, IntArray]:
        """Budget left by the chosen levels (G,), and gain and additional cost (N,) of moving to each other level."""
        slack = self.budget - int(self.cost[chosen].sum())
        gain = self.value - self.value[chosen][self.group]
        return slack, gain, self.cost - self.cost[chosen][self.group]

    def _offer(self, chosen: IntArray) -> None:
        """Fill a feasible choice, best gain per cost first, then with what gains most and fits, and offer it."""
        chosen = chosen.copy()
        slack, gain, more = self._moves(chosen)
        good = np.flatnonzero((gain > 0) & (more <= slack))
        good = good[np.argsort(-gain[good] / (more[good] + 0.5), kind="stable")]
        good = good[np.sort(np.unique(self.group[good], return_index=True)[1])]  # one move per group
        good = good[np.cumsum(np.maximum(more[good], 0)) <= slack]
        chosen[self.group[good]] = good
        for _ in range(30):
            slack, gain, more = self._moves(chosen)
            fits = (more <= slack) & (gain > 0)
            if not fits.any():
                break
            move = int(np.argmax(np.where(fits, gain, 0)))
            chosen[self.group[move]] = move
        self.incumbent.offer((chosen - self.starts).tolist())

    def _exchange(self) -> None:
        """Pairs of moves that gain most within the slack, until none gains: often they meet the bound."""
        while self.incumbent.choice and not self.incumbent.closed:
            self.incumbent.check()
            base = self.starts + np.array(self.incumbent.choice, dtype=np.int64)
            slack, gain, more = self._moves(base)
            order = np.argsort(more, kind="stable")
            best = np.maximum.accumulate(gain[order])
            holder = np.maximum.accumulate(np.where(gain[order] == best, np.arange(order.size), 0))
            room = np.searchsorted(more[order], slack - more, side="right") - 1
            promise = np.where(room >= 0, gain + best[np.maximum(room, 0)], -1)
            for first in np.argsort(-promise, kind="stable")[: tuning.TRIED_EXCHANGES].tolist():
                second = int(order[holder[room[first]]])
                if promise[first] > 0 and self.group[first] != self.group[second]:
                    chosen = base.copy()
                    chosen[self.group[[first, second]]] = first, second
                    self.incumbent.offer((chosen - self.starts).tolist())
                    break
            else:
                return

    def _bound_by_count(self) -> None:
        """A bound from how many groups can leave their cheapest level at all (Martello and Toth 1997).

        At most `most` can, as the cheapest steps show. That inequality, relaxed with a price per group that
        leaves, closes the gap where value per cost hardly differs (the strongly correlated class).
        """
        steps = np.where(self.cost > 0, self.cost, NO_LEVEL)
        cheapest = np.sort(np.minimum.reduceat(steps, self.starts))
        cheapest = cheapest[cheapest <= self.budget]
        most = int(np.searchsorted(np.cumsum(cheapest), self.budget, side="right"))
        bounds: dict[int, int] = {}

        def bound(price: int) -> int:
            if price not in bounds:
                self.incumbent.check()
                relaxed = self._minimise(self.value - price * (self.cost > 0), offers=False)[0]
                bounds[price] = -(-(relaxed.total + price * most * relaxed.scale) // relaxed.scale)
            return bounds[price]

        lowest = np.minimum.reduceat(self.value, self.starts)[self.group]
        low, high = 0, int(max(1, (self.value - lowest).max()))
        while high - low > 2:
            third = (high - low) // 3
            if bound(low + third) <= bound(high - third):
                high = high - third
            else:
                low = low + third
        best = min(bound(price) for price in range(low, high + 1))
        self.incumbent.prove(max(best, self.incumbent.value or best))

    def _explore(self, best: _Relaxed) -> None:
        """All undominated changes of the best choice in the most contested groups: mostly one meets the bound."""
        if not self.incumbent.choice or self.incumbent.closed:
            return
        base = self.starts + np.array(self.incumbent.choice, dtype=np.int64)
        slack = self.budget - int(self.cost[base].sum())
        others = np.where(np.arange(self.value.size) == base[self.group], NO_LEVEL, best.regret)
        nearest = np.argsort(np.minimum.reduceat(others, self.starts), kind="stable")[: tuning.CORE_GROUPS]
        cost, gain = np.zeros(1, dtype=np.int64), np.zeros(1, dtype=np.int64)
        history: list[tuple[IntArray, IntArray]] = []
        for group in nearest.tolist():
            if self.incumbent.closed or self.incumbent.remaining <= 0:
                return
            levels = np.arange(self.starts[group], self.starts[group] + self.sizes[group])
            which = np.repeat(levels, cost.size)
            before = np.tile(np.arange(cost.size), levels.size)
            at = int(base[group])
            cost = cost[before] + self.cost[which] - self.cost[at]
            gain = gain[before] + self.value[which] - self.value[at]
            order = _undominated(cost, gain)
            if order.size > tuning.CORE_STATES:
                near = np.argpartition(np.abs(cost[order] - slack), tuning.CORE_STATES)[: tuning.CORE_STATES]
                order = order[np.sort(near)]
            cost, gain = cost[order], gain[order]
            history.append((which[order], before[order]))
            last = int(np.searchsorted(cost, slack, side="right")) - 1  # gains rise with costs
            if last >= 0 and gain[last] > 0:
                self.incumbent.offer(self._traced(base, history, last))

    def _search(self, multiplier: float, best: _Relaxed, threshold: int) -> list[int] | None:
        """The best choice worth the threshold, by lists of undominated pairs; None when there is none."""
        multipliers = [best] + [self._relaxed(self.value, multiplier * f) for f in tuning.DP_PRICE_FACTORS]
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
        second = np.where(keep & (best.regret > 0), best.regret, NO_LEVEL)
        core = core[np.argsort(-np.minimum.reduceat(second, self.starts)[core], kind="stable")]
        cost = np.array([int(self.cost[only].sum())], dtype=np.int64)
        value = np.array([int(self.value[only].sum())], dtype=np.int64)
        regrets = [np.array([int(m.regret[only].sum())], dtype=np.int64) for m in multipliers]
        history: list[tuple[IntArray, IntArray]] = []
        for group in core.tolist():
            self.incumbent.check()
            levels = np.flatnonzero(keep[self.starts[group] : self.starts[group] + self.sizes[group]])
            levels += self.starts[group]
            if levels.size * cost.size > 4 * tuning.MOST_DP_STATES:
                raise TooManyStatesError
            good = np.ones((levels.size, cost.size), dtype=bool)
            for m, a, regret in zip(multipliers, allowed, regrets, strict=True):
                good &= m.regret[levels][:, None] + regret[None, :] <= a
            which, before = np.nonzero(good)
            cost, value = cost[before] + self.cost[levels[which]], value[before] + self.value[levels[which]]
            order = _undominated(cost, value)
            cost, value, which, before = cost[order], value[order], levels[which[order]], before[order]
            regrets = [r[before] + m.regret[which] for m, r in zip(multipliers, regrets, strict=True)]
            history.append((which, before))
            if cost.size == 0:
                return None
            if cost.size > tuning.MOST_DP_STATES:
                raise TooManyStatesError
        fits = np.flatnonzero(cost <= self.budget)
        if fits.size == 0:
            return None
        state = int(fits[np.argmax(value[fits])])
        if int(value[state]) < threshold:
            return None
        chosen = np.zeros(self.sizes.size, dtype=np.int64)
        chosen[self.group[only]] = only
        return self._traced(chosen, history, state)

    def _traced(self, base: IntArray, history: list[tuple[IntArray, IntArray]], state: int) -> list[int]:
        """The choice of a state: `history` holds, group by group, the level each state takes and what it continues."""
        chosen = base.copy()
        for taken, previous in reversed(history):
            chosen[self.group[taken[state]]] = taken[state]
            state = int(previous[state])
        return [int(position) for position in chosen - self.starts]


def _undominated(cost: IntArray, value: IntArray) -> IntArray:
    """Positions of the pairs that no other beats or equals in cost and value, by rising cost."""
    order = np.lexsort((-value, cost))
    ranked = value[order]
    rises = np.append(True, ranked[1:] > np.maximum.accumulate(ranked)[:-1])[: ranked.size]
    return np.asarray(order[rises])
