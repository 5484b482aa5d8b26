"""Exact values and costs, and how they change along one group, with NumPy: what the heuristics stand on."""

from typing import Any

import numpy as np

from .instance import Factor, Instance, IntArray


class Evaluator:
    """Costs of choices of one instance, and the change of cost along one group.

    With all groups but g fixed, a resource's cost is a quadratic in g's level (its square comes only from a
    group that enters both factors of one term) plus table rows; `changes` gives it for every level of g at once.
    """

    def __init__(self, instance: Instance) -> None:
        from scipy.sparse import csr_array

        self.instance = instance
        self.count = len(instance.groups)
        self.levels = [group.levels for group in instance.groups]
        self.values = [group.values for group in instance.groups]
        self.budgets = np.array([r.budget for r in instance.resources], dtype=np.int64)
        numbers: dict[Factor, int] = {Factor((), (), 1): 0}
        terms: list[tuple[IntArray, IntArray, IntArray]] = []
        for resource in instance.resources:
            coefficients, left, right = [], [], []
            for term in resource.terms:
                pair = [numbers.setdefault(f, len(numbers)) for f in term.factors]
                coefficients.append(term.coefficient)
                left.append(pair[0])
                right.append(pair[1] if len(pair) == 2 else 0)
            terms.append((_array(coefficients), _array(left), _array(right)))
        self._terms = terms
        self.pairs: list[list[tuple[int, int, IntArray]]] = [[] for _ in range(self.count)]
        for joint in instance.pair_values:
            first, second = joint.groups
            self.pairs[first].append((second, 1, joint.values))
            self.pairs[second].append((first, 0, joint.values))
        self._constants = _array([f.constant for f in numbers])
        rows = [k for f, k in numbers.items() for _ in f.groups]
        columns = [g for f in numbers for g in f.groups]
        weights = [w for f in numbers for w in f.weights]
        shape = (len(numbers), self.count)
        self._forms: Any = csr_array((_array(weights), (rows, columns)), shape=shape)
        self._adjoint: Any = csr_array(self._forms.T)
        self.squares = [self._square(resource.terms) for resource in instance.resources]
        self.tables: list[list[tuple[int, int, int, IntArray]]] = [[] for _ in range(self.count)]
        for r, resource in enumerate(instance.resources):
            for table in resource.tables:
                if len(table.groups) == 1:
                    self.tables[table.groups[0]].append((r, -1, 0, table.costs))
                else:
                    first, second = table.groups
                    self.tables[first].append((r, second, 1, table.costs))
                    self.tables[second].append((r, first, 0, table.costs))

    def _square(self, terms: Any) -> IntArray:
        square = np.zeros(self.count, dtype=np.int64)
        for term in terms:
            if len(term.factors) == 2:
                second = dict(zip(term.factors[1].groups, term.factors[1].weights, strict=True))
                for g, w in zip(term.factors[0].groups, term.factors[0].weights, strict=True):
                    square[g] += term.coefficient * w * second.get(g, 0)
        return square

    def chosen(self, choice: IntArray) -> IntArray:
        """The level (G,) of each group under a choice (G,) of positions."""
        return np.array([levels[i] for levels, i in zip(self.levels, choice, strict=True)], dtype=np.int64)

    def value(self, choice: IntArray) -> int:
        """The value of a choice."""
        return self.instance.value(choice.tolist())

    def values_along(self, group: int, choice: IntArray) -> IntArray:
        """What each level (L,) of one group is worth beside the chosen levels of all others."""
        values = self.values[group]
        for other, axis, table in self.pairs[group]:
            values = values + np.take(table, int(choice[other]), axis=axis)
        return values

    def costs(self, choice: IntArray) -> IntArray:
        """Costs (R,) of a choice (G,)."""
        forms = self._forms @ self.chosen(choice) + self._constants
        totals = []
        for resource, (coefficient, left, right) in zip(self.instance.resources, self._terms, strict=True):
            total = resource.constant + int((coefficient * forms[left] * forms[right]).sum())
            for table in resource.tables:
                total += int(table.costs[tuple(int(choice[g]) for g in table.groups)])
            totals.append(total)
        return _array(totals)

    def gradients(self, chosen: IntArray) -> IntArray:
        """Derivative (R, G) of the terms' cost by each group's level, at the chosen levels (G,)."""
        forms = self._forms @ chosen + self._constants
        gradients = np.zeros((len(self._terms), self.count), dtype=np.int64)
        for r, (coefficient, left, right) in enumerate(self._terms):
            slopes = np.zeros(forms.size, dtype=np.int64)
            np.add.at(slopes, left, coefficient * forms[right])
            np.add.at(slopes, right, coefficient * forms[left])
            gradients[r] = self._adjoint @ slopes
        return gradients

    def changes(
        self,
        group: int,
        choice: IntArray,
        level: int,
        gradients: IntArray,
        to: slice | int = slice(None),
    ) -> IntArray:
        """Change of cost when one group moves from its chosen `level` to others.

        Args:
            group: the one that moves.
            choice: level positions (G,) now.
            level: of the group, now.
            gradients: at the levels now.
            to: which of its level positions to move to.

        Returns:
            (R, L), or (R,) for one position.
        """
        step = self.levels[group][to] - level
        change = np.multiply.outer(gradients[:, group], step)
        for r, square in enumerate(self.squares):
            if square[group]:
                change[r] += square[group] * step * step
        here = int(choice[group])
        for r, other, axis, costs in self.tables[group]:
            row = costs if other < 0 else np.take(costs, int(choice[other]), axis=axis)
            change[r] += row[to] - row[here]
        return np.asarray(change)


def _array(numbers: list[int]) -> IntArray:
    return np.array(numbers, dtype=np.int64)
