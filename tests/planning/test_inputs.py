"""Networks with other inputs than one image: planned, recounted, written, read and slimmed again."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import knapsack_prune as kp
from knapsack_prune.errors import RequestError
from knapsack_prune.planning.input_parts import FEW_WHOLE, described, rebuilt


class Several(nn.Module):
    """An image, a nested mapping, a flag, and an output of which only one entry is a tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.meta = nn.Conv2d(3, 16, 3, padding=1), nn.Linear(5, 16)
        self.mix, self.head = nn.Conv2d(16, 12, 1), nn.Linear(12, 4)

    def forward(self, images: Tensor, *, meta: dict[str, Any], double: bool = False) -> dict[str, Any]:
        hidden = self.conv(images) + self.meta(meta["numbers"][0])[:, :, None, None]
        hidden = self.mix(hidden.relu()).mean((2, 3))
        return {"out": self.head(hidden * 2 if double else hidden), "nothing": None, "number": 3}


class Fixed(nn.Module):
    """Code that fixes the batch."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch
        self.conv, self.head = nn.Conv2d(3, 16, 3), nn.Linear(16, 4)

    def forward(self, images: Tensor) -> Tensor:
        hidden = self.conv(images).relu().mean((2, 3)).view(self.batch, -1)
        return self.head(hidden)


class Unbatched(nn.Module):
    """One vector, no batch."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 16), nn.Linear(16, 2)

    def forward(self, numbers: Tensor) -> tuple[Tensor, list[Tensor]]:
        hidden = self.first(numbers).relu()
        return self.last(hidden), [self.last(hidden * 2)]


CASES = {
    "several": (
        Several,
        kp.Example((torch.zeros(3, 3, 8, 8),), {"meta": {"numbers": [torch.rand(3, 5)]}, "double": True}),
    ),
    "batch fixed at 1": (lambda: Fixed(1), torch.zeros(1, 3, 8, 8)),
    "batch fixed at 2": (lambda: Fixed(2), torch.zeros(2, 3, 8, 8)),
    "unbatched": (Unbatched, torch.zeros(6)),
}


@pytest.mark.parametrize("case", CASES)
def test_any_example_goes_the_whole_way(case: str, tmp_path: Path) -> None:
    make, given = CASES[case]
    model, example = make().eval(), kp.Example.of(given)
    plan = kp.plan(model, example, flops_budget=0.6, importance="l1")
    assert 0 < plan.planned_flops <= 0.6 * plan.budgets[0].parent
    small = kp.slim(model, plan)  # checks outputs and recounts
    kp.save_slim(small, plan, tmp_path)
    again = kp.load_slim(tmp_path, make).eval()
    for ours, theirs in zip(_tensors(example, again), _tensors(example, small), strict=True):
        assert torch.equal(ours, theirs)
    kp.verify(kp.Plan.load(tmp_path / "plan.json"), model)


def _tensors(example: kp.Example, model: nn.Module) -> list[Tensor]:
    return kp.Example.of((example.informative().run(model.eval()),)).tensors


def test_costs_are_those_of_the_example() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    one, four = (
        kp.plan(model, example=torch.zeros(batch, 3, 8, 8), flops_budget=0.5, importance="l1").budgets[0]
        for batch in (1, 4)
    )
    assert (four.parent, four.planned) == (4 * one.parent, 4 * one.planned)


def test_small_whole_numbers_are_kept_and_large_ones_drawn_from_their_range() -> None:
    few, many = torch.randint(5, 90, (2, 7)), torch.randint(5, 90, (3, FEW_WHOLE))
    example = kp.Example((few, many), {"mask": torch.tensor([[True, False]]), "floats": torch.rand(9, 9)})
    said = described(example)
    assert said is not None
    again = rebuilt(type(said).model_validate_json(said.model_dump_json(), strict=True))
    assert torch.equal(again.args[0], few) and torch.equal(again.kwargs["mask"], example.kwargs["mask"])
    assert again.args[1].shape == many.shape and again.args[1].dtype == torch.int64
    assert 5 <= int(again.args[1].min()) < int(again.args[1].max()) < 90
    assert again.kwargs["floats"].shape == (9, 9) and again.kwargs["floats"].std() > 0.5
    assert torch.equal(rebuilt(said).args[1], again.args[1])


@dataclass
class Record:
    images: Tensor


def test_what_a_plan_cannot_say_is_asked_for_again() -> None:
    said = described(kp.Example((Record(torch.zeros(1, 3)),)))
    assert said is not None
    with pytest.raises(RequestError, match=r"Record, which a plan cannot say: give `example` again"):
        rebuilt(said)


def test_an_input_that_the_network_refuses_is_told_as_that() -> None:
    with pytest.raises(
        RequestError, match=r"refuses an input of float32 \(2, 7\): .*shapes cannot be multiplied"
    ):
        kp.trace(nn.Linear(6, 3), torch.zeros(2, 7))


def test_what_cannot_be_exported_is_told_as_that() -> None:
    class Branch(nn.Module):
        def forward(self, numbers: Tensor) -> Tensor:
            return F.relu(numbers) if numbers.sum() > 0 else numbers

    with pytest.raises(
        RequestError, match=r"cannot trace .* torch.export stopped in .* choose with torch.where"
    ):
        kp.trace(Branch(), torch.zeros(2, 7))


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("input_shape",), [7, 8, 8], r"input_shape is \[7, 8, 8\], by model.inputs it is \[3, 8, 8\]"),
        (
            ("inputs", "kwargs", "meta", "items", "numbers", "items", 0, "shape"),
            [7, 5],
            "15 values for a tensor",
        ),
        (("inputs", "args", 0, "range"), [1.0, 0.0], "range .* is empty"),
    ],
)
def test_what_a_plan_says_of_its_inputs_agrees(
    path: tuple[str | int, ...], value: object, words: str
) -> None:
    make, given = CASES["several"]
    model, example = make().eval(), kp.Example.of(given)
    plan = kp.plan(model, example, flops_budget=0.6, importance="l1")
    assert "model.inputs" in kp.verify(plan, model, quick=True).trusted
    data = json.loads(plan.to_json())
    place = data["model"]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(RequestError, match=words):
        kp.slim(model, kp.Plan.from_json(json.dumps(data)))
