"""From a plan to a smaller network, in memory and on disk."""
