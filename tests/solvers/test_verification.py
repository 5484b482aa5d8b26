"""`verify` trusts nothing that a solver says."""

from __future__ import annotations

from dataclasses import fields

import pytest

from solvers import Factor, Group, Instance, Resource, Result, SolverError, Status, Term, verify


def test_verify_trusts_nothing() -> None:
    groups = [Group("a", [8, 16], [3, 5]), Group("b", [1, 2, 3], [1, 1, 4])]
    terms = [Term(2, [Factor([0]), Factor([1, 0], [1, 2], 3)])]
    instance = Instance("example", groups, [Resource("flops", 100, terms)])
    choice, costs = (0, 0), instance.costs((0, 0))
    honest = Result(Status.FEASIBLE, choice, 4, 9, costs, "s", "1", 0.0)
    with pytest.raises(SolverError, match="over the budget of 100"):
        verify(instance, honest)
    roomy = Instance("roomy", instance.groups, [Resource("flops", 10**6, instance.resources[0].terms)])
    costs = roomy.costs(choice)
    honest = Result(Status.FEASIBLE, choice, 4, 9, costs, "s", "1", 0.0, ((0.0, 4, 9),))
    verify(roomy, honest)
    for change, message in (
        ({"value": 5}, "claims value 5, but its choice is worth 4"),
        ({"costs": (1,)}, r"claims costs \(1,\)"),
        ({"choice": (0, 3)}, r"choice\[1\]: 3 is no position"),
        ({"choice": (0,)}, "1 entries for 2 groups"),
        ({"trace": ((0.5, None, 3),)}, "the bound 3 traced at 0.500 s is beaten"),
    ):
        entries = {f: getattr(honest, f) for f in (f.name for f in fields(Result))} | change
        with pytest.raises(SolverError, match=message):
            verify(roomy, Result(**entries))
