"""Lagrangian relaxation: bounds by variable elimination on a factor graph, and what they rule out."""
