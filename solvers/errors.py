"""The exceptions of this package."""


class SolverError(ValueError):
    """An instance, a result or a request to a solver that is wrong; the message names the place and the rule."""
