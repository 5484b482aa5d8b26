"""What stays in every plan, with its reason: unknown operators, inputs, pins, and code that cannot follow."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import knapsack_prune as kp
from knapsack_prune.errors import RequestError
from tests.zoo import ZOO, enliven, random_plan

EXAMPLE = torch.zeros(1, 3, 8, 8)


class Frozen(nn.Module):
    """An operator without a rule between two layers."""

    def __init__(self, operator: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)
        self.operator = operator

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.c(self.b(self.operator(self.a(x)))).mean((2, 3))


def test_an_operator_without_a_rule_freezes_what_reaches_it() -> None:
    graph = kp.trace(Frozen(lambda x: x.renorm(2, 1, 1.0)), EXAMPLE)
    assert [group.name for group in graph.groups] == ["b"]
    reasons = {frozen.name: frozen.reason for frozen in graph.frozen}
    assert reasons["a"] == "`renorm` has no rule"
    assert reasons["c"] == "output of the network"


def test_channels_that_meet_the_input_stay() -> None:
    class Skip(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 4, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.b(self.a(x) + x).mean((2, 3))

    graph = kp.trace(Skip(), EXAMPLE)
    assert not graph.groups
    assert any("input" in frozen.reason for frozen in graph.frozen)


def test_keep_pins_layers_and_refuses_a_glob_without_a_match() -> None:
    model = ZOO["plain"]()
    assert [group.name for group in kp.trace(model, EXAMPLE, keep=["a"]).groups] == ["stem", "b"]
    with pytest.raises(RequestError, match="`keep` 'layer9' matches none of the 4 layers"):
        kp.trace(model, EXAMPLE, keep=["layer9"])


class Literal(nn.Module):
    """Code that states a width as a number: no attribute to rewrite, nothing computed from the input."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 6, 1), nn.Conv2d(6, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x).reshape(-1, 8, 64).reshape(-1, 8, 8, 8)
        return self.c(self.b(x)).mean((2, 3))


def test_code_that_cannot_follow_runs_a_program_instead() -> None:
    model = enliven(Literal())
    graph = kp.trace(model, EXAMPLE)
    assert [group.name for group in graph.groups] == ["a", "b"]
    assert [part.program.module for part in graph.rewritten] == [""]
    kp.slim(model, random_plan(model, graph, 0, 0.7))


class Opaque(Literal):
    """Code that cannot be told as a program either: it takes another path in training."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = super().forward(x)
        return out.sin() if self.training else out


def test_code_that_cannot_be_rewritten_is_frozen_before_anything_is_planned() -> None:
    model = enliven(Opaque())
    graph = kp.trace(model, EXAMPLE)
    assert [group.name for group in graph.groups] == ["b"]
    (reason,) = (frozen.reason for frozen in graph.frozen if frozen.name == "a")
    assert reason.startswith(
        "the code of the network does not follow other widths (shape '[-1, 8, 64]' is invalid"
    )
    assert reason.endswith("it cannot be rewritten: `sin` is run in training mode only)")
    kp.slim(model, random_plan(model, graph, 0, 0.7))


class Reading(nn.Module):
    """Code that reads values, which no network on the meta device can do at any width."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.size = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 4, 1), 8

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.a(x).flatten(2).reshape(x.shape[0], self.size, 8, 8)
        if not torch.compiler.is_exporting() and float(x.sum()) > 1e9:
            return self.b(x * 0).mean((2, 3))
        return self.b(x).mean((2, 3))


def test_a_trial_run_that_fails_at_full_width_too_freezes_nothing() -> None:
    model = enliven(Reading())
    graph = kp.trace(model, EXAMPLE)
    assert graph.sized == ("",)
    assert [group.name for group in graph.groups] == ["a"]
    kp.slim(model, random_plan(model, graph, 0, 0.7))
