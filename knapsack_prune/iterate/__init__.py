"""KESI (Le, Vo, Thoai 2020, arXiv 2006.11487): rounds of pruning and restart, snapshots, and their ensemble."""
