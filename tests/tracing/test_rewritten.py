"""Modules whose code computes its own sizes run a program in which sizes follow, and are otherwise what they were."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import knapsack_prune as kp
from knapsack_prune.costs.counting import check_polynomial
from knapsack_prune.errors import RequestError
from tests.zoo import enliven, random_plan

EXAMPLE = torch.zeros(1, 3, 8, 8)


class Attention(nn.Module):
    """Everyone's own attention: the size of a head is computed from the width of the input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.bias = nn.Parameter(torch.randn(16, 16))

    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        attention = (q @ k.transpose(-2, -1) * (c // self.heads) ** -0.5 * scale + self.bias).softmax(-1)
        attention = F.dropout(attention, 0.5, self.training)
        return self.proj((attention @ v).transpose(1, 2).reshape(b, n, c))


class Windows(nn.Module):
    """Windows of 2 x 2 pixels, each normalised by its own code, batch and windows in one dimension."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner, self.norm, self.shift = (
            nn.Linear(width, width),
            nn.LayerNorm(width),
            nn.Parameter(torch.ones(1)),
        )

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        b, n, _ = x.shape
        x = x.reshape(b * n // 4, 4, 16)
        return self.norm(self.inner(x) * self.shift).reshape(b, n, 16), None


class Net(nn.Module):
    """A stem, two blocks of own code, and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.attention, self.windows = nn.Conv2d(3, 16, 2, 2), Attention(16, 4), Windows(16)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x).flatten(2).transpose(1, 2)
        x = x + self.attention(x, scale=2.0)
        return self.head((x + self.drop(self.windows(x)[0])).mean(1))


@pytest.fixture(scope="module")
def slimmed() -> tuple[nn.Module, kp.Plan, nn.Module]:
    """A network of rigid modules, a plan and what the plan makes of it."""
    model = enliven(Net())
    graph = kp.trace(model, EXAMPLE)
    check_polynomial(graph, model)
    assert [group.name for group in graph.groups] == [
        "stem",
        "attention.qkv",
        "windows.inner",
    ] or graph.groups
    assert [part.program.module for part in graph.rewritten] == ["attention", "windows"]
    assert not any("follow" in frozen.reason for frozen in graph.frozen)
    plan = random_plan(model, graph, 0, 0.6)
    return model, plan, kp.slim(model, kp.Plan.from_json(plan.to_json()))


def test_programs_run_for_any_number_of_examples_and_on_copies(
    slimmed: tuple[nn.Module, kp.Plan, nn.Module],
) -> None:
    _, _, small = slimmed
    batch = torch.randn(5, 3, 8, 8)
    whole = small(batch)
    assert torch.allclose(whole, torch.cat([small(one[None]) for one in batch]), atol=1e-5)
    assert torch.equal(copy.deepcopy(small)(batch), whole)


def test_a_rewritten_module_keeps_its_class_its_names_and_its_children(
    slimmed: tuple[nn.Module, kp.Plan, nn.Module],
) -> None:
    model, _, small = slimmed
    assert isinstance(small.attention, Attention) and small.attention.bias.shape == (16, 16)
    assert list(small.state_dict()) == list(model.state_dict())
    seen = []
    small.windows.norm.register_forward_hook(lambda *_: seen.append("norm"))
    small(torch.randn(2, 3, 8, 8))
    assert seen == ["norm"]


def test_dropout_works_in_training_only(slimmed: tuple[nn.Module, kp.Plan, nn.Module]) -> None:
    _, _, small = slimmed
    small = copy.deepcopy(small)
    tokens = torch.randn(2, 16, small.attention.qkv.in_features)
    assert torch.equal(small.attention(tokens, scale=2.0), small.attention(tokens, scale=2.0))
    small.train()
    assert not torch.equal(small.attention(tokens, scale=2.0), small.attention(tokens, scale=2.0))
    small(torch.randn(2, 3, 8, 8)).sum().backward()
    assert all(parameter.grad is not None for parameter in small.parameters())


def test_it_is_saved_loaded_exported_and_planned_again(
    slimmed: tuple[nn.Module, kp.Plan, nn.Module], tmp_path: Path
) -> None:
    _, plan, small = slimmed
    kp.save_slim(small, plan, tmp_path)
    again = kp.load_slim(tmp_path, Net).eval()
    batch = torch.randn(3, 3, 8, 8)
    assert torch.equal(again(batch), small(batch))
    exported = torch.export.export(
        small, (batch,), strict=False, dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    assert torch.allclose(exported.module()(torch.cat([batch, batch]))[:3], small(batch), atol=1e-5)
    graph = kp.trace(small, EXAMPLE)
    check_polynomial(graph, small)
    kp.slim(small, random_plan(small, graph, 1, 0.7))


def test_a_program_that_names_another_operator_is_refused(
    slimmed: tuple[nn.Module, kp.Plan, nn.Module],
) -> None:
    model, plan, _ = slimmed
    for text in ("aten.from_file.default", "aten.save.default", "prims.add.default", "os.system.x"):
        edited = kp.Plan.from_json(plan.to_json().replace("aten.softmax.int", text))
        with pytest.raises(RequestError, match="no operator that a program may call"):
            kp.slim(model, edited, check=False)


@pytest.mark.parametrize("kind", ["operator", "module"])
def test_names_of_arguments_are_no_code(
    slimmed: tuple[nn.Module, kp.Plan, nn.Module], tmp_path: Path, kind: str
) -> None:
    """A program becomes Python code, and names of arguments would stand in it as they are: a slim directory from
    elsewhere ran what they said."""
    model, plan, _ = slimmed
    data = json.loads(plan.to_json())
    node = next(node for node in data["rewritten"][0]["nodes"] if node["kind"] == kind)
    node["kwargs"] = {f"x=__import__('pathlib').Path({str(tmp_path / 'ran')!r}).touch(), y": 1}
    with pytest.raises(RequestError, match=r"may call with|takes no arguments by name"):
        kp.slim(model, kp.Plan.from_json(json.dumps(data)), check=False)(EXAMPLE)
    assert not (tmp_path / "ran").exists()


class Silent(nn.Module):
    """Heads of another size than before, without an error: only the numbers tell."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(16, 16), nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.adaptive_avg_pool2d(x, (4, 4)).reshape(x.shape[0], 3, 16)
        x = self.a(x)
        four = x.reshape(x.shape[0], 3, 4, -1)
        mixed = (four @ four.transpose(-1, -2)).softmax(-1) @ four
        return self.c(self.b(mixed.flatten(2))).mean(1)


class Shuffled(nn.Module):
    """Code that gives up on widths that are not multiples of four."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        if x.shape[1] % 4:
            raise ValueError("widths must be multiples of 4")
        return self.c(self.b(x.reshape(x.shape[0], 16, 64).relu().reshape(x.shape[0], 16, 8, 8))).mean((2, 3))


@pytest.mark.parametrize("network", [Silent, Shuffled])
def test_networks_that_fail_otherwise(network: Callable[[], nn.Module]) -> None:
    model = enliven(network())
    graph = kp.trace(model, EXAMPLE)
    check_polynomial(graph, model)
    assert graph.groups
    kp.slim(model, random_plan(model, graph, 0, 0.7))


class Picky(nn.Module):
    """Code that fails at just the widths that a plan chose."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 16, 1), nn.Conv2d(16, 16, 1), nn.Conv2d(16, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x)
        if x.shape[1] == 4:
            raise ValueError("4 channels are unlucky")
        return self.c(self.b(x)).mean((2, 3))


def test_planned_widths_are_tried_themselves() -> None:
    model = enliven(Picky())
    plan = kp.plan(model, EXAMPLE, flops_budget=0.99, importance="l1", limit=("a=4:4",))
    assert [part.module for part in plan.rewritten] == [""]
    assert kp.slim(model, plan).a.out_channels == 4
