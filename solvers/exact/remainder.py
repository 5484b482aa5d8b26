"""CP-SAT on the levels that the bound leaves, with the incumbent as hint and a window for the value."""

from collections.abc import Sequence

import numpy as np

from ..backends.cp_sat import build, optimise
from ..incumbent import Incumbent
from ..problem.instance import Group, Instance, IntArray, PairValues, Resource, Table


def solve_remainder(positions: Sequence[IntArray], incumbent: Incumbent, share: float = 1.0) -> bool:
    """Let CP-SAT look for choices better than the incumbent's.

    Args:
        positions: per group the level positions left; they must contain every better choice.
        incumbent: is told of choices and bounds.
        share: of the time left, for this.

    Returns:
        Whether there provably is no better choice than the incumbent's now.
    """
    until = incumbent.seconds + share * incumbent.remaining
    hint = None
    if incumbent.choice:
        hint = [int(np.abs(p - i).argmin()) for p, i in zip(positions, incumbent.choice, strict=True)]
    model = build(restricted(incumbent.instance, positions), hint, incumbent.value, incumbent.bound)
    outcome = optimise(model, incumbent, until - incumbent.seconds, positions)
    if outcome != "open" and incumbent.value is not None:
        incumbent.prove(incumbent.value)
    return outcome != "open"


def restricted(instance: Instance, positions: Sequence[IntArray]) -> Instance:
    """The same instance over the levels at the given positions (increasing, one array per group)."""
    groups = [
        Group(g.name, g.levels[p], g.values[p]) for g, p in zip(instance.groups, positions, strict=True)
    ]
    resources = [
        Resource(
            r.name,
            r.budget,
            r.terms,
            [Table(t.groups, t.costs[np.ix_(*(positions[g] for g in t.groups))]) for t in r.tables],
            r.constant,
        )
        for r in instance.resources
    ]
    pairs = [
        PairValues(p.groups, p.values[np.ix_(*(positions[g] for g in p.groups))])
        for p in instance.pair_values
    ]
    return Instance(instance.name, groups, resources, instance.value_scale, pairs)
