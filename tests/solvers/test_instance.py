"""Instances and results: what is refused, and where the message points; both ways through JSON."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from solvers import (
    Factor,
    Group,
    Instance,
    Limits,
    Resource,
    Result,
    SolverError,
    Status,
    Table,
    Term,
    solve,
    verify,
)


def example() -> dict[str, object]:
    return {
        "format": "grouped-knapsack",
        "version": 1,
        "name": "example",
        "value_scale": 2.5,
        "groups": [
            {"name": "a", "levels": [8, 16], "values": [3, 5]},
            {"name": "b", "levels": [1, 2, 3], "values": [1, 1, 4]},
        ],
        "resources": [
            {
                "name": "flops",
                "budget": 100,
                "constant": 5,
                "terms": [
                    {
                        "coefficient": 2,
                        "factors": [
                            {"constant": 0, "groups": [0], "weights": [1]},
                            {"constant": 3, "groups": [1, 0], "weights": [1, 2]},
                        ],
                    }
                ],
                "tables": [{"groups": [0, 1], "costs": [[1, 2, 3], [4, 5, 6]]}],
            }
        ],
    }


def test_both_ways_through_json_and_files(tmp_path: Path) -> None:
    instance = Instance.from_json(json.dumps(example()))
    assert Instance.from_json(instance.to_json()) == instance
    # 5 + 2 * 16 * (3 + 2 + 2 * 16) + table[1][1]
    assert instance.costs((1, 1)) == (5 + 2 * 16 * 37 + 5,)
    for name in ("a.json", "a.json.gz", "a.json.xz"):
        instance.save(tmp_path / name)
        assert Instance.load(tmp_path / name) == instance
        first = (tmp_path / name).read_bytes()
        instance.save(tmp_path / name)
        assert (tmp_path / name).read_bytes() == first  # the same instance, the same bytes
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.json", "a.json.gz", "a.json.xz"]


def _set(document: dict[str, object], path: str, value: object) -> str:
    keys = path.split(".")
    place: object = document
    for key in keys[:-1]:
        place = place[int(key)] if isinstance(place, list) else place[key]  # type: ignore[index]
    if isinstance(place, list):
        place[int(keys[-1])] = value
    else:
        place[keys[-1]] = value  # type: ignore[index]
    return json.dumps(document)


TERM = "resources.0.terms.0"
WRONG = [
    ("format", "other", "format: 'other' is not 'grouped-knapsack'"),
    ("version", 2, "version: 2 cannot be read; this release reads version 1"),
    ("extra", 1, "extra: unknown entry"),
    ("value_scale", 0, "value_scale: 0 is not a finite number above 0"),
    ("groups", [], "groups: an instance needs at least one group"),
    ("groups.1.values", [1, 2], r"groups\[1\]: group 'b': 2 values for 3 levels; give one for each"),
    ("groups.0.levels", [], r"groups\[0\]: group 'a': no levels"),
    ("groups.0.levels.1", 8, r"groups\[0\]: group 'a', levels\[1\]: 8 does not exceed the level before it"),
    ("groups.0.levels.1", 1.5, r"groups\[0\].levels\[1\]: 1.5 is not an integer"),
    ("groups.0.levels.1", True, r"groups\[0\].levels\[1\]: True is not an integer"),
    ("groups.0.levels.0", -1, r"groups\[0\]: group 'a', levels: -1 is less than 0"),
    ("groups.0.values.0", 2**53 + 1, r"groups\[0\]: group 'a', values: 9007199254740993 is beyond 2\*\*53"),
    ("groups.0.values.0", 2**70, r"groups\[0\]: group 'a', values: .* is beyond 2\*\*53"),
    ("resources.0.budget", -1, r"resources\[0\]: resource 'flops', budget: -1 is less than 0"),
    ("resources.0.budget", None, r"resources\[0\].budget: None is not an integer"),
    (f"{TERM}.coefficient", -2, r"resources\[0\].terms\[0\]: term, coefficient: -2 is less than 0"),
    (f"{TERM}.coefficient", 2**53, r"resources\[0\].terms\[0\]: reaches \d+, beyond 2\*\*62"),
    (f"{TERM}.factors", [], r"resources\[0\].terms\[0\]: term: 0 factors; a term has one or two"),
    (f"{TERM}.factors.1.groups.0", 2, r"resources\[0\].terms\[0\].factors\[1\].groups\[0\]: 2 is no group"),
    (
        f"{TERM}.factors.1.groups.0",
        0,
        r"resources\[0\].terms\[0\].factors\[1\]: factor: group 0 is listed twice",
    ),
    (
        f"{TERM}.factors.1.weights",
        [1],
        r"resources\[0\].terms\[0\].factors\[1\]: factor: 1 weights for 2 groups",
    ),
    (
        "resources.0.tables.0.costs.1",
        [1, 2],
        r"resources\[0\].tables\[0\]: table over .*rows of different lengths",
    ),
    ("resources.0.tables.0.costs.1.2", -6, r"resources\[0\].tables\[0\]: .*: -6 is less than 0"),
    (
        "resources.0.tables.0.groups",
        [1, 0],
        r"resources\[0\].tables\[0\].costs: shape \(2, 3\), but its groups ask",
    ),
    ("resources.0.tables.0.groups", [0, 7], r"resources\[0\].tables\[0\].groups\[1\]: 7 is no group"),
]


@pytest.mark.parametrize(("path", "value", "message"), WRONG, ids=[f"{p}={v}" for p, v, _ in WRONG])
def test_wrong_entries_are_named(path: str, value: object, message: str) -> None:
    with pytest.raises(SolverError, match=message):
        Instance.from_json(_set(example(), path, value))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[]", "the document: an object with named entries is needed here"),
        ("{}", "format: is missing"),
        ('{"format": NaN}', "NaN is not a JSON number"),
        ("[" * 100_000, "nested too deeply|not JSON"),
    ],
)
def test_what_is_no_instance_at_all(text: str, message: str) -> None:
    with pytest.raises(SolverError, match=message):
        Instance.from_json(text)


def test_files_that_cannot_be_read_or_written(tmp_path: Path) -> None:
    for name, content in (
        ("no.json", None),
        ("bad.json.gz", b"no gzip"),
        ("bad.json.xz", b"no xz"),
        ("b.json", b"\xff"),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(SolverError, match=f"{name}: cannot be read"):
            Instance.load(tmp_path / name)
    instance = Instance.from_json(json.dumps(example()))
    with pytest.raises(SolverError, match="cannot be written"):
        instance.save(tmp_path / "no" / "a.json")


def test_overflow_is_detected_not_wrapped() -> None:
    """2**40 * 2**40 fits no 64-bit integer; nor do 2**9 values of 2**53 and more, added up, stay below
    2**62.
    """
    wide = Group("a", [2**40], [1])
    product = Resource("flops", 1, [Term(1, [Factor([0]), Factor([0])])])
    with pytest.raises(SolverError, match=r"resources\[0\].terms\[0\]: reaches 1208925819614629174706176"):
        Instance("wide", [wide], [product])
    with pytest.raises(SolverError, match=r"values add up to .*, beyond 2\*\*62"):
        Instance("rich", [Group(str(g), [1], [2**53]) for g in range(513)], [])


def test_large_numbers_stay_exact() -> None:
    """Values near 2**53: a float would confuse the last units. b = 2 does not fit beside a = 2: 2 * 2 * 2 >
    7.
    """
    top = 2**53
    groups = [Group("a", [1, 2], [top - 3, top]), Group("b", [1, 2], [top - 1, top])]
    instance = Instance("large", groups, [Resource("flops", 7, [Term(2, [Factor([0]), Factor([1])])])])
    result = solve(instance)
    assert (result.status, result.value, result.bound) == (Status.OPTIMAL, 2 * top - 1, 2 * top - 1)


def test_contradictory_results_cannot_be_made() -> None:
    good = {"solver": "s", "version": "1", "seconds": 0.0}
    for wrong in (
        {"status": Status.OPTIMAL, "choice": (0,), "value": 1, "bound": 2, "costs": ()},
        {"status": Status.FEASIBLE, "choice": (0,), "value": 3, "bound": 2, "costs": ()},
        {"status": Status.FEASIBLE, "choice": (), "value": 3, "bound": 3, "costs": ()},
        {"status": Status.INFEASIBLE, "choice": (), "value": None, "bound": 3, "costs": ()},
        {"status": Status.NO_SOLUTION_FOUND, "choice": (0,), "value": None, "bound": None, "costs": ()},
    ):
        with pytest.raises(SolverError, match=r"^result: "):
            Result(**wrong, **good)  # type: ignore[arg-type]


def test_verify_trusts_nothing(tmp_path: Path) -> None:
    instance = Instance.from_json(json.dumps(example()))
    choice, costs = (0, 0), instance.costs((0, 0))
    honest = Result(Status.FEASIBLE, choice, 4, 9, costs, "s", "1", 0.0)
    with pytest.raises(SolverError, match="over the budget of 100"):
        verify(instance, honest)
    roomy = Instance("roomy", instance.groups, [Resource("flops", 10**6, instance.resources[0].terms)])
    costs = roomy.costs(choice)
    honest = Result(Status.FEASIBLE, choice, 4, 9, costs, "s", "1", 0.0, ((0.0, 4, 9),))
    verify(roomy, honest)
    honest.save(tmp_path / "r.json")
    assert Result.load(tmp_path / "r.json") == honest
    assert json.loads((tmp_path / "r.json").read_text())["gap"] == 1.25
    for change, message in (
        ({"value": 5}, "claims value 5, but its choice is worth 4"),
        ({"costs": (1,)}, r"claims costs \(1,\)"),
        ({"choice": (0, 3)}, r"choice\[1\]: 3 is no position"),
        ({"choice": (0,)}, "1 entries for 2 groups"),
        ({"trace": ((0.5, None, 3),)}, "the bound 3 traced at 0.500 s is beaten"),
    ):
        entries = {f: getattr(honest, f) for f in Result.__slots__} | change
        with pytest.raises(SolverError, match=message):
            verify(roomy, Result(**entries))


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_limits(seconds: float) -> None:
    with pytest.raises(SolverError, match=r"time limit: .* is not a number of seconds above 0"):
        Limits(seconds=seconds)


def test_arrays_are_taken_and_frozen() -> None:
    group = Group("a", np.arange(5), np.arange(5) * 2)
    with pytest.raises(ValueError, match="read-only"):
        group.levels[0] = 7
    with pytest.raises(SolverError, match=r"table over groups \(0,\), costs: 0.5 is not an integer"):
        Table([0], [0.5, 1.5])  # type: ignore[list-item]


def test_unknown_solver() -> None:
    with pytest.raises(SolverError, match="solver: 'magic' is unknown; choose one of exact, cp_sat"):
        solve(Instance.from_json(json.dumps(example())), "magic")
