"""Which integers of which modules count channels, so that slimming can rewrite them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable

import numpy as np
from torch import nn

from knapsack_prune.graph.channel_graph import IntArray, Owner, SizeAttribute
from knapsack_prune.tracing.ledger import Constant, Ledger


def size_attributes(
    ledger: Ledger, model: nn.Module, owner: Callable[[IntArray], Owner]
) -> tuple[tuple[SizeAttribute, ...], tuple[str, ...]]:
    """Find the attributes behind the integer arguments that count removable channels.

    An operator's argument shows only its value. The module that ran the operator is searched for integer
    attributes (or items of tuples) of that value: one meaning of the value sets all of them; several meanings
    (the left and the right padding) are matched in the order of definition, if there are as many attributes.
    Where none is found, the code has computed the size from its input, or it cannot be slimmed.

    Returns:
        The attributes; and the modules whose operators count removable channels, layers of PyTorch whose widths
        are known apart: whether the others' code follows must be tried.
    """
    modules = dict(model.named_modules())
    meanings: dict[tuple[str, int], dict[bytes, Owner]] = defaultdict(dict)
    for constant in ledger.constants:
        if constant.module not in modules:
            continue
        counted = owner(constant.ids)
        if constant.whole and one_unit(counted):
            continue
        meanings[constant.module, constant.value].setdefault(_key(constant, counted), counted)
    attributes: list[SizeAttribute] = []
    sized: dict[str, None] = {}
    for (module, value), owners in meanings.items():
        if not any(bool((counted.groups >= 0).any()) for counted in owners.values()):
            continue
        places = list(_places(modules[module], value))
        if isinstance(modules[module], nn.LayerNorm):
            # Several dimensions of one size: each is an item of its own.
            items = {constant.argument[-1] for constant in ledger.constants if constant.module == module}
            places = [place for place in places if place[1] in items]
        if not isinstance(
            modules[module],
            (nn.LayerNorm, nn.GroupNorm, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
        ):
            sized[module] = None
        if len(owners) == 1:
            (only,) = owners.values()
            attributes += [SizeAttribute(module, name, item, only) for name, item in places]
        elif len(owners) == len(places):
            attributes += [
                SizeAttribute(module, name, item, counted)
                for (name, item), counted in zip(places, owners.values(), strict=True)
            ]
    return tuple(attributes), tuple(sized)


def _key(constant: Constant, counted: Owner) -> bytes:
    # Two integers mean the same if they hold the same units equally often, in whatever order.
    order = np.lexsort((counted.units, counted.groups))
    return counted.groups[order].tobytes() + counted.units[order].tobytes()


def one_unit(counted: Owner) -> bool:
    """Whether a whole dimension lies within one unit: it never shrinks, other dimensions do."""
    return (
        len(counted.groups) > 1 and len(np.unique(np.stack((counted.groups, counted.units)), axis=1).T) == 1
    )


def _places(module: nn.Module, value: int) -> list[tuple[str, int | None]]:
    """Integers first: items of tuples (a normalised shape) only where no integer has the value, since window and
    shift sizes are tuples too."""
    places: list[tuple[str, int | None]] = []
    items: list[tuple[str, int | None]] = []
    for name, attribute in vars(module).items():
        if name.startswith("_") or name == "training":
            continue
        if isinstance(attribute, int) and not isinstance(attribute, bool) and attribute == value:
            places.append((name, None))
        elif isinstance(attribute, (tuple, list)):
            items += [
                (name, item)
                for item, part in enumerate(attribute)
                if isinstance(part, int) and not isinstance(part, bool) and part == value
            ]
    return places or items
