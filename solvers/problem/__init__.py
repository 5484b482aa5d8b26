"""The problem: instances, results, and what follows from an instance without solving it."""
