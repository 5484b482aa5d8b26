"""From budgets, costs and values to a plan."""
