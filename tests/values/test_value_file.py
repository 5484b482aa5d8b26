"""Values on disk: continued, found again, refused; recorded in plans, and verified there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import knapsack_prune as kp
from knapsack_prune.errors import RequestError
from knapsack_prune.planning.claims import BrokenPlanError
from knapsack_prune.values import estimate
from knapsack_prune.values.estimate import estimate_values
from knapsack_prune.values.tables import ValueTables
from tests.values.test_cutting import EXAMPLE, images
from tests.zoo import ZOO, enliven

DATA = [images(8), images(8, seed=2)]


@pytest.fixture(scope="module")
def residual() -> tuple[kp.ChannelGraph, nn.Module]:
    model = enliven(ZOO["residual"]())
    return kp.trace(model, EXAMPLE), model


def same(one: ValueTables, other: ValueTables) -> None:
    assert one.provenance == other.provenance
    assert one.whole == other.whole
    for ours, theirs in zip(one.groups, other.groups, strict=True):
        np.testing.assert_array_equal(ours.order, theirs.order)
        np.testing.assert_array_equal(ours.values, theirs.values)


def test_a_measurement_that_was_killed_continues_to_the_same_values(
    residual: tuple[kp.ChannelGraph, nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    graph, model = residual
    path = tmp_path / "deep" / "values.json"
    whole = estimate_values(graph, model, "measured", data=DATA)
    before = {key: value.clone() for key, value in model.state_dict().items()}

    def stop(done: int, total: int | None) -> None:
        if total and done == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        estimate_values(graph, model, "measured", data=DATA, values=path, progress=stop)
    assert all(torch.equal(before[key], value) for key, value in model.state_dict().items())
    left = json.loads(path.read_text())
    assert len(left["measurements"]) == 7 and list(left["tables"]) == ["reconstruction"]

    calls: list[int] = []
    monkeypatch.setattr(estimate, "reconstruction_values", lambda *_, **__: pytest.fail("made twice"))
    again = estimate_values(
        graph, model, "measured", data=DATA, values=path, progress=lambda done, total: calls.append(done)
    )
    assert calls == [8, 9]  # the base and 4 widths of 2 groups
    same(again, whole)

    monkeypatch.setattr(estimate, "measured_values", lambda *_, **__: pytest.fail("made twice"))
    same(estimate_values(graph, model, "measured", data=DATA, values=path), whole)
    assert [place.name for place in path.parent.iterdir()] == ["values.json"]  # nothing half-written


OTHERS: dict[str, tuple[Callable[[nn.Module], nn.Module], dict[str, Any]]] = {
    "other weights": (lambda model: enliven(ZOO["residual"](), seed=1), {}),
    "other images": (lambda model: model, {"data": DATA[:1]}),
    "another `importance`": (lambda model: model, {"method": "reconstruction"}),
    "another `seed`": (lambda model: model, {"seed": 1}),
}


@pytest.mark.parametrize("words", OTHERS)
def test_a_file_of_other_values_is_refused(
    residual: tuple[kp.ChannelGraph, nn.Module], tmp_path: Path, words: str
) -> None:
    graph, model = residual
    path = tmp_path / "values.json"
    given: dict[str, Any] = {"method": "joint_fisher", "data": DATA, "values": path}
    estimate_values(graph, model, **given)
    text = path.read_text()
    change, more = OTHERS[words]
    message = rf"values.json holds values of {words}.*there, .* here; give another file with `values`"
    with pytest.raises(RequestError, match=message):
        estimate_values(graph, change(model), **given | more)
    pinned = kp.trace(model, EXAMPLE, keep=["a"])
    with pytest.raises(RequestError, match=r"other groups \(`keep`\)"):
        estimate_values(pinned, model, **given)
    assert path.read_text() == text


def test_a_file_of_something_else_is_refused(
    residual: tuple[kp.ChannelGraph, nn.Module], tmp_path: Path
) -> None:
    graph, model = residual
    path = tmp_path / "values.json"
    for text, words in (
        ("[1]", "is no file of value tables"),
        ('{"format": "value-tables", "version": 9}', "version 1"),
        ('{"format": "value-tables", "version": 1}', "it was edited"),
        ("{", "not JSON"),
    ):
        path.write_text(text)
        with pytest.raises(RequestError, match=words):
            estimate_values(graph, model, "energy", values=path)
        assert path.read_text() == text
    path.unlink()
    estimate_values(graph, model, "energy", values=path)
    path.write_text(path.read_text().replace('"whole": ', '"whole": 1'))
    with pytest.raises(RequestError, match="not as it was written, by its own digest"):
        estimate_values(graph, model, "energy", values=path)
    with pytest.raises(RequestError, match="/dev/null is no file, and values are written there"):
        estimate_values(graph, model, "energy", values=Path("/dev/null"))
    with pytest.raises(RequestError, match=f"cannot write {path}/below"):
        estimate_values(graph, model, "energy", values=path / "below")
    with pytest.raises(RequestError, match="`values` with a function for `loss`"):
        estimate_values(graph, model, "measured", data=DATA, values=tmp_path / "v", loss=lambda *_: DATA[0])


def planned(path: Path | None = None, data: list[Tensor] = DATA, **given: Any) -> kp.Plan:
    model = enliven(ZOO["residual"]())
    given = {"flops_budget": 0.6, "importance": "measured"} | given
    return kp.plan(model, EXAMPLE, data=data, values=path, **given)


def test_plans_record_their_values_and_verify_makes_them_anew(tmp_path: Path) -> None:
    made = planned(tmp_path / "values.json")
    assert planned(tmp_path / "values.json", flops_budget=0.5).importance.images == made.importance.images
    made.save(tmp_path / "plan.json")
    read = kp.Plan.load(tmp_path / "plan.json")
    assert read == made and read.groups[0].values is not None
    assert read.importance.options is not None and read.importance.options["batch_size"] == 8
    model = enliven(ZOO["residual"]())
    for data, words in (
        (DATA, "measured kept is"),
        (None, "not recomputed: measured needs the images that it was made with: give `data`"),
        (DATA[:1], "not recomputed: the images .* are others than those of the plan"),
    ):
        checks = {check.claim: check.result for check in kp.verify(read, model, data=data).checks}
        assert checks["recorded values"].startswith("add up to the objective")
        assert re.match(words, checks["importance"])


@pytest.mark.parametrize(
    "edit", [lambda values: (*values[:-1], 1.0), lambda values: tuple(2 * value for value in values)]
)
def test_recorded_values_must_add_up(edit: Callable[..., Any]) -> None:
    made = planned()
    edited = made.groups[0].model_copy(update={"values": edit(made.groups[0].values)})
    plan = made.model_copy(update={"groups": (edited, *made.groups[1:])})
    with pytest.raises(BrokenPlanError, match=r"the importance kept is .* by the recorded values"):
        kp.verify(plan, enliven(ZOO["residual"]()))


def test_a_plan_keeps_the_first_units_of_its_order() -> None:
    text = json.loads(planned().to_json())
    group = next(group for group in text["groups"] if len(group["kept"]) < group["size"])
    group["order"] = group["order"][::-1]
    model = enliven(ZOO["residual"]())
    with pytest.raises(
        BrokenPlanError, match=r"does not keep its .* most important units in the recorded order"
    ):
        kp.verify(kp.Plan.from_json(json.dumps(text)), model)
    group["order"].pop()
    with pytest.raises(
        RequestError, match=r"ordered units and \d+ values; there must be one value for every width"
    ):
        kp.Plan.from_json(json.dumps(text))
    del group["order"]
    with pytest.raises(RequestError, match="of order and values one is missing"):
        kp.Plan.from_json(json.dumps(text))
