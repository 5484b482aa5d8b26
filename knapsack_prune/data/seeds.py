"""Seeds derived from numbers that say what is drawn, so that no generator's state has to be carried along."""

from __future__ import annotations

import hashlib

import torch


def derive_seed(*numbers: int) -> int:
    """A seed in [0, 2^63) that depends on every number and on their order.

    Whatever is random in training is drawn from such a seed (run, epoch, step or sample), which makes it
    independent of the number of processes and workers, and lets an interrupted run continue to the same
    weights without storing a generator's state.
    """
    text = ",".join(str(number) for number in numbers).encode()
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "little") >> 1


def generator(*numbers: int) -> torch.Generator:
    """A CPU generator seeded with `derive_seed(*numbers)`."""
    return torch.Generator().manual_seed(derive_seed(*numbers))
