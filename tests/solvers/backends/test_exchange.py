"""What is written for other programs has the same optimum, found by programs that know nothing of instances."""

from __future__ import annotations

from pathlib import Path

import pytest

import solvers

# Two groups, 8 or 16 and 8, 16 or 24 levels, with a product, a table and pair values: small enough to enumerate.
BLOCK = (
    '{"format": "grouped-knapsack", "version": 2, "name": "block", "value_scale": 1000.0, "groups": ['
    '{"name": "conv1", "levels": [8, 16], "values": [310, 540]}, '
    '{"name": "conv2", "levels": [8, 16, 24], "values": [200, 350, 400]}], "resources": [{"name": "flops", '
    '"budget": 2600, "constant": 3, "terms": [{"coefficient": 9, "factors": [{"constant": 0, "groups": [0], '
    '"weights": [1]}, {"constant": 0, "groups": [1], "weights": [1]}]}], "tables": [{"groups": [0, 1], "costs": '
    '[[1, 2, 3], [4, 290, 6]]}]}], "pair_values": [{"groups": [0, 1], "values": [[-90, -30, 0], [-40, 0, 0]]}]}'
)


@pytest.fixture
def instance() -> solvers.Instance:
    return solvers.Instance.from_json(BLOCK)


def test_mps_has_the_optimum_of_the_instance(instance: solvers.Instance, tmp_path: Path) -> None:
    from ortools.linear_solver.python import model_builder

    best = solvers.solve(instance, "brute_force")
    solvers.export_model(instance, tmp_path / "block.mps")
    model = model_builder.Model()
    assert model.import_from_mps_file(str(tmp_path / "block.mps"))
    solver = model_builder.Solver("scip")
    assert solver.solve(model) == model_builder.SolveStatus.OPTIMAL
    assert -solver.objective_value == pytest.approx(best.value)
    chosen = {str(v.name) for v in model.get_variables() if v.name.startswith("x") and solver.value(v) > 0.5}
    assert chosen == {f"x{group}_{at}" for group, at in enumerate(best.choice)}


@pytest.mark.parametrize("suffix", [".pb", ".pbtxt"])
def test_protobuf_has_the_optimum_of_the_instance(
    instance: solvers.Instance, tmp_path: Path, suffix: str
) -> None:
    from ortools.sat.python import cp_model

    path = tmp_path / f"block{suffix}"
    solvers.export_model(instance, path)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]
    model = cp_model.CpModel()
    if suffix == ".pbtxt":
        assert model.proto.parse_text_format(path.read_text())
        solver = cp_model.CpSolver()
        assert solver.solve(model) == cp_model.OPTIMAL
        assert solver.objective_value == solvers.solve(instance, "brute_force").value
    else:
        assert path.read_bytes()


def test_another_suffix_is_refused(instance: solvers.Instance, tmp_path: Path) -> None:
    with pytest.raises(solvers.SolverError, match=r"\.mps, \.pb, \.pbtxt"):
        solvers.export_model(instance, tmp_path / "block.lp")
    with pytest.raises(solvers.SolverError, match="cannot be written"):
        solvers.export_model(instance, tmp_path / "absent" / "block.pb")
