"""`python -m knapsack_prune` is `knapsack-prune`."""

from knapsack_prune.cli import main

main()
