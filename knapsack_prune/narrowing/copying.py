"""A narrower copy of a network: parameters and buffers sliced, and the widths set that modules state."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import IntArray
from knapsack_prune.graph.selection import Axis, DependentAttribute, Selection
from knapsack_prune.narrowing.attention import SlimMultiheadAttention, replacement
from knapsack_prune.narrowing.full_width import FullWidth
from knapsack_prune.narrowing.rewritten import run_program
from knapsack_prune.narrowing.shortcuts import remove_blocks
from knapsack_prune.networks.modes import evaluating


def tensor_shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    """Shapes of all parameters and buffers, by name."""
    return {name: tuple(tensor.shape) for name, tensor in _tensors(model).items()}


def narrow_copy(model: nn.Module, selection: Selection, *, empty: bool = False) -> nn.Module:
    """A copy that keeps what a selection keeps; the original is not touched.

    Args:
        model: the parent.
        selection: what stays of it.
        empty: make a copy on the meta device, which has shapes but no values.

    Memory: the parent and the narrower network, nothing else.

    Raises:
        RequestError: the selection is not of this network.
    """
    by_name: dict[str, list[tuple[int, Tensor]]] = defaultdict(list)
    kept_indices = selection.kept_indices(tensor_shapes(model))
    for (name, dim), indices in kept_indices.items():
        by_name[name].append((dim, torch.from_numpy(indices)))
    memo: dict[int, object] = {}
    for name, tensor in _tensors(model).items():
        if (name not in by_name and not empty and not _is_expanded(tensor)) or id(tensor) in memo:
            continue
        cut = tensor.detach().to("meta") if empty else tensor.detach()
        if _is_expanded(cut):
            cut = cut.contiguous()  # or nothing could be loaded into it
        for dim, kept in by_name[name]:
            cut = cut.index_select(dim, kept.to(cut.device))
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(cut, tensor.requires_grad) if is_parameter else cut
    for module in model.modules():
        for attribute in vars(module).values():
            # What a hook computes before every pass (weight norm) cannot be copied; it is computed anew below.
            if isinstance(attribute, Tensor) and attribute.grad_fn is not None:
                memo.setdefault(id(attribute), attribute.detach().to("meta") if empty else attribute.detach())
    # deepcopy takes what `memo` holds for the original: the wide tensors are never copied.
    small = copy.deepcopy(model, memo)
    _compute_weights(small)
    _set_widths(small, model, kept_indices)
    _set_attributes(small, selection.attributes)
    _replace_modules(small, model, selection)
    modules = dict(small.named_modules())
    for program in selection.rewritten:
        if program.module not in modules:
            raise RequestError(
                f"the plan rewrites module {program.module!r}, which this network does not have; use the network that "
                f"the plan was made for"
            )
        run_program(modules[program.module], program)
    return remove_blocks(small, selection.blocks)


def _is_expanded(tensor: Tensor) -> bool:
    """Whether several elements lie in the same place of memory."""
    if tensor.layout is not torch.strided:
        return False
    return any(size > 1 and not step for size, step in zip(tensor.shape, tensor.stride(), strict=True))


def _compute_weights(small: nn.Module) -> None:
    """Let the hooks of PyTorch that compute a weight before every pass do so now, so that its width is known."""
    for module in small.modules():
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, (WeightNorm, SpectralNorm, BasePruningMethod)):
                with torch.no_grad(), evaluating(module):
                    hook(module, ())


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def _replace_modules(small: nn.Module, model: nn.Module, selection: Selection) -> None:
    parents = dict(model.named_modules())
    replaced: dict[str, nn.Module] = {}
    rewritten = {program.module for program in selection.rewritten}
    gone = {name for block in selection.blocks for name in block.parameters}
    for name, module in small.named_modules():
        parent = parents[name]
        if name in rewritten or gone.issuperset(f"{name}.{own}" for own, _ in module.named_parameters()):
            continue  # it runs a program, or its block goes whole
        if any(a.shape != b.shape for a, b in zip(module.parameters(), parent.parameters(), strict=True)):
            other = replacement(module, parent)
            if other is not None:
                replaced[name] = other
    for part in selection.full_width:
        if 0 < len(part.kept) < part.size:
            inner = small.get_submodule(part.module)
            replaced[part.module] = FullWidth(inner, part.dim, part.size, part.kept)
    for name, module in replaced.items():
        owner, _, leaf = name.rpartition(".")
        setattr(small.get_submodule(owner), leaf, module)
    for encoder in small.modules():
        if isinstance(encoder, nn.TransformerEncoder) and any(
            isinstance(module, SlimMultiheadAttention) for module in encoder.modules()
        ):
            encoder.use_nested_tensor = False  # its packed sequences are for PyTorch's own attention alone


def _groups_left(
    name: str,
    module: nn.modules.conv._ConvNd,
    parent: nn.modules.conv._ConvNd,
    kept: Mapping[Axis, IntArray],
    shapes: Mapping[str, Sequence[int]],
) -> int:
    """In how many of its groups a convolution keeps channels, which lie along the first dimension group by group."""
    size = len(parent.weight)
    for (parameter, dim), indices in kept.items():
        own = f"{parameter.rpartition('.')[0]}.".startswith(f"{name}." if name else "")
        if own and dim == 0 and shapes[parameter][0] == size and len(indices) == len(module.weight):
            return len(np.unique(indices * parent.groups // size))
    return parent.groups


def _set_widths(small: nn.Module, model: nn.Module, kept: Mapping[Axis, IntArray]) -> None:
    """Let the standard layers state their new widths."""
    parents, shapes = dict(model.named_modules()), tensor_shapes(model)
    for name, module in small.named_modules():
        parent = parents.get(name)
        if isinstance(module, nn.modules.conv._ConvNd) and isinstance(parent, nn.modules.conv._ConvNd):
            out_dim, in_dim = (1, 0) if module.transposed else (0, 1)
            if parent.groups > 1:
                module.groups = _groups_left(name, module, parent, kept, shapes)
            module.out_channels = module.weight.shape[out_dim] * (module.groups if module.transposed else 1)
            module.in_channels = module.weight.shape[in_dim] * (1 if module.transposed else module.groups)
        elif isinstance(module, nn.Linear):
            module.out_features, module.in_features = module.weight.shape
        elif isinstance(module, nn.modules.batchnorm._NormBase):
            for tensor in (module.weight, module.running_mean):
                if tensor is not None:
                    module.num_features = tensor.shape[0]
        elif isinstance(module, nn.GroupNorm) and module.weight is not None:
            module.num_channels = module.weight.shape[0]
        elif isinstance(module, nn.LayerNorm) and module.weight is not None:
            module.normalized_shape = tuple(module.weight.shape)
        elif isinstance(module, (nn.Embedding, nn.EmbeddingBag)):
            module.embedding_dim = module.weight.shape[1]
        elif isinstance(module, nn.RNNBase):
            rows, module.input_size = module.get_parameter("weight_ih_l0").shape
            module.hidden_size = rows // {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
            if module.proj_size:
                module.proj_size = module.get_parameter("weight_hh_l0").shape[1]
        elif isinstance(module, nn.RNNCellBase):
            module.input_size, module.hidden_size = module.weight_ih.shape[1], module.weight_hh.shape[1]
        elif isinstance(module, nn.RMSNorm) and module.weight is not None:
            module.normalized_shape = tuple(module.weight.shape)
        elif isinstance(module, nn.Bilinear):
            module.out_features, module.in1_features, module.in2_features = module.weight.shape
        elif isinstance(module, nn.PReLU):
            module.num_parameters = module.weight.shape[0]


def _set_attributes(small: nn.Module, attributes: Sequence[DependentAttribute]) -> None:
    """Rewrite the integers that the tracer found to count channels."""
    modules = dict(small.named_modules())
    for part in attributes:
        module = modules.get(part.module)
        if module is None or not hasattr(module, part.attribute):
            raise RequestError(
                f"the plan sets {part.attribute} of module {part.module!r}, which this network does not have; use the "
                f"network that the plan was made for"
            )
        if part.item is None:
            setattr(module, part.attribute, part.after)
        else:
            items = list(getattr(module, part.attribute))
            items[part.item] = part.after
            setattr(module, part.attribute, type(getattr(module, part.attribute))(items))
