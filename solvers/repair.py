"""From a choice near the optimum to a feasible one that nothing simple improves: repair, fill, exchange."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from .evaluate import Evaluator
from .instance import Instance, IntArray
from .progress import Progress

FloatArray = npt.NDArray[np.float64]

MANY = 100_000  # moves of an instance from which several are made at once
NEARLY = 1.2  # at most this many times less worth than the best of them


class Repair:
    """All single moves (one group to another level) of an instance at once, N of them over all groups."""

    def __init__(self, instance: Instance) -> None:
        self.evaluator = evaluator = Evaluator(instance)
        self.sizes = np.array([levels.size for levels in evaluator.levels], dtype=np.int64)
        self.starts = np.concatenate([[0], np.cumsum(self.sizes)[:-1]]).astype(np.int64)
        self.group = np.repeat(np.arange(evaluator.count), self.sizes)
        self.level = np.concatenate(evaluator.levels)
        self.value = np.concatenate(evaluator.values)
        self._until = 0.0  # each improvement may take a small part of the time limit

    def improve(self, choice: IntArray, progress: Progress, exchanges: int = 30) -> bool:
        """Repair a choice (G,), fill it up, exchange pairs; offer the result. Returns whether it was the
        best yet.
        """
        self._until = progress.seconds + 0.04 * progress.limits.seconds
        found = self.repaired(choice, progress)
        if found is None:
            return False
        found = self._filled(found, progress)
        better = progress.offer(found.tolist())
        for _ in range(exchanges):
            if self._late(progress):
                break
            exchanged = self._exchanged(found)
            if exchanged is None:
                break
            found = self._filled(exchanged, progress)
            better = progress.offer(found.tolist()) or better
        return better

    def _late(self, progress: Progress) -> bool:
        return progress.seconds > self._until or progress.remaining <= 0

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
        return gain, change

    def _apply(self, choice: IntArray, move: int) -> IntArray:
        changed = choice.copy()
        group = int(self.group[move])
        changed[group] = move - self.starts[group]
        return changed

    def repaired(self, choice: IntArray, progress: Progress) -> IntArray | None:
        """Lower costs, each time by the move that loses least value per excess removed; None when stuck."""
        budgets = self.evaluator.budgets
        weight: FloatArray = 1.0 / np.maximum(budgets, 1)
        choice = choice.copy()
        for _ in range(4 * choice.size + 100):
            over = self.evaluator.costs(choice) - budgets
            if not (over > 0).any():
                return choice
            if self._late(progress):
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
        if merit.size < MANY:
            return [int(np.argmax(merit))]
        per_group = np.maximum.reduceat(merit, self.starts)
        good = np.flatnonzero(
            (merit == per_group[self.group]) & (merit > 0) & (merit >= per_group.max() / NEARLY)
        )
        good = good[np.unique(self.group[good], return_index=True)[1]]
        good = good[np.argsort(-merit[good], kind="stable")]
        within = int(np.searchsorted(np.cumsum(amounts[good]), limit, side="right"))
        return [int(move) for move in good[: max(1, within)]]

    def _filled(self, choice: IntArray, progress: Progress) -> IntArray:
        """Raise what gains most within the slack until nothing fits; long fills go by gain per cost."""
        budgets = self.evaluator.budgets
        weight: FloatArray = 1.0 / np.maximum(budgets, 1)
        for _ in range(4 * choice.size + 100):
            slack = budgets - self.evaluator.costs(choice)
            gain, change = self._moves(choice)
            fits = (gain > 0) & (change <= slack[:, None]).all(axis=0)
            if not fits.any() or self._late(progress):
                break
            merit = np.where(fits, gain, 0).astype(np.float64)
            room = float((slack * weight).min())
            if room > (1e-3 if merit.size < MANY else 1e-6):
                taken = weight @ np.maximum(change, 0)
                filled = choice
                for move in self._best(merit / (taken + 1e-9), taken, room / 2):
                    filled = self._apply(filled, move)
                if (self.evaluator.costs(filled) <= budgets).all():
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
