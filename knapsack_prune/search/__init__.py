"""Search among plans by what their repaired networks lose on held-out images."""
