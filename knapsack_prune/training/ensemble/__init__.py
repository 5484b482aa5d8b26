"""Ensembles: a parent and its pruned descendants, of different widths, in one directory."""

from __future__ import annotations

from knapsack_prune.training.ensemble.evaluation import EnsembleAccuracy as EnsembleAccuracy
from knapsack_prune.training.ensemble.evaluation import evaluate_members as evaluate_members
from knapsack_prune.training.ensemble.manifest import Manifest as Manifest
from knapsack_prune.training.ensemble.manifest import MemberEntry as MemberEntry
from knapsack_prune.training.ensemble.members import Ensemble as Ensemble
from knapsack_prune.training.ensemble.members import Member as Member
from knapsack_prune.training.ensemble.members import open_ensemble as open_ensemble
from knapsack_prune.training.ensemble.outputs import RecordedOutputs as RecordedOutputs
