"""From a selection to a narrower module: slicing, modules that hold pruned widths, and the equivalence check."""
