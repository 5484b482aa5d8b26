"""The optimiser of a run."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import Optimizer

from knapsack_prune.settings import OptimizerSettings


def build_optimizer(network: nn.Module, settings: OptimizerSettings, device: torch.device) -> Optimizer:
    """An optimiser over every trainable parameter, weight decay on those of two or more dimensions only.

    Scales and shifts of norms, biases and layer scales set the size of a channel and not a direction:
    decaying them would shrink the very quantities by which channels were chosen.
    """
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": settings.weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    fused = device.type == "cuda"
    if settings.optimizer == "sgd":
        return torch.optim.SGD(groups, lr=settings.lr, momentum=0.9, nesterov=True, fused=fused)
    kind = torch.optim.AdamW if settings.optimizer == "adamw" else torch.optim.Adam
    return kind(groups, lr=settings.lr, fused=fused)
