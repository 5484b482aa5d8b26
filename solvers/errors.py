"""The exceptions of this package."""


class SolverError(ValueError):
    """A wrong instance, result or request to a solver; the message names the place and the rule."""
