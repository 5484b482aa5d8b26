"""The best choice and the best bound of one run so far, with its clock, limits, trace and notes."""

import time
from collections.abc import Callable, Sequence

from .errors import OutOfTimeError, SolverError
from .problem.instance import Instance
from .problem.result import Limits, Result, Status, TraceStep

Report = Callable[[float, int | None, int | None], None]


class Incumbent:
    """Collects what one run of one solver has proven so far.

    Every choice offered is checked against the instance; a bound is kept when it is smaller than the last.

    Attributes:
        choice: level positions (G,) of the best choice; empty while there is none.
        value: its value, or None.
        bound: no feasible choice is worth more.
        version: of the solver.
        build_seconds: time in which a model for a general solver was built.
    """

    def __init__(self, solver: str, instance: Instance, limits: Limits, report: Report | None = None) -> None:
        self.solver, self.instance, self.limits = solver, instance, limits
        self.choice: tuple[int, ...] = ()
        self.value: int | None = None
        self.bound: int = instance.trivial_bound()
        self.version = "1"
        self.build_seconds = 0.0
        self._report = report
        self._start = time.perf_counter()
        self._trace: list[TraceStep] = []
        self._notes: list[str] = []

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.perf_counter() - self._start

    @property
    def remaining(self) -> float:
        """Seconds left under the limit; may be negative."""
        return self.limits.seconds - self.seconds

    @property
    def closed(self) -> bool:
        """Whether the best choice is proven optimal."""
        return self.value is not None and self.value >= self.bound

    def check(self) -> None:
        """Raise `OutOfTimeError` when no time is left."""
        if self.remaining <= 0:
            raise OutOfTimeError

    def offer(self, choice: Sequence[int]) -> bool:
        """Keep the choice if it is feasible and better than the best; returns whether it was."""
        value = self.instance.value(choice)
        if (self.value is not None and value <= self.value) or not self.instance.is_feasible(choice):
            return False
        if value > self.bound:
            raise SolverError(f"{self.solver}: a choice worth {value} beats the bound {self.bound}: a defect")
        self.choice, self.value = tuple(int(i) for i in choice), value
        self._step()
        return True

    def prove(self, bound: int) -> None:
        """Keep an upper bound on the value of every feasible choice if it is smaller than the best."""
        if bound >= self.bound:
            return
        if self.value is not None and bound < self.value:
            raise SolverError(
                f"{self.solver}: the bound {bound} is below a choice worth {self.value}: a defect"
            )
        self.bound = bound
        self._step()

    def prove_better(self, bound: int) -> None:
        """Like `prove`, for a bound that holds only for choices better than the best one."""
        self.prove(bound if self.value is None else max(bound, self.value))

    def note(self, text: str) -> None:
        """Add a note to the result, once."""
        if text not in self._notes:
            self._notes.append(text)

    def result(self) -> Result:
        """What is proven now."""
        solved = self.value is not None
        status = Status.OPTIMAL if self.closed else Status.FEASIBLE if solved else Status.NO_SOLUTION_FOUND
        return self._result(status, self.bound, tuple(self._trace))

    def infeasible(self, why: str) -> Result:
        """The result that says, proven, that no choice is feasible."""
        self.note(why)
        return self._result(Status.INFEASIBLE, None, ())

    def _result(self, status: Status, bound: int | None, trace: tuple[TraceStep, ...]) -> Result:
        return Result(
            status=status,
            choice=self.choice,
            value=self.value,
            bound=bound,
            costs=() if self.value is None else self.instance.costs(self.choice),
            solver=self.solver,
            version=self.version,
            seconds=self.seconds,
            trace=trace,
            notes=tuple(self._notes),
            build_seconds=self.build_seconds,
        )

    def _step(self) -> None:
        step = (self.seconds, self.value, self.bound)
        self._trace.append(step)
        if self._report is not None:
            self._report(*step)
