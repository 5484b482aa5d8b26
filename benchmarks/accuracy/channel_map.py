"""Zero-padded shortcuts in a form that other pruning tools can cut, and pruned networks from their tensors alone."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from knapsack_prune.networks.cifar_resnet import PaddedShortcut


class ChannelMap(nn.Module):
    """A shortcut that subsamples by two and takes each output channel from an input channel, or from none (zeros).

    (N, in_channels, H, W) -> (N, len(source), ceil(H / 2), ceil(W / 2)); `source` is -1 where there is none. It has no
    weights and costs no multiply-adds. Unlike a padding, it can lose any input and any output channel.
    """

    source: Tensor

    def __init__(self, source: Tensor, in_channels: int) -> None:
        super().__init__()
        self.register_buffer("source", source)
        self.in_channels = in_channels

    def forward(self, x: Tensor) -> Tensor:
        padded = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, 1))
        return padded.index_select(1, torch.where(self.source < 0, self.in_channels, self.source))

    def keep_outputs(self, kept: Tensor) -> None:
        """Drop all other output channels."""
        self.source = self.source[kept]

    def keep_inputs(self, kept: Tensor) -> None:
        """Drop all other input channels; outputs that came from them become zeros."""
        place = torch.full((self.in_channels + 1,), -1, dtype=torch.long)
        place[kept] = torch.arange(len(kept))
        self.source = place[self.source]  # -1 is the last place, which stays -1
        self.in_channels = len(kept)


def with_channel_maps(model: nn.Module) -> nn.Module:
    """A copy in which padded shortcuts are channel maps: the same function."""
    network = copy.deepcopy(model)
    widths: dict[str, int] = {}
    for name, module in network.named_modules():
        if isinstance(module, PaddedShortcut):
            block = network.get_submodule(name.rpartition(".")[0])
            widths[name] = block.conv1.in_channels  # type: ignore[assignment, union-attr]
    for name, width in widths.items():
        shortcut = network.get_submodule(name)
        assert isinstance(shortcut, PaddedShortcut)
        none = torch.full((1,), -1)
        source = torch.cat([none.expand(shortcut.left), torch.arange(width), none.expand(shortcut.right)])
        owner, _, leaf = name.rpartition(".")
        setattr(network.get_submodule(owner), leaf, ChannelMap(source, width))
    return network


def network_of(model: nn.Module, state: Mapping[str, Tensor]) -> nn.Module:
    """A network of the parent's architecture with the tensors of a pruned one, whose shapes give the widths."""
    network = with_channel_maps(model)
    for name, module in network.named_modules():
        own = {
            key: state[f"{name}.{key}"]
            for key in (*module._parameters, *module._buffers)
            if f"{name}.{key}" in state
        }
        for key, tensor in own.items():
            if key in module._parameters:
                module._parameters[key] = nn.Parameter(tensor.clone())
            else:
                module._buffers[key] = tensor.clone()
        weight = own.get("weight")
        if isinstance(module, nn.Conv2d) and weight is not None:
            module.groups = (
                weight.shape[0] if module.groups > 1 else 1
            )  # groups of more than one channel do not occur
            module.out_channels, module.in_channels = weight.shape[0], weight.shape[1] * module.groups
        elif isinstance(module, nn.Linear) and weight is not None:
            module.out_features, module.in_features = weight.shape
        elif isinstance(module, nn.BatchNorm2d):
            module.num_features = len(module.running_mean)  # type: ignore[arg-type]
    for name, module in network.named_modules():
        if isinstance(module, ChannelMap):
            block = network.get_submodule(name.rpartition(".")[0])
            module.in_channels = block.conv1.in_channels  # type: ignore[assignment, union-attr]
    return network.eval()
