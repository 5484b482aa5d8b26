"""What stays of a network: the same from a traced graph and from the plan that was written of it."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import knapsack_prune as kp
from knapsack_prune.errors import RequestError
from knapsack_prune.graph.selection import RemovedIndices, Selection, select
from knapsack_prune.narrowing.copying import narrow_copy, tensor_shapes
from knapsack_prune.planning.identity import kept_units
from tests.zoo import ZOO, enliven, random_plan

EXAMPLE = torch.zeros(1, 3, 8, 8)


@pytest.mark.parametrize("name", ZOO)
def test_a_graph_and_its_plan_select_the_same(name: str) -> None:
    model = enliven(ZOO[name]())
    graph = kp.trace(model, EXAMPLE)
    plan = random_plan(model, graph, 1, 0.6)
    ours, theirs = select(graph, kept_units(graph, plan)), kp.Plan.from_json(plan.to_json()).selection()
    for roles in ((), ("in",), ("in", "out")):
        left, right = ours.removed_indices(*roles), theirs.removed_indices(*roles)
        assert left.keys() == right.keys()
        assert all(np.array_equal(left[axis], right[axis]) for axis in left)
    assert (ours.attributes, ours.full_width, ours.stages) == (
        theirs.attributes,
        theirs.full_width,
        theirs.stages,
    )
    assert [part.operator for part in ours.reductions] == [part.operator for part in theirs.reductions]
    shapes = tensor_shapes(narrow_copy(model, ours))
    for (parameter, dim), kept in ours.kept_indices(tensor_shapes(model)).items():
        assert shapes[parameter][dim] == len(kept)


def test_by_hand() -> None:
    # Four of eight channels stay: 0, 2, 4 and 6; a reads every channel's 2 x 2 positions, flattened.
    graph = kp.trace(ZOO["flatten"](), EXAMPLE, keep=["a"])
    selection = select(graph, [np.array([0, 2, 4, 6])])
    gone = selection.removed_indices()
    assert gone["stem.weight", 0].tolist() == gone["stem.bias", 0].tolist() == [1, 3, 5, 7]
    odd = [4 * channel + position for channel in (1, 3, 5, 7) for position in range(4)]
    assert gone["a.weight", 1].tolist() == odd
    assert selection.removed_indices("in").keys() == {("a.weight", 1)}
    kept = selection.kept_indices(tensor_shapes(ZOO["flatten"]()))
    assert kept["a.weight", 1].tolist() == sorted(set(range(32)) - set(odd))


@pytest.mark.parametrize(
    ("part", "words"),
    [
        (RemovedIndices("b.weight", 0, "out", np.array([1])), "b.weight, which this network does not have"),
        (RemovedIndices("a.bias", 1, "out", np.array([1])), "slices dimension 1 of a.bias"),
        (RemovedIndices("a.bias", 0, "out", np.array([9])), "removes index 9 along dimension 0 of a.bias"),
    ],
)
def test_a_selection_of_another_network_is_refused(part: RemovedIndices, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        Selection((part,)).kept_indices({"a.bias": (4,)})
