"""What the experiments on values and on accuracy share: configuration, networks, training and results on disk."""
