"""Repair of slim networks by least squares, without labels."""

from __future__ import annotations

from knapsack_prune.slimming.repair.repairing import repair as repair
from knapsack_prune.slimming.repair.report import LayerRepair as LayerRepair
from knapsack_prune.slimming.repair.report import RepairReport as RepairReport
from knapsack_prune.slimming.repair.settings import RepairSettings as RepairSettings
