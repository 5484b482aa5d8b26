"""The best choices of an instance that differ from each other in at least so many groups, each with its proof."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from .errors import SolverError
from .incumbent import Report
from .problem.instance import Instance, Resource, Table
from .problem.result import Limits, Result, Status
from .registry import solve
from .verification import verify


def enumerate_best(
    instance: Instance,
    count: int,
    distance: int = 1,
    solver: str = "exact",
    limits: Limits | None = None,
    report: Report | None = None,
    *,
    spread: float = 0.0,
) -> tuple[Result, ...]:
    """The best choice, then the best of those that differ from all before it in at least `distance` groups, and so on.

    Every earlier choice becomes one more resource: a choice costs 1 for each group that it has in common with the
    earlier one, and may cost the number of groups less the distance.

    Args:
        instance: what to choose for.
        count: the most choices asked for, >= 1.
        distance: in how many groups any two of them differ at least, from 1 to the number of groups.
        solver: one of `SOLVERS`; it must take several resources.
        limits: of each choice's run on its own; `Limits()` by default.
        report: as in `solve`, for each run in turn.
        spread: levels of a group that are apart by no more than this share of its largest one do not differ.

    Returns:
        Results for the instance itself, each accepted by `verify`, in order. The value of the k-th is proven as its
        status says, and its bound holds for the choices that differ in at least `distance` groups from the k - 1 before
        it. There are fewer than `count` where no other choice differs so much, or none was found in time: a note on
        the last one says which. Where there is not even a first, the only result says so. Time is that of `count` runs,
        each with one resource more than the last.

    Raises:
        SolverError: `count`, `distance` or `spread` out of range, or an instance that the solver cannot take.
    """
    groups = len(instance.groups)
    if count < 1:
        raise SolverError(
            f"count: {count} is less than 1, the least that is allowed; ask for one choice or more"
        )
    if not 1 <= distance <= groups:
        raise SolverError(
            f"distance: {distance} is not in 1 .. {groups}, the number of groups; give at most {groups}"
        )
    if not 0 <= spread < 1:
        raise SolverError(f"spread: {spread} is not in [0, 1); 0 tells all levels apart")
    results = [solve(instance, solver, limits, report)]
    while results[-1].choice and len(results) < count:
        choices = [result.choice for result in results]
        result = solve(_without(instance, choices, distance, spread), solver, limits, report)
        if not result.choice:
            results[-1] = replace(
                results[-1], notes=(*results[-1].notes, _ended(result, len(results), distance))
            )
            break
        result = replace(result, costs=instance.costs(result.choice))
        verify(instance, result)
        results.append(result)
    return tuple(results)


def _without(
    instance: Instance, choices: Sequence[tuple[int, ...]], distance: int, spread: float
) -> Instance:
    """The instance with one more resource per choice, which keeps all others at that distance from it."""
    most = len(instance.groups) - distance
    apart = []
    for number, choice in enumerate(choices):
        tables = [
            Table(
                [g],
                (abs(group.levels - group.levels[position]) <= spread * group.levels[-1]).astype(np.int64),
            )
            for g, (group, position) in enumerate(zip(instance.groups, choice, strict=True))
        ]
        apart.append(Resource(f"groups in common with choice {number + 1}", most, (), tables))
    return Instance(
        instance.name,
        instance.groups,
        (*instance.resources, *apart),
        instance.value_scale,
        instance.pair_values,
    )


def _ended(result: Result, known: int, distance: int) -> str:
    """Why there is no further choice."""
    others = f"that differs from the {known} best in at least {distance} of the groups"
    if result.status is Status.INFEASIBLE:
        return f"there is no other choice {others} (proved)"
    return f"no other choice {others} was found in {result.seconds:.1f} s; give more with `seconds`"
