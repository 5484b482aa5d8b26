"""Ensembles: a parent and its pruned descendants, of different widths, in one directory."""

from __future__ import annotations

from knapsack_prune.training.ensemble.manifest import Manifest as Manifest
from knapsack_prune.training.ensemble.manifest import MemberEntry as MemberEntry
from knapsack_prune.training.ensemble.members import Ensemble as Ensemble
from knapsack_prune.training.ensemble.members import Member as Member
from knapsack_prune.training.ensemble.members import open_ensemble as open_ensemble
