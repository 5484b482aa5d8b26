"""Every field of a plan, edited in turn: reading or `verify` refuses it, or lists it as taken on trust."""

from __future__ import annotations

import copy
import fnmatch
import json
import re
from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest
import torch
from torch import nn

import knapsack_prune as kp
from knapsack_prune.errors import RequestError
from tests.zoo import ZOO, enliven

Path = tuple[str | int, ...]


@cache
def network() -> nn.Module:
    return enliven(ZOO["residual"]())


@cache
def plans() -> dict[str, dict[str, Any]]:
    """A plan whose values are made again, and one whose values are recorded."""
    example = torch.zeros(1, 3, 8, 8)
    asked: dict[str, Any] = {"flops_budget": 0.6, "params_budget": 0.9, "limit": ["b=2:"]}
    return {
        name: json.loads(kp.plan(network(), example, **asked, importance=name, keep=["a"]).to_json())
        for name in ("l1", "energy")
    }


def leaves(value: Any, path: Path = ()) -> Iterator[Path]:
    """The paths of all numbers, texts, truth values and nulls; of a list only the first entry."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from leaves(item, (*path, key))
    elif isinstance(value, list):
        yield from (found for item in value[:1] for found in leaves(item, (*path, 0)))
    else:
        yield path


LEAVES = [(name, path) for name in plans() for path in leaves(plans()[name])]


def edited(name: str, path: Path, value: object) -> str:
    data = copy.deepcopy(plans()[name])
    place = data
    for key in path[:-1]:
        place = place[key]  # type: ignore[index]
    place[path[-1]] = value  # type: ignore[index]
    return json.dumps(data)


def at(name: str, path: Path) -> Any:
    value: Any = plans()[name]
    for key in path:
        value = value[key]
    return value


def other(value: Any) -> object:
    """Another value of the same type."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return 2 * value + 1
    return 1.5 * value + 1 if isinstance(value, float) else f"{value or ''}x"


def trusted(path: Path, keys: tuple[str, ...]) -> bool:
    name = ".".join(map(str, path))
    return any(
        fnmatch.fnmatch(name, key)
        or name.startswith(f"{key}.")
        or re.match(fnmatch.translate(key + ".*"), name)
        for key in keys
    )


@pytest.mark.parametrize(
    ("name", "path"), LEAVES, ids=[".".join(map(str, (name, *path))) for name, path in LEAVES]
)
def test_an_edit_is_refused_or_listed_as_taken_on_trust(name: str, path: Path) -> None:
    text = edited(name, path, other(at(name, path)))
    try:
        found = kp.verify(kp.Plan.from_json(text), network())
    except RequestError:
        return
    assert trusted(path, found.trusted), found


@pytest.mark.parametrize("name", ["l1", "energy"])
def test_the_plans_themselves_hold(name: str) -> None:
    found = kp.verify(kp.Plan.from_json(json.dumps(plans()[name])), network())
    assert "OPTIMAL: solved again" in {check.claim: check.result for check in found.checks}["proof"]
    assert not {"solver.status", "solver.bound", "groups.*.values"} & set(found.trusted)


def test_quick_takes_the_proof_on_trust_and_says_so() -> None:
    found = kp.verify(kp.Plan.from_json(json.dumps(plans()["l1"])), network(), quick=True)
    assert "quick" in {check.claim: check.result for check in found.checks}["proof"]
    assert {"solver.status", "solver.bound", "solver.gap"} <= set(found.trusted)


@pytest.mark.parametrize("name", ["l1", "energy"])
def test_a_higher_limit_refutes_the_proof(name: str) -> None:
    text = edited(name, ("budgets", 0, "limit"), plans()[name]["budgets"][0]["parent"])
    with pytest.raises(RequestError, match=r"solver\.bound is .* another allowed plan keeps .* refuted"):
        kp.verify(kp.Plan.from_json(text), network())


def test_a_loose_bound_that_is_consistent_is_no_proof_of_optimality() -> None:
    """A FEASIBLE plan under a bound that nothing reaches says less than is true, and nothing wrong."""
    data = copy.deepcopy(plans()["l1"])
    value = data["solver"]["value"]
    data["solver"].update(status="FEASIBLE", bound=1.1 * value, gap=0.1)
    assert kp.verify(kp.Plan.from_json(json.dumps(data)), network())
    data["solver"].update(status="OPTIMAL")
    with pytest.raises(RequestError, match="status OPTIMAL with value"):
        kp.Plan.from_json(json.dumps(data))


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("budgets", 0, "limit"), "45182", "budgets.0.limit: Input should be a valid integer"),
        (("groups", 0, "kept"), [1.0], "groups.0.kept.0: Input should be a valid integer"),
        (("groups", 0, "kept"), ["1"], "groups.0.kept.0: Input should be a valid integer"),
        (("solver", "value"), float("nan"), "not JSON .NaN is no finite number"),
        (("solver", "bound"), float("inf"), "not JSON .Infinity is no finite number"),
        (("solver", "value"), 1e999, "not JSON .Infinity is no finite number"),
        (("schema_version",), True, "schema_version"),
        (("model", "input_shape"), [3, 100_000, 100_000], "model: input_shape has 30,000,000,000 elements"),
    ],
)
def test_types_are_strict(path: Path, value: object, words: str) -> None:
    with pytest.raises(RequestError, match=f"plan: {words}"):
        kp.Plan.from_json(edited("l1", path, value))


def test_numbers_and_nesting_that_no_parser_takes_are_refused() -> None:
    for text in ("[" * 100_000, '{"schema_version": ' + "9" * 5000 + "}", '{"schema_version": 1e400}'):
        with pytest.raises(RequestError, match="plan: "):
            kp.Plan.from_json(text)


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("groups", 0, "size"), 10**18, "size: Input should be less than or equal to 16777216"),
        (("groups", 0, "size"), 10**7, "of 10,000,000 units has index"),
        (("groups", 0, "slices", 0, "block"), 10**18, "has index"),
        (("groups", 0, "slices", 0, "parameter"), "absent", "of absent, of shape"),
        (("groups", 0, "slices", 0, "step"), 2, "has index 14"),
        (("full_width",), [{"module": "a", "dim": 1, "size": 10**18, "kept": [0]}], "full_width: a has"),
    ],
)
def test_hostile_sizes_are_refused_before_memory_is_taken(path: Path, value: object, words: str) -> None:
    for use in (kp.slim, lambda model, plan: kp.verify(plan, model)):
        with pytest.raises(RequestError, match=words):
            use(network(), kp.Plan.from_json(edited("l1", path, value)))


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (
            ("attributes",),
            [{"module": "a", "attribute": "out_channels", "item": None, "before": 12, "after": 1}],
            "attributes has 1 entries",
        ),
        (("full_width",), [{"module": "a", "dim": 1, "size": 12, "kept": [0]}], "full_width has 1 entries"),
        (("layers", 0, "flops_after"), 1, "layers.0.flops_after is 1, by the network it is"),
        (("groups", 0, "slices", 0, "role"), "in", "groups.0.slices.0.role is 'in'"),
        (("budgets", 0, "planned"), None, "flops are"),
    ],
)
def test_slim_checks_what_it_relies_on_before_it_cuts(path: Path, value: object, words: str) -> None:
    data = json.loads(edited("l1", path, value))
    if value is None:
        budget = data["budgets"][0]
        planned = budget["limit"] - 1
        budget.update(planned=planned, kept_fraction=planned / budget["parent"])
        budget["removed_fraction"] = 1 - budget["kept_fraction"]
    with pytest.raises(RequestError, match=words):
        kp.slim(network(), kp.Plan.from_json(json.dumps(data)))


def test_a_dropped_slice_is_found() -> None:
    data = copy.deepcopy(plans()["l1"])
    del data["groups"][0]["slices"][0]
    with pytest.raises(RequestError, match=r"groups\.0\.slices has 5 entries"):
        kp.slim(network(), kp.Plan.from_json(json.dumps(data)))
