"""Ensembles: a parent and its pruned descendants, of different widths, in one directory."""

from __future__ import annotations

from knapsack_prune.ensemble.evaluation import EnsembleAccuracy as EnsembleAccuracy
from knapsack_prune.ensemble.evaluation import evaluate_members as evaluate_members
from knapsack_prune.ensemble.manifest import Manifest as Manifest
from knapsack_prune.ensemble.manifest import MemberEntry as MemberEntry
from knapsack_prune.ensemble.members import Ensemble as Ensemble
from knapsack_prune.ensemble.members import Member as Member
from knapsack_prune.ensemble.members import open_ensemble as open_ensemble
from knapsack_prune.ensemble.outputs import RecordedOutputs as RecordedOutputs
