"""Undominated states, against the definition."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from solvers.exact.dominance import undominated


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 3), st.integers(1, 300), st.integers(0, 2**32 - 1), st.sampled_from([6, 2**50]))
def test_undominated(resources: int, count: int, seed: int, largest: int) -> None:
    """What no other of its key beats or equals (one of equals stays); of several costs perhaps some more.

    With two costs and many states there are no more: then all of them have been compared.
    """
    random = np.random.default_rng(seed)
    key = random.integers(0, 3, count)
    cost = random.integers(0, largest, (resources, count))
    value = random.integers(-largest, largest, count)
    kept = undominated(key, cost, value)
    assert len(set(kept.tolist())) == kept.size
    assert (np.diff(key[kept]) >= 0).all()
    state = [(int(key[i]), *cost[:, i].tolist(), -int(value[i])) for i in range(count)]
    distinct = set(state)
    best = {
        s
        for s in distinct
        if not any(o != s and o[0] == s[0] and all(map(int.__le__, o, s)) for o in distinct)
    }
    assert best <= {state[i] for i in kept}
    if resources < 2 or (resources == 2 and kept.size > 64):
        assert sorted(best) == sorted(state[i] for i in kept)
