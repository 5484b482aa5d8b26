"""Check a result against its instance, trusting nothing the solver says."""

from .errors import SolverError
from .problem.instance import Instance
from .problem.result import Result


def verify(instance: Instance, result: Result) -> None:
    """Recompute value and costs of the result's choice from the instance, in Python's exact integers.

    A bound or an INFEASIBLE status cannot be recomputed without solving; those are left to other solvers.

    Raises:
        SolverError: the claim that does not hold: a choice that does not fit, another value, another cost, a budget
            exceeded, a bound traced on the way that the choice beats.
    """
    if result.value is None:
        return
    choice = instance.check_choice(result.choice)
    value = instance.value(choice)
    if value != result.value:
        raise SolverError(f"result: claims value {result.value}, but its choice is worth {value}")
    costs = instance.costs(choice)
    if costs != result.costs:
        raise SolverError(f"result: claims costs {result.costs}, but its choice costs {costs}")
    for resource, cost in zip(instance.resources, costs, strict=True):
        if cost > resource.budget:
            raise SolverError(
                f"result: costs {cost} of {resource.name!r}, over the budget of {resource.budget}"
            )
    for seconds, _, bound in result.trace:
        if bound is not None and value > bound:
            raise SolverError(
                f"result: the bound {bound} traced at {seconds:.3f} s is beaten by the choice's {value}"
            )
