"""Where solvers meet: generated instances, the runner, its tables and its plots."""
