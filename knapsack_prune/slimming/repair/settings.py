"""How a repair is done."""

from __future__ import annotations

from dataclasses import dataclass, field

from knapsack_prune.errors import RequestError
from knapsack_prune.slimming.repair.search import SearchSettings


@dataclass(frozen=True)
class RepairSettings:
    """How a repair is done.

    Attributes:
        batch_size: images per batch, at most.
        rows: rows (images times positions) per layer, at most; of more, a seeded sample is used.
        numbers: rows times columns, at most: 4 bytes each.
        held_out: of so many batches one is kept from the fit, to choose its strength and steps by; at least 2.
        sums: fit to the parent's sum where a layer ends in one.
        memory: bytes of activations on the host before they go to a file.
        seed: of the sampled positions.
        search: strengths and steps.
    """

    batch_size: int = 64
    rows: int = 40_000
    numbers: int = 1 << 27
    held_out: int = 5
    sums: bool = True
    memory: int = 4 << 30
    seed: int = 0
    search: SearchSettings = field(default_factory=SearchSettings)

    def __post_init__(self) -> None:
        for name, least in (("batch_size", 1), ("rows", 1), ("numbers", 1), ("held_out", 2), ("memory", 0)):
            if getattr(self, name) < least:
                raise RequestError(f"repair: {name} {getattr(self, name)} must be at least {least}")

    def is_held_out(self, batch: int) -> bool:
        """Whether the fit does not see this batch."""
        return batch % self.held_out == self.held_out - 1
