"""Stage-wise pruning (Zhang et al. 2020, arXiv 2011.04908): supernets per stage, and what each stage loses."""
