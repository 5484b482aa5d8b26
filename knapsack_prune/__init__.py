"""Plan which channels of a trained network to keep under a budget, with a proof of how good the plan is."""
