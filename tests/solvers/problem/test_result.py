"""Results and limits: contradictory ones cannot be made."""

from __future__ import annotations

import pytest

from solvers import Limits, Result, SolverError, Status


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


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_limits(seconds: float) -> None:
    with pytest.raises(SolverError, match=r"seconds: .* is not a time limit above 0"):
        Limits(seconds=seconds)


@pytest.mark.parametrize(
    ("wrong", "message"), [({"threads": 0}, "threads: 0 is less than 1"), ({"seed": -1}, "seed: -1")]
)
def test_limits_name_their_parameter(wrong: dict[str, int], message: str) -> None:
    with pytest.raises(SolverError, match=message):
        Limits(**wrong)  # type: ignore[arg-type]


def test_notebooks_show_what_is_proven() -> None:
    shown = Result(Status.FEASIBLE, (0,), 90, 99, (7, 8), "a <b>", "1", 0.5)._repr_html_()
    for words in ("FEASIBLE", "<td>gap</td><td>10 %</td>", "7, 8", "a &lt;b&gt;"):
        assert words in shown
