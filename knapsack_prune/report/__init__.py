"""Pictures and pages of plans, fronts and results."""
