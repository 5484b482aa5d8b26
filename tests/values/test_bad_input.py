"""What value models refuse, in one message with the number, the rule and the remedy; and losses of any network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import knapsack_prune as kp
from knapsack_prune.errors import RequestError
from knapsack_prune.values import measured, moments
from knapsack_prune.values.cutting import CuttableNetwork
from knapsack_prune.values.estimate import estimate_values
from knapsack_prune.values.losses import batch_part, divergence
from knapsack_prune.values.measured import measured_values
from knapsack_prune.values.moments import collect_moments
from tests.values.test_cutting import EXAMPLE, images
from tests.zoo import ZOO, enliven

METHODS = ("measured", "reconstruction", "joint_fisher")


def residual() -> tuple[kp.ChannelGraph, nn.Module]:
    model = enliven(ZOO["residual"]())
    return kp.trace(model, EXAMPLE), model


@pytest.mark.parametrize("method", METHODS)
def test_images_must_have_the_shape_of_the_network(method: str) -> None:
    graph, model = residual()
    message = r"examples of shape \(3, 9, 9\), the network was traced with \(3, 8, 8\).*trace with an example"
    with pytest.raises(RequestError, match=message):
        estimate_values(graph, model, method, data=[torch.zeros(4, 3, 9, 9)])
    with pytest.raises(RequestError, match="a batch holds a str; give tensors"):
        estimate_values(graph, model, method, data=["images"])
    with pytest.raises(RequestError, match=f"importance '{method}' needs images: give `data`"):
        estimate_values(graph, model, method)


@pytest.mark.parametrize("method", METHODS)
def test_the_layer_that_makes_nan_is_named(method: str) -> None:
    graph, model = residual()
    with torch.no_grad():
        model.b.weight[1] = torch.nan
    for data, first in ((images(4), "layer b"), (images(4) * torch.nan, "the examples themselves")):
        with pytest.raises(RequestError, match=f"the first to hold some is {first}: check the weights"):
            estimate_values(graph, model, method, data=[data])


class Divides(nn.Module):
    """Its first unit alone keeps a sum of relus from 0, by which it is divided."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.inner = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1)
        self.out, self.head = nn.Conv2d(6, 4, 1, bias=False), nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.out(self.inner(self.stem(x).relu()).relu()).mean((2, 3))
        return self.head(x / x.abs().sum(1, keepdim=True))


def test_a_group_whose_cut_makes_nan_is_named() -> None:
    model = enliven(Divides())
    with torch.no_grad():
        model.inner.bias.copy_(torch.tensor([1.0, *[-100.0] * 5]))
    graph = kp.trace(model, EXAMPLE, keep=["stem", "out"])
    order = kp.estimate_values(graph, model, "random", seed=0)
    order.groups[0].order[:] = [1, 2, 3, 4, 5, 0]
    message = r"the network with \d of 6 units of group inner is nan; .*pin the group with `keep`"
    with pytest.raises(RequestError, match=message):
        measured_values(graph, model, [images(8)], order, refit="none")


def test_fits_of_few_rows_are_counted() -> None:
    graph, model = residual()
    few, enough = (measured_values(graph, model, [images(n)]).provenance.options for n in (2, 32))
    assert (few["layers_fitted"], few["layers_with_few_rows"]) == (
        3,
        2,
    )  # a, b and the head; of b one image is enough
    assert enough["layers_with_few_rows"] == 0


def squared(output: Any, parent: Any, batch: Any) -> Tensor:
    """For outputs of any structure."""
    if isinstance(output, Tensor):
        return (output - parent).square().mean()
    keys = output if isinstance(output, dict) else range(len(output))
    pairs = [(output[key], parent[key]) for key in keys]
    return torch.stack([squared(one, other, batch) for one, other in pairs]).sum()


class Wrapped(nn.Module):
    """A network whose output has another structure."""

    def __init__(self, model: nn.Module, wrap: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.model, self.wrap = model, wrap

    def forward(self, x: Tensor) -> Any:
        return self.wrap(self.model(x))


@pytest.mark.parametrize("method", ["measured", "reconstruction"])
def test_values_of_networks_with_other_outputs(method: str) -> None:
    for wrap, loss in (
        (lambda y: {"out": y, "aux": y * 2}, None),
        (lambda y: {"depth": y}, squared),
        (lambda y: [{"boxes": y, "score": y.sigmoid()}], squared),
    ):
        model = enliven(Wrapped(ZOO["residual"](), wrap))
        graph = kp.trace(model, EXAMPLE)
        tables = estimate_values(graph, model, method, data=[images(16)], loss=loss)
        for group in tables.groups:
            assert group.values[0] < 0.9 * group.values[-2] < 0


def test_the_unit_of_a_loss_does_not_matter() -> None:
    graph, model = residual()
    one = estimate_values(graph, model, "measured", data=[images(16)], loss=squared)
    small = estimate_values(graph, model, "measured", data=[images(16)], loss=lambda *a: 1e-4 * squared(*a))
    for ours, theirs in zip(one.groups, small.groups, strict=True):
        torch.testing.assert_close(1e-4 * ours.values, theirs.values, rtol=1e-3, atol=1e-12)


def test_what_a_loss_cannot_tell_is_said() -> None:
    graph, model = residual()
    with pytest.raises(
        RequestError, match=r"has 1 class, whose divergence .* is always 0: give a function with `loss`"
    ):
        divergence(torch.zeros(4, 1), torch.zeros(4, 1), None)
    with pytest.raises(RequestError, match=r"no gradient at the parent's own output.*choose `measured`"):
        estimate_values(graph, model, "joint_fisher", data=[images(4)], loss=squared)


def test_parts_of_batches() -> None:
    batch = (torch.arange(4), [{"boxes": torch.ones(i, 4)} for i in range(4)], {"y": torch.arange(4), "k": 3})
    inputs, boxes, rest = batch_part(batch, 4, slice(1, 3))
    assert inputs.tolist() == [1, 2] and [len(b["boxes"]) for b in boxes] == [1, 2]
    assert rest["y"].tolist() == [1, 2] and rest["k"] == 3


def test_large_batches_are_read_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, model = residual()
    network, data = CuttableNetwork(graph, model), [images(12)]
    loss = lambda output, parent, batch: F.cross_entropy(output, output.argmax(1))  # noqa: E731
    whole = collect_moments(network, data, gradients=True, loss=loss).consumers["b.weight"]
    monkeypatch.setattr(moments, "memory_limit", lambda device: 200_000)
    parts = collect_moments(network, data, gradients=True, loss=loss).consumers["b.weight"]
    torch.testing.assert_close(whole.gradient, parts.gradient)
    assert whole.rows == parts.rows

    calls: list[tuple[int, int | None]] = []
    monkeypatch.setattr(measured, "memory_limit", lambda device: 1_000)
    known: dict[str, float] = {}
    measured_values(graph, model, data, known=known, progress=lambda *call: calls.append(call))
    assert {key.partition(":")[0] for key in known} == {"0", "1", "2"}
    assert calls[-1] == (27, 27)


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.rand(4), r"labels are torch\.float32 of shape \(4,\).*for a regression give a function"),
        (torch.rand(4, 5), "add up to .* where probabilities of classes add up to 1"),
        (torch.tensor([0, 1, 2, 5]), "lie in 0 to 5, the network has the classes 0 to 4"),
        (torch.tensor([0, 1, 2, -1]), "lie in -1 to 2"),
        (torch.full((4,), -100), "0 of 4 of them other than -100"),
        (torch.tensor([True, False, True, True]), r"labels are torch\.bool"),
    ],
)
def test_labels_that_are_no_classes_give_no_plan(labels: Tensor, words: str) -> None:
    """Story: a regression's targets gave a "taylor ... OPTIMAL" plan from a meaningless loss."""
    graph, model = residual()
    assert model(images(4)).shape == (4, 5)
    with pytest.raises(RequestError, match=words):
        kp.score(graph, model, "taylor", data=[(images(4), labels)])
    good = torch.tensor([0, 1, -100, 4])
    assert kp.score(graph, model, "taylor", data=[(images(4), good)]).samples == 4
