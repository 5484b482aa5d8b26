"""From a plan to a smaller network: slicing, modules that hold pruned widths, and the gate that compares."""
