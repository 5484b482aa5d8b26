"""From a choice near the optimum to a feasible one that nothing simple improves: repair, fill, exchange."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from .. import tuning
from ..incumbent import Incumbent
from ..problem.evaluate import Evaluator
from ..problem.instance import Instance, IntArray

FloatArray = npt.NDArray[np.float64]


class Repair:
    """All single moves (one group to another level) of an instance at once, N of them over all groups."""

    def __init__(self, instance: Instance) -> None:
        self.evaluator = evaluator = Evaluator(instance)
        self.sizes = np.array([levels.size for levels in evaluator.levels], dtype=np.int64)
        self.starts = np.concatenate([[0], np.cumsum(self.sizes)[:-1]]).astype(np.int64)
        self.group = np.repeat(np.arange(evaluator.count), self.sizes)
        self.level = np.concatenate(evaluator.levels)
        self.value = np.concatenate(evaluator.values)

    def improve(self, choice: IntArray, incumbent: Incumbent, exchanges: int = 30) -> bool:
        """Repair a choice, fill it up, exchange pairs, and offer what comes of it.

        Args:
            choice: level positions (G,), feasible or not.
            incumbent: is offered the results; a repair takes at most `tuning.REPAIR_SHARE` of its time limit.
            exchanges: of two moves at once, at most.

        Returns:
            Whether the incumbent became better. Each move looks at all N and costs O(R N).
        """
        until = min(
            incumbent.seconds + tuning.REPAIR_SHARE * incumbent.limits.seconds, incumbent.limits.seconds
        )

        def late() -> bool:
            return incumbent.seconds >= until

        feasible = self.repaired(choice, late)
        if feasible is None:
            return False
        feasible = self._filled(feasible, late)
        better = incumbent.offer(feasible.tolist())
        for _ in range(exchanges):
            exchanged = None if late() else self._exchanged(feasible)
            if exchanged is None:
                break
            feasible = self._filled(exchanged, late)
            better = incumbent.offer(feasible.tolist()) or better
        return better

    def _moves(self, choice: IntArray) -> tuple[IntArray, IntArray]:
        """Gain of value (N,) and change of cost (R, N) of every move."""
        evaluator = self.evaluator
        current = evaluator.chosen(choice)
        gradients = evaluator.gradients(current)
        step = self.level - current[self.group]
        change = gradients[:, self.group] * step
        for r, square in enumerate(evaluator.squares):
            if square.any():
                change[r] += square[self.group] * step * step
        for g, tables in enumerate(evaluator.tables):
            for r, other, axis, costs in tables:
                row = costs if other < 0 else np.take(costs, int(choice[other]), axis=axis)
                change[r, self.starts[g] : self.starts[g] + self.sizes[g]] += row - row[int(choice[g])]
        gain = self.value - self.value[self.starts + choice][self.group]
        for g, pairs in enumerate(evaluator.pairs):
            if pairs:
                along = evaluator.values_along(g, choice)
                gain[self.starts[g] : self.starts[g] + self.sizes[g]] = along - along[int(choice[g])]
        return gain, change

    def _apply(self, choice: IntArray, move: int) -> IntArray:
        changed = choice.copy()
        group = int(self.group[move])
        changed[group] = move - self.starts[group]
        return changed

    def repaired(self, choice: IntArray, late: Callable[[], bool]) -> IntArray | None:
        """Lower costs, each time by the move that loses least value per excess removed; None when stuck."""
        budgets = self.evaluator.budgets
        weight: FloatArray = 1.0 / np.maximum(budgets, 1)
        choice = choice.copy()
        for _ in range(4 * choice.size + 100):
            over = self.evaluator.costs(choice) - budgets
            if not (over > 0).any():
                return choice
            if late():
                return None
            gain, change = self._moves(choice)
            excess = weight @ np.maximum(over, 0)
            after = weight @ np.maximum(over[:, None] + change, 0)
            removed = excess - after
            loss = np.maximum(-gain.astype(np.float64), 0.0) + 1e-9
            merit = np.where(removed > 1e-15, removed / loss, 0.0)
            if not merit.any():
                return None
            for move in self._best(merit, removed, float(excess)):
                choice = self._apply(choice, move)
        return None

    def _best(self, merit: FloatArray, amounts: FloatArray, limit: float) -> list[int]:
        """The move of most merit; in large instances with it those of other groups nearly as good.

        Together they amount to no more than the limit: moves of several groups add up to first order only.
        """
        if merit.size < tuning.MANY_MOVES:
            return [int(np.argmax(merit))]
        per_group = np.maximum.reduceat(merit, self.starts)
        good = np.flatnonzero(
            (merit == per_group[self.group]) & (merit > 0) & (merit >= per_group.max() / tuning.NEARLY_BEST)
        )
        good = good[np.unique(self.group[good], return_index=True)[1]]
        good = good[np.argsort(-merit[good], kind="stable")]
        within = int(np.searchsorted(np.cumsum(amounts[good]), limit, side="right"))
        return [int(move) for move in good[: max(1, within)]]

    def _filled(self, choice: IntArray, late: Callable[[], bool]) -> IntArray:
        """Raise what gains most within the slack until nothing fits; long fills go by gain per cost."""
        budgets = self.evaluator.budgets
        weight: FloatArray = 1.0 / np.maximum(budgets, 1)
        for _ in range(4 * choice.size + 100):
            slack = budgets - self.evaluator.costs(choice)
            gain, change = self._moves(choice)
            fits = (gain > 0) & (change <= slack[:, None]).all(axis=0)
            if not fits.any() or late():
                break
            merit = np.where(fits, gain, 0).astype(np.float64)
            room = float((slack * weight).min(initial=np.inf))
            if room > (1e-3 if merit.size < tuning.MANY_MOVES else 1e-6):
                taken = weight @ np.maximum(change, 0)
                filled, moves = choice, self._best(merit / (taken + 1e-9), taken, room / 2)
                for move in moves:
                    filled = self._apply(filled, move)
                # Moves that gain one by one may lose together where pairs of groups have values.
                gains = len(moves) == 1 or self.evaluator.value(filled) > self.evaluator.value(choice)
                if gains and (self.evaluator.costs(filled) <= budgets).all():
                    choice = filled
                    continue
            choice = self._apply(choice, int(np.argmax(merit)))
        return choice

    def _exchanged(self, choice: IntArray) -> IntArray | None:
        """Two moves at once that gain and fit, found as if independent, then checked exactly."""
        slack = self.evaluator.budgets - self.evaluator.costs(choice)
        gain, change = self._moves(choice)
        if not self.evaluator.budgets.size:
            return None
        worst = (change / np.maximum(self.evaluator.budgets, 1)[:, None]).max(axis=0)
        limit = float((slack / np.maximum(self.evaluator.budgets, 1)).min())
        order = np.argsort(worst, kind="stable")
        best = np.maximum.accumulate(gain[order])
        room = np.searchsorted(worst[order], limit - worst, side="right") - 1
        promise = np.where(room >= 0, gain + best[np.maximum(room, 0)], -(2**62))
        value = self.evaluator.value(choice)
        budgets = self.evaluator.budgets
        # Positions where the running best is attained, to know the partner of each promise.
        holder = np.maximum.accumulate(np.where(gain[order] == best, np.arange(order.size), 0))
        for first in np.argsort(-promise, kind="stable")[:40]:
            if promise[first] <= 0:
                return None
            second = int(order[holder[room[first]]])
            if self.group[second] == self.group[first]:
                continue
            pair = self._apply(self._apply(choice, int(first)), second)
            if self.evaluator.value(pair) > value and (self.evaluator.costs(pair) <= budgets).all():
                return pair
        return None
