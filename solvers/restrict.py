"""An instance cut down to some of its levels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .instance import Group, Instance, IntArray, Resource, Table


def restrict(instance: Instance, positions: Sequence[IntArray]) -> Instance:
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
    return Instance(instance.name, groups, resources, instance.value_scale)
