"""Whole solvers that stand on their own: OR-Tools behind one interface, dynamic programming, enumeration."""
