"""The exceptions of this package."""


class SolverError(ValueError):
    """A wrong instance, result or request; the message names the place and the rule."""


class UnsupportedInstanceError(SolverError):
    """The chosen solver cannot take the instance; the message begins with the solver's name."""


class InfeasibleError(Exception):
    """Proof, reached inside a solver, that no choice is feasible; the message is a sentence saying why."""


class OutOfTimeError(Exception):
    """The time limit is reached; raised inside a solver, caught by `solve`."""


class TooManyStatesError(Exception):
    """An exact step would keep more combinations than `tuning` allows; the caller takes another way."""
