"""Images: where they come from, which are drawn, and how they reach the network."""

from __future__ import annotations

from knapsack_prune.data.calibration import CalibrationLoader as CalibrationLoader
from knapsack_prune.data.calibration import CalibrationParts as CalibrationParts
from knapsack_prune.data.calibration import calibration_loader as calibration_loader
from knapsack_prune.data.calibration import calibration_parts as calibration_parts
from knapsack_prune.data.images import ImageSet as ImageSet
from knapsack_prune.data.images import TensorImages as TensorImages
from knapsack_prune.data.preparation import Preparation as Preparation
from knapsack_prune.data.source import ImageSource as ImageSource
from knapsack_prune.data.source import Normalisation as Normalisation
from knapsack_prune.data.source import from_tensors as from_tensors
from knapsack_prune.data.source import require_classes as require_classes
from knapsack_prune.data.sources import open_data as open_data
from knapsack_prune.data.sources import open_source as open_source
