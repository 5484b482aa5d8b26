"""Learning from a teacher: inner features, logits, one network or an ensemble."""

from __future__ import annotations

from knapsack_prune.training.distillation.features import StageMatch as StageMatch
from knapsack_prune.training.distillation.objective import Objective as Objective
from knapsack_prune.training.distillation.teacher import EnsembleTeacher as EnsembleTeacher
from knapsack_prune.training.distillation.teacher import NetworkTeacher as NetworkTeacher
from knapsack_prune.training.distillation.teacher import Teacher as Teacher
from knapsack_prune.training.distillation.teacher import TeacherOutput as TeacherOutput
