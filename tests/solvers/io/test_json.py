"""Both ways through JSON and files; what is refused, and where the message points."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from solvers import Instance, Result, SolverError, Status


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


def with_pair_values(**changes: object) -> str:
    pairs = {"groups": [1, 0], "values": [[-7, 1], [2, 3], [0, 5]]} | changes
    return json.dumps(example() | {"version": 2, "pair_values": [pairs]})


def test_pair_values_make_version_2() -> None:
    """Group 1 comes first in the table: its position 2 beside position 1 of group 0 is worth 5 more."""
    instance = Instance.from_json(with_pair_values())
    assert instance.value((1, 2)) == 5 + 4 + 5
    assert instance.value((0, 0)) == 3 + 1 - 7
    written = json.loads(instance.to_json())
    assert list(written)[:2] == ["format", "version"]
    assert written["version"] == 2
    assert written["pair_values"] == [{"groups": [1, 0], "values": [[-7, 1], [2, 3], [0, 5]]}]
    again = Instance.from_json(instance.to_json())
    assert again == instance
    assert again != Instance.from_json(with_pair_values(values=[[-7, 1], [2, 3], [0, 6]]))


def test_without_pair_values_version_1_is_written() -> None:
    """Byte for byte, whichever version was read."""
    text = json.dumps(example(), separators=(",", ":"))
    assert Instance.from_json(text).to_json() == text
    assert Instance.from_json(json.dumps(example() | {"version": 2})).to_json() == text
    assert Instance.from_json(json.dumps(example() | {"version": 2, "pair_values": []})).to_json() == text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"groups": [1, 1]}, r"pair_values\[0\]: pair values over groups \(1, 1\): .* two different groups"),
        ({"groups": [1]}, r"pair_values\[0\].groups: 1 entries; 2 are needed here"),
        ({"groups": [1, 2]}, r"pair_values\[0\].groups\[1\]: 2 is no group; there are 2"),
        ({"groups": [0, 1]}, r"pair_values\[0\].values: shape \(3, 2\), but its groups ask for \(2, 3\)"),
        ({"values": [1, 2]}, r"pair_values\[0\]: .*values have 1 dimensions; give one row per level"),
        ({"values": [[1, 2], [3, 4], [5]]}, r"pair_values\[0\]: .*rows of different lengths"),
        ({"values": [[1, 2], [3, 4], [5, 2**54]]}, r"pair_values\[0\]: .* is beyond 2\*\*53"),
        ({"costs": []}, r"pair_values\[0\].costs: unknown entry; allowed are groups, values"),
    ],
)
def test_wrong_pair_values_are_named(changes: dict[str, object], message: str) -> None:
    with pytest.raises(SolverError, match=message):
        Instance.from_json(with_pair_values(**changes))


def test_pair_values_need_version_2() -> None:
    text = with_pair_values().replace('"version": 2', '"version": 1')
    with pytest.raises(SolverError, match="pair_values: version 1 has none; write version 2"):
        Instance.from_json(text)


TERM = "resources.0.terms.0"
WRONG = [
    ("format", "other", "format: 'other' cannot be read; this release reads format 'grouped-knapsack'"),
    ("version", 3, "version: 3 cannot be read; this release reads version 1 or 2"),
    ("version", True, "version: True cannot be read"),
    ("extra", 1, "extra: unknown entry"),
    ("groups.0.extra", 1, r"groups\[0\].extra: unknown entry; allowed are name, levels, values"),
    ("groups", {}, "groups: a list is needed here"),
    ("groups.0", 3, r"groups\[0\]: an object with named entries is needed here"),
    ("groups.0.name", 3, r"groups\[0\].name: 3 is not a text"),
    ("value_scale", "x", "value_scale: 'x' is not a finite number"),
    ("value_scale", 10**400, "value_scale: 1000000.* is not a finite number"),
    ("value_scale", 0, "value_scale: 0.0 is not a finite number above 0"),
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
        ("[" * 100_000, "nested too deeply"),
        ("[" + "[]," * 2**21 + "[]]", "more than 2,097,152 lists and objects"),
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


def test_a_result_keeps_every_entry() -> None:
    """Its gap is written for readers, and checked when read: (9 - 4) / 4."""
    result = Result(
        Status.FEASIBLE, (0, 2), 4, 9, (7,), "s", "1", 0.5, ((0.1, None, 9), (0.2, 4, 9)), ("n",), 0.25
    )
    text = result.to_json()
    assert Result.from_json(text) == result
    assert json.loads(text)["gap"] == 1.25
    for wrong, message in (
        (text.replace("1.25", "1.0"), "gap: 1.0 is not 1.25"),
        (text.replace('"FEASIBLE"', '"GOOD"'), "status: 'GOOD' is none of OPTIMAL"),
        (text.replace("[0.2, 4, 9]", "[0.2, 4]"), r"trace\[1\]: 2 entries; 3 are needed here"),
        (text.replace("[0.2, 4, 9]", "[0.2, 4.5, 9]"), r"trace\[1\]\[1\]: 4.5 is not an integer"),
        (text.replace('"value": 4', '"value": 10'), "result: value 10 exceeds bound 9"),
        (text.replace('"seconds": 0.5', '"seconds": "0.5"'), "seconds: '0.5' is not a finite number"),
    ):
        assert wrong != text
        with pytest.raises(SolverError, match=message):
            Result.from_json(wrong)
