"""Repair of slim networks by least squares, without labels."""

from __future__ import annotations

from knapsack_prune.slimming.repair.on_source import Repaired as Repaired
from knapsack_prune.slimming.repair.on_source import plan_images as plan_images
from knapsack_prune.slimming.repair.on_source import repair_on_source as repair_on_source
from knapsack_prune.slimming.repair.repairing import repair as repair
from knapsack_prune.slimming.repair.report import LayerRepair as LayerRepair
from knapsack_prune.slimming.repair.report import RepairReport as RepairReport
