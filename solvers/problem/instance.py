"""The instance: groups of levels with values, resources with exact integer costs, and what they must obey.

A *group* offers *levels* (allowed counts, increasing) and a value for each. One level per group is chosen.
A *resource* costs `constant + sum of terms + sum of tables` and must stay within its budget:

- a *term* is `coefficient * product of its one or two factors`;
- a *factor* is `constant + sum weights[i] * level of groups[i]`;
- a *table* is indexed by the positions of the chosen levels of its one or two groups.

What two groups are worth together, beyond their own values, stands in *pair values*: a table over both, added to the
objective. The entries may have any sign; several tables over the same two groups add up.

Every number is an integer of at most 2**53 in magnitude (so that all JSON readers agree), costs are not
negative, and no sum or product that an assignment can reach exceeds 2**62: this is checked once, when the
instance is built, so that every later 64-bit computation is exact.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from ..errors import SolverError
from ..io.document import JsonDocument
from ..io.json_codec import decode, encode, parse_object
from .validation import LARGEST_TOTAL, IntSequence, check_integer, check_integers
from .validation import IntArray as IntArray

FORMAT = "grouped-knapsack"
VERSIONS = (1, 2)  # version 2 has `pair_values`; an instance without them is written as version 1


class _ComparedByContent:
    """Equality of dataclasses that hold arrays."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and bool(encode(self) == encode(other))

    def __hash__(self) -> int:
        return hash(str(encode(self)))


@dataclass(frozen=True, init=False, eq=False, slots=True)
class Group(_ComparedByContent):
    """One decision: `levels` (L,) strictly increasing counts >= 0, and the value (L,) of each."""

    name: str
    levels: IntArray
    values: IntArray

    def __init__(self, name: str, levels: IntSequence, values: IntSequence) -> None:
        place = f"group {name!r}"
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "levels", check_integers(levels, f"{place}, levels"))
        object.__setattr__(self, "values", check_integers(values, f"{place}, values", minimum=None))
        if self.levels.ndim != 1 or self.values.ndim != 1:
            raise SolverError(f"{place}: levels and values must be flat lists")
        if self.levels.size == 0:
            raise SolverError(f"{place}: no levels; every group needs at least one")
        if self.levels.size != self.values.size:
            raise SolverError(
                f"{place}: {self.values.size} values for {self.levels.size} levels; give one for each"
            )
        if self.levels.size > 1 and not bool(np.all(np.diff(self.levels) > 0)):
            where = int(np.argmax(np.diff(self.levels) <= 0)) + 1
            raise SolverError(
                f"{place}, levels[{where}]: {self.levels[where]} does not exceed the level before it"
            )


@dataclass(frozen=True, init=False, slots=True)
class Factor:
    """The linear form `constant + sum weights[i] * level of groups[i]`, all numbers >= 0, no group twice."""

    constant: int = field(default=0, kw_only=True)
    groups: tuple[int, ...]
    weights: tuple[int, ...]

    def __init__(
        self, groups: Sequence[int], weights: Sequence[int] | None = None, constant: int = 0
    ) -> None:
        weights = (1,) * len(groups) if weights is None else weights
        if len(groups) != len(weights):
            raise SolverError(f"factor: {len(weights)} weights for {len(groups)} groups; give one for each")
        object.__setattr__(self, "groups", tuple(check_integer(g, "factor, groups") for g in groups))
        object.__setattr__(self, "weights", tuple(check_integer(w, "factor, weights") for w in weights))
        object.__setattr__(self, "constant", check_integer(constant, "factor, constant"))
        if len(set(self.groups)) != len(self.groups):
            twice = next(g for g in self.groups if self.groups.count(g) > 1)
            raise SolverError(f"factor: group {twice} is listed twice; add its weights up")

    def at(self, levels: Sequence[int]) -> int:
        """The form's exact value where group g is at `levels[g]`."""
        return self.constant + sum(w * levels[g] for g, w in zip(self.groups, self.weights, strict=True))


@dataclass(frozen=True, init=False, slots=True)
class Term:
    """`coefficient * product of one or two factors`."""

    coefficient: int
    factors: tuple[Factor, ...]

    def __init__(self, coefficient: int, factors: Sequence[Factor]) -> None:
        object.__setattr__(self, "coefficient", check_integer(coefficient, "term, coefficient"))
        object.__setattr__(self, "factors", tuple(factors))
        if len(self.factors) not in (1, 2):
            raise SolverError(f"term: {len(self.factors)} factors; a term has one or two")


@dataclass(frozen=True, init=False, eq=False, slots=True)
class Table(_ComparedByContent):
    """Costs >= 0 by level position: shape (L,) for one group, (L0, L1) for two different ones."""

    groups: tuple[int, ...]
    costs: IntArray

    def __init__(self, groups: Sequence[int], costs: IntSequence | Sequence[Sequence[int]]) -> None:
        object.__setattr__(self, "groups", tuple(check_integer(g, "table, groups") for g in groups))
        object.__setattr__(self, "costs", check_integers(costs, f"table over groups {self.groups}, costs"))
        if len(self.groups) not in (1, 2) or len(set(self.groups)) != len(self.groups):
            raise SolverError(
                f"table over groups {self.groups}: a table is over one group or two different ones"
            )
        if self.costs.ndim != len(self.groups):
            raise SolverError(f"table over groups {self.groups}: costs have {self.costs.ndim} dimensions")


@dataclass(frozen=True, init=False, slots=True)
class Resource:
    """A cost with a budget; see the module's text for what it adds up."""

    name: str
    budget: int
    constant: int = field(default=0, kw_only=True)
    terms: tuple[Term, ...] = ()
    tables: tuple[Table, ...] = ()

    def __init__(
        self,
        name: str,
        budget: int,
        terms: Sequence[Term] = (),
        tables: Sequence[Table] = (),
        constant: int = 0,
    ) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "budget", check_integer(budget, f"resource {name!r}, budget"))
        object.__setattr__(self, "terms", tuple(terms))
        object.__setattr__(self, "tables", tuple(tables))
        object.__setattr__(self, "constant", check_integer(constant, f"resource {name!r}, constant"))


@dataclass(frozen=True, init=False, eq=False, slots=True)
class PairValues(_ComparedByContent):
    """What the levels of two different groups are worth together: (L0, L1) by level position, of any sign."""

    groups: tuple[int, int]
    values: IntArray

    def __init__(self, groups: Sequence[int], values: IntArray | Sequence[Sequence[int]]) -> None:
        given = tuple(check_integer(g, "pair values, groups") for g in groups)
        place = f"pair values over groups {given}"
        if len(given) != 2 or given[0] == given[1]:
            raise SolverError(f"{place}: pair values are over two different groups")
        object.__setattr__(self, "groups", given)
        object.__setattr__(self, "values", check_integers(values, f"{place}, values", minimum=None))
        if self.values.ndim != 2:
            raise SolverError(f"{place}: values have {self.values.ndim} dimensions; give one row per level")


@dataclass(frozen=True, init=False, slots=True)
class Instance(JsonDocument):
    """Maximise the values of the chosen levels and of pairs of them, every resource's cost at most its budget.

    A *choice* is a level position per group. `value_scale` is what values were multiplied by to make them integers:
    the score of a choice is its value divided by it.
    """

    name: str
    value_scale: float = field(default=1.0, kw_only=True)
    groups: tuple[Group, ...]
    resources: tuple[Resource, ...]
    pair_values: tuple[PairValues, ...] = ()

    def __init__(
        self,
        name: str,
        groups: Sequence[Group],
        resources: Sequence[Resource],
        value_scale: float = 1.0,
        pair_values: Sequence[PairValues] = (),
    ) -> None:
        object.__setattr__(self, "name", name)
        object.__setattr__(self, "groups", tuple(groups))
        object.__setattr__(self, "resources", tuple(resources))
        object.__setattr__(self, "pair_values", tuple(pair_values))
        if not (isinstance(value_scale, int | float) and math.isfinite(value_scale) and value_scale > 0):
            raise SolverError(f"value_scale: {value_scale!r} is not a finite number above 0")
        object.__setattr__(self, "value_scale", float(value_scale))
        if not self.groups:
            raise SolverError("groups: an instance needs at least one group")
        _check_values(self)
        for index, resource in enumerate(self.resources):
            _check_resource(self, index, resource)

    def check_choice(self, choice: Sequence[int]) -> tuple[int, ...]:
        """The choice (a level position per group) as a tuple of ints; `SolverError` when it does not fit."""
        if len(choice) != len(self.groups):
            raise SolverError(
                f"choice: {len(choice)} entries for {len(self.groups)} groups; give one for each"
            )
        for index, (position, group) in enumerate(zip(choice, self.groups, strict=True)):
            if not 0 <= position < group.levels.size:
                raise SolverError(
                    f"choice[{index}]: {position} is no position; {group.name!r} has {group.levels.size}"
                )
        return tuple(int(position) for position in choice)

    def value(self, choice: Sequence[int]) -> int:
        """The exact value of a choice."""
        single = sum(int(g.values[i]) for g, i in zip(self.groups, choice, strict=True))
        return single + sum(int(p.values[choice[p.groups[0]], choice[p.groups[1]]]) for p in self.pair_values)

    def costs(self, choice: Sequence[int]) -> tuple[int, ...]:
        """The exact cost of a choice, one integer per resource."""
        levels = [int(g.levels[i]) for g, i in zip(self.groups, choice, strict=True)]
        totals = []
        for resource in self.resources:
            total = resource.constant
            for term in resource.terms:
                product = term.coefficient
                for factor in term.factors:
                    product *= factor.at(levels)
                total += product
            for table in resource.tables:
                total += int(table.costs[tuple(choice[g] for g in table.groups)])
            totals.append(total)
        return tuple(totals)

    def is_feasible(self, choice: Sequence[int]) -> bool:
        """Whether every resource's cost is within its budget."""
        return all(c <= r.budget for c, r in zip(self.costs(choice), self.resources, strict=True))

    def trivial_bound(self) -> int:
        """The sum of each group's and pair's largest value: no choice is worth more."""
        return sum(int(v.max()) for v in self._value_arrays())

    def least_value(self) -> int:
        """The sum of each group's and pair's least value: no choice is worth less."""
        return sum(int(v.min()) for v in self._value_arrays())

    def largest_magnitude(self) -> int:
        """The sum of each group's and pair's value largest in magnitude: no part of a value is beyond it."""
        return sum(max(abs(int(v.max())), abs(int(v.min()))) for v in self._value_arrays())

    def _value_arrays(self) -> list[IntArray]:
        return [*(g.values for g in self.groups), *(p.values for p in self.pair_values)]

    def lowest_levels(self) -> list[int]:
        """The least level of every group."""
        return [int(g.levels[0]) for g in self.groups]

    def highest_levels(self) -> list[int]:
        """The largest level of every group."""
        return [int(g.levels[-1]) for g in self.groups]

    def to_json(self) -> str:
        """The instance in the format `grouped-knapsack`, version 1 where there are no pair values: one line."""
        document = {"format": FORMAT, "version": 2 if self.pair_values else 1} | encode(self)
        if not self.pair_values:
            del document["pair_values"]
        return json.dumps(document, separators=(",", ":"), ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Instance:
        """Read the format `grouped-knapsack`, version 1 or 2; `SolverError` names the place of what is wrong."""
        document = parse_object(text)
        header = {}
        for key, allowed in (("format", (FORMAT,)), ("version", VERSIONS)):
            if key not in document:
                raise SolverError(f"{key}: is missing")
            header[key] = value = document.pop(key)
            if type(value) is not type(allowed[0]) or value not in allowed:
                known = " or ".join(map(repr, allowed))
                raise SolverError(f"{key}: {value!r} cannot be read; this release reads {key} {known}")
        if header["version"] == 1 and "pair_values" in document:
            raise SolverError("pair_values: version 1 has none; write version 2")
        return decode(cls, document)


def _check_values(instance: Instance) -> None:
    count = len(instance.groups)
    for index, pair in enumerate(instance.pair_values):
        for k, g in enumerate(pair.groups):
            if g >= count:
                raise SolverError(
                    f"pair_values[{index}].groups[{k}]: {g} is no group; there are {count}, from 0 on"
                )
        expected = tuple(instance.groups[g].levels.size for g in pair.groups)
        if pair.values.shape != expected:
            raise SolverError(
                f"pair_values[{index}].values: shape {pair.values.shape}, but its groups ask for {expected}"
            )
    total = instance.largest_magnitude()
    if total > LARGEST_TOTAL:
        where = "groups and pair_values" if instance.pair_values else "groups"
        raise SolverError(f"{where}: values add up to {total}, beyond 2**62; scale the values down")


def _check_resource(instance: Instance, index: int, resource: Resource) -> None:
    count, highest = len(instance.groups), instance.highest_levels()
    place = f"resources[{index}]"
    total = resource.constant
    for t, term in enumerate(resource.terms):
        product = term.coefficient
        for f, factor in enumerate(term.factors):
            for k, g in enumerate(factor.groups):
                if g >= count:
                    raise SolverError(
                        f"{place}.terms[{t}].factors[{f}].groups[{k}]: {g} is no group; there are {count}"
                    )
            product *= factor.at(highest)
        if product > LARGEST_TOTAL:
            raise SolverError(f"{place}.terms[{t}]: reaches {product}, beyond 2**62; scale the costs down")
        total += product
    for t, table in enumerate(resource.tables):
        for k, g in enumerate(table.groups):
            if g >= count:
                raise SolverError(f"{place}.tables[{t}].groups[{k}]: {g} is no group; there are {count}")
        expected = tuple(instance.groups[g].levels.size for g in table.groups)
        if table.costs.shape != expected:
            raise SolverError(
                f"{place}.tables[{t}].costs: shape {table.costs.shape}, but its groups ask for {expected}"
            )
        total += int(table.costs.max())
    if total > LARGEST_TOTAL:
        raise SolverError(f"{place}: costs reach {total}, beyond 2**62; scale the costs down")
