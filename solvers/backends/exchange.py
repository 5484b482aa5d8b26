"""Instances for other solvers: the mixed-integer program as MPS, the CP-SAT model as protobuf."""

from __future__ import annotations

import os
from pathlib import Path

from ..errors import SolverError
from ..incumbent import Incumbent
from ..io.files import write_text
from ..problem.instance import Instance
from ..problem.result import Limits

SUFFIXES = (".mps", ".pb", ".pbtxt")
LONGEST = 1e9
"""Seconds: building a model to write it is not limited."""


def export_model(instance: Instance, path: str | Path) -> None:
    """Write the model that a solver of this package is given, for any other program.

    Args:
        instance: what to write.
        path: `.mps` for the mixed-integer program of `highs` and `scip` (to be minimised: the value with its sign
            turned), `.pb` or `.pbtxt` for the `CpModelProto` of `cp_sat`. In MPS, variable `x<g>_<i>` is 1 where group
            g takes its level at position i.

    Raises:
        SolverError: another suffix, numbers beyond 2**53 for MPS, or a place that cannot be written.
    """
    path = Path(path)
    if path.suffix == ".mps":
        write_text(path, _mps(instance))
        return
    if path.suffix not in SUFFIXES:
        raise SolverError(f"{path}: models are written as one of {', '.join(SUFFIXES)}; instances as .json")
    from .cp_sat import build

    waiting = path.with_name(f".{os.getpid()}.{path.name}")
    try:
        if not build(instance).model.export_to_file(str(waiting)):
            raise SolverError(f"{path}: cannot be written")
        waiting.replace(path)
    except OSError as error:
        raise SolverError(f"{path}: cannot be written: {error}") from error
    finally:
        waiting.unlink(missing_ok=True)


def _mps(instance: Instance) -> str:
    """The mixed-integer program, by OR-Tools' own writer."""
    from ortools.linear_solver.python import model_builder

    from .mathopt import build, check_size

    check_size(instance, "MPS")
    source, choices = build(instance, Incumbent("MPS", instance, Limits(seconds=LONGEST)))
    names = {x.id: f"x{g}_{i}" for g, row in enumerate(choices) for i, x in enumerate(row)}
    target = model_builder.Model()  # type: ignore[no-untyped-call]
    target.name = instance.name
    taken = {}
    for variable in source.variables():
        name = names.get(variable.id, f"y{variable.id}")
        taken[variable.id] = target.new_var(
            variable.lower_bound, variable.upper_bound, variable.integer, name
        )
    for row in source.linear_constraints():
        terms = sum(term.coefficient * taken[term.variable.id] for term in row.terms())
        target.add_linear_constraint(terms, row.lower_bound, row.upper_bound)
    worth = sum(term.coefficient * taken[term.variable.id] for term in source.objective.linear_terms())
    target.minimize(-worth - source.objective.offset)
    return str(target.export_to_mps_string())
