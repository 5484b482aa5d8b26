"""Messages of bucket elimination: stored tables, and look-ups by price that are made where they are used."""

import math
from typing import Any, NamedTuple

import numpy as np

from ..problem.instance import IntArray
from .conjugate import Conjugate


class Lookup:
    """A message `conjugate(sum over u of prices[u])` over a scope, made where it is used, and sliced by price.

    Indexed like an array of shape `shape`; memory O(sum of its axes) instead of their product.
    """

    def __init__(
        self,
        conjugate: Conjugate,
        scope: tuple[int, ...],
        prices: dict[int, IntArray],
        shape: tuple[int, ...],
    ) -> None:
        self.conjugate, self.scope, self.prices, self.shape = conjugate, scope, prices, shape
        self.ndim = len(shape)

    def __getitem__(self, index: tuple[Any, ...]) -> IntArray:
        """Entries at integers or equally shaped arrays per axis, or whole axes (slices) among integers."""
        whole = [axis for axis, where in enumerate(index) if isinstance(where, slice)]
        price: IntArray = np.zeros((1,) * len(whole), dtype=np.int64)
        for axis, (u, where) in enumerate(zip(self.scope, index, strict=True)):
            if u in self.prices:
                part = self.prices[u][where]
                if axis in whole:
                    part = part.reshape([-1 if a == axis else 1 for a in whole])
                price = price + part
        entries = self.conjugate.at(price)
        return np.broadcast_to(entries, [self.shape[a] for a in whole]) if whole else entries

    def table(self) -> IntArray:
        """The message as an array."""
        # Prices are multiples of a common step and mostly few: look each of them up once, then gather.
        prices = self.prices.values()
        step = math.gcd(*(math.gcd(*np.unique(np.diff(p)).tolist(), int(p[0])) for p in prices))
        highest = sum(int(p[-1]) for p in prices)
        few = step > 0 and highest // step <= max(4096, math.prod(self.shape))
        price = np.zeros((1,) * len(self.scope), dtype=np.int64)
        for u, p in self.prices.items():
            price = price + spread(p // step if few else p, (u,), self.scope)
        if few:
            return np.broadcast_to(
                self.conjugate.at(step * np.arange(highest // step + 1))[price], self.shape
            )
        return np.broadcast_to(self.conjugate.at(price), self.shape)


Message = IntArray | Lookup


class Piece(NamedTuple):
    """A table or message received by a bucket; `never` tells that it may hold `tuning.NEVER`, minus infinity."""

    scope: tuple[int, ...]
    entries: Message
    never: bool


def table(message: Message) -> IntArray:
    """The message as an array."""
    return message.table() if isinstance(message, Lookup) else message


def spread(array: IntArray, scope: tuple[int, ...], axes: tuple[int, ...]) -> IntArray:
    """The array over `scope` as a broadcastable view over `axes`, which contain the scope."""
    order = sorted(range(len(scope)), key=lambda i: axes.index(scope[i]))
    moved = array.transpose(order) if array.ndim > 1 else array
    present = set(scope)
    sizes = iter(moved.shape)
    return moved.reshape([next(sizes) if v in present else 1 for v in axes])
