"""Grouped knapsacks with bilinear costs: instances in, verified results out."""
