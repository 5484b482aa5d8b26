"""`solve` and `bench`: commands that work on instances and need no torch."""
