"""Feasible choices without proof: greedy, uniform, the cheapest start, and repair of relaxed choices."""
