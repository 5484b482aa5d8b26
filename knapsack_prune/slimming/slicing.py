"""Slicing parameters and buffers, and setting the widths that modules state."""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from knapsack_prune.errors import RequestError
from knapsack_prune.planning.plan_file import AttributePart, FullWidthPart, Plan, SlicePart
from knapsack_prune.slimming.attention import replacement
from knapsack_prune.slimming.full_width import FullWidth


def removed_slices(plan: Plan) -> Iterator[tuple[SlicePart, list[int]]]:
    """Every slice of the plan with the indices along its dimension that go."""
    for group in plan.groups:
        kept = set(group.kept)
        gone = [unit for unit in range(group.size) if unit not in kept]
        for part in group.slices:
            yield part, [index for unit in gone for index in part.owned(unit)]


def kept_indices(plan: Plan, shapes: dict[str, tuple[int, ...]]) -> dict[tuple[str, int], Tensor]:
    """Per parameter and dimension that loses something: the indices that stay, sorted.

    Raises:
        RequestError: the plan names a parameter, dimension or index that the network does not have.
    """
    removed: dict[tuple[str, int], set[int]] = defaultdict(set)
    for part, gone in removed_slices(plan):
        shape = shapes.get(part.parameter)
        if shape is None or part.dim >= len(shape):
            raise RequestError(
                f"the plan slices dimension {part.dim} of {part.parameter}, which this network does not have; use the "
                f"network that the plan was made for"
            )
        if gone and max(gone) >= shape[part.dim]:
            raise RequestError(
                f"the plan removes index {max(gone)} along dimension {part.dim} of {part.parameter}, whose size is "
                f"{shape[part.dim]}; the plan was edited or belongs to another network: make it again"
            )
        removed[part.parameter, part.dim].update(gone)
    kept = {}
    for (name, dim), gone_set in removed.items():
        if gone_set:
            size = shapes[name][dim]
            kept[name, dim] = torch.tensor([index for index in range(size) if index not in gone_set])
    return kept


@dataclass(frozen=True, eq=False)
class Cuts:
    """What slicing does to a network.

    Attributes:
        kept: per parameter or buffer and dimension that loses something: the indices that stay.
        attributes: integers of modules that follow.
        full_width: modules that run at the parent's width.
    """

    kept: Mapping[tuple[str, int], Tensor]
    attributes: Sequence[AttributePart]
    full_width: Sequence[FullWidthPart]


def sliced_copy(model: nn.Module, plan: Plan) -> nn.Module:
    """A copy of the network with the plan's parameters and buffers sliced; the original is not touched.

    Memory: the parent and the slim network, nothing else.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in _tensors(model).items()}
    return cut_copy(model, Cuts(kept_indices(plan, shapes), plan.attributes, plan.full_width))


def cut_copy(model: nn.Module, cuts: Cuts, *, empty: bool = False) -> nn.Module:
    """A sliced copy; `empty` gives one on the meta device, which has shapes but no values."""
    tensors = _tensors(model)
    by_name: dict[str, list[tuple[int, Tensor]]] = defaultdict(list)
    for (name, dim), indices in cuts.kept.items():
        by_name[name].append((dim, indices))
    memo: dict[int, object] = {}
    for name, tensor in tensors.items():
        if name not in by_name and not empty:
            continue
        cut = tensor.detach().to("meta") if empty else tensor.detach()
        for dim, indices in by_name[name]:
            cut = cut.index_select(dim, indices.to(cut.device))
        is_parameter = isinstance(tensor, nn.Parameter)
        memo[id(tensor)] = nn.Parameter(cut, tensor.requires_grad) if is_parameter else cut
    # deepcopy takes what `memo` holds for the original: the wide tensors are never copied.
    small = copy.deepcopy(model, memo)
    _set_widths(small, model)
    _set_attributes(small, cuts.attributes)
    _replace(small, model, cuts)
    return small


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {
        **dict(model.named_parameters(remove_duplicate=False)),
        **dict(model.named_buffers(remove_duplicate=False)),
    }


def _replace(small: nn.Module, model: nn.Module, cuts: Cuts) -> None:
    parents = dict(model.named_modules())
    replaced: dict[str, nn.Module] = {}
    for name, module in small.named_modules():
        other = replacement(module, parents[name])
        if other is not None and not _unchanged(module, parents[name]):
            replaced[name] = other
    for part in cuts.full_width:
        if len(part.kept) < part.size:
            inner = small.get_submodule(part.module)
            replaced[part.module] = FullWidth(inner, part.dim, part.size, part.kept)
    for name, module in replaced.items():
        owner, _, leaf = name.rpartition(".")
        setattr(small.get_submodule(owner), leaf, module)


def _unchanged(module: nn.Module, parent: nn.Module) -> bool:
    return all(a.shape == b.shape for a, b in zip(module.parameters(), parent.parameters(), strict=True))


def _set_widths(small: nn.Module, model: nn.Module) -> None:
    """Let the standard layers state their new widths."""
    parents = dict(model.named_modules())
    for name, module in small.named_modules():
        parent = parents.get(name)
        if isinstance(module, nn.modules.conv._ConvNd) and isinstance(parent, nn.modules.conv._ConvNd):
            out_dim, in_dim = (1, 0) if module.transposed else (0, 1)
            if parent.groups > 1:
                whole, now = (parent.weight.shape[0], module.weight.shape[0])
                module.groups = parent.groups * now // whole
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
        elif isinstance(module, nn.PReLU):
            module.num_parameters = module.weight.shape[0]


def _set_attributes(small: nn.Module, attributes: Sequence[AttributePart]) -> None:
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
