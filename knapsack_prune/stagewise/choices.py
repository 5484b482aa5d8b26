"""Choices of a stage: which widths of its groups are measured, and what each loses."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from knapsack_prune.data.seeds import derive_seed
from knapsack_prune.errors import RequestError
from knapsack_prune.files import read_json, sealed, unsealed, write_json
from knapsack_prune.graph.channel_graph import ChannelGraph, IntArray
from knapsack_prune.stagewise.stages import Stage
from knapsack_prune.stagewise.subnets import Features, Subnet, full_features, train_norms
from knapsack_prune.values.stage_tables import StageTable
from knapsack_prune.values.tables import FloatArray

SAVE_SECONDS = 10.0
LARGEST_ERROR = 0.99
"""From here on losses rise along a line: an error may be above 1."""

LONELY = 4
"""Widths of a group that are tried with all others of its stage whole."""


def stage_choices(stage: Stage, levels: Sequence[IntArray], count: int, seed: int) -> list[tuple[int, ...]]:
    """Different widths of a stage's groups, the whole and the tiny stage first; all of them where they are few.

    A few widths of each group alone, the same share of all groups, and random ones around a random share.

    Args:
        stage: the stage.
        levels: per group of the network, its allowed widths.
        count: how many.
        seed: of the random ones.
    """
    own = [levels[group] for group in stage.groups]
    if prod(len(allowed) for allowed in own) <= count:
        return sorted(itertools.product(*(allowed.tolist() for allowed in own)), reverse=True)
    whole = tuple(int(allowed[-1]) for allowed in own)
    found = dict.fromkeys([whole, tuple(int(allowed[0]) for allowed in own)])

    def near(shares: Sequence[float]) -> tuple[int, ...]:
        return tuple(
            int(allowed[min(len(allowed) - 1, max(0, round(share * (len(allowed) - 1))))])
            for allowed, share in zip(own, shares, strict=True)
        )

    for share in np.linspace(0, 1, 2 + count // 4)[1:-1]:
        found.setdefault(near([share] * len(own)))
    for at in range(len(own)):
        for share in np.linspace(0, 1, LONELY + 1)[:-1]:
            found.setdefault(near([share if index == at else 1.0 for index in range(len(own))]))
    draw = np.random.default_rng(derive_seed(seed, 22, *stage.groups))
    while len(found) < count:
        middle = draw.uniform()
        found.setdefault(near(np.clip(middle + draw.uniform(-0.4, 0.4, len(own)), 0, 1).tolist()))
    return list(found)[:count]


class ChoiceLosses:
    """Losses of stages' choices on held-out images, kept in a file as they are measured."""

    def __init__(self, path: Path, graph: ChannelGraph, stages: Sequence[Stage]) -> None:
        """Open the file, or begin one.

        Raises:
            RequestError: the file is something else.
        """
        self._path, self._graph, self._stages = path, graph, stages
        self.known: dict[str, float] = {}
        if path.is_file():
            said = read_json(path)
            content = unsealed(said) if isinstance(said, dict) else None
            if content is None or not all(isinstance(v, float) for v in content.values()):
                raise RequestError(
                    f"{path} holds no losses of choices, or was changed; remove it, or choose another directory with "
                    "`output`"
                )
            self.known = content

    def measure(
        self,
        supernet: nn.Module,
        orders: Sequence[IntArray],
        choices: Sequence[Sequence[tuple[int, ...]]],
        norms: Sequence[Tensor],
        held_out: Sequence[Tensor],
        progress: Callable[[int, int], None] = lambda done, of: None,
    ) -> tuple[StageTable, ...]:
        """The tables of all stages; what is known is not measured again.

        Norms are estimated anew before each choice is judged. Memory: one stage's features before and behind it, on all
        images.

        Args:
            supernet: trained.
            orders: per group, its units.
            choices: per stage, the widths of its groups.
            norms: images for the statistics of norms.
            held_out: images on which losses are taken.
            progress: called with how many choices are done, of how many.
        """
        missing = [
            [choice for choice in rows if _key(number, choice) not in self.known]
            for number, rows in enumerate(choices)
        ]
        total, saved = sum(map(len, choices)), time.monotonic()
        done = total - sum(map(len, missing))
        if any(missing):
            estimate_norms(supernet, norms)
        with torch.no_grad():
            for number, (stage, rows) in enumerate(zip(self._stages, missing, strict=True)):
                if not rows:
                    continue
                estimating = [_ends(full_features(supernet, x, self._stages), stage) for x in norms]
                judging = [_ends(full_features(supernet, x, self._stages), stage) for x in held_out]
                for choice in rows:
                    counts = list(self._graph.sizes)
                    for group, width in zip(stage.groups, choice, strict=True):
                        counts[group] = width
                    subnet = Subnet(self._graph, supernet, orders, counts)
                    train_norms(subnet.network, None, reset=True)
                    for images, full in zip(norms, estimating, strict=True):
                        subnet.stage_feature(stage, images, _before(stage, full))
                    subnet.network.eval()
                    loss, seen = 0.0, 0
                    for images, full in zip(held_out, judging, strict=True):
                        feature = subnet.stage_feature(stage, images, _before(stage, full))
                        loss += float(subnet.loss(stage, feature, full)) * len(images)
                        seen += len(images)
                    if not np.isfinite(loss):
                        raise RequestError(
                            f"stage {number + 1} with the widths {choice} loses {loss}: the supernet diverged; lower "
                            "`supernet_lr`"
                        )
                    self.known[_key(number, choice)] = loss / seen
                    done += 1
                    progress(done, total)
                    if time.monotonic() - saved > SAVE_SECONDS:
                        self.save()
                        saved = time.monotonic()
        self.save()
        return tuple(
            StageTable(
                stage.groups,
                np.array(rows, dtype=np.int64),
                chained(np.array([self.known[_key(number, choice)] for choice in rows])),
            )
            for number, (stage, rows) in enumerate(zip(self._stages, choices, strict=True))
        )

    def save(self) -> None:
        """Write what is known."""
        write_json(self._path, sealed(self.known))


def chained(errors: FloatArray) -> FloatArray:
    """Losses of stages that add up along the network: minus the logarithm of the variance that each explains.

    What a stage explains of its feature (1 minus its error), the next one starts from: shares multiply. Small errors
    stay what they are; a stage that explains nothing cannot be made good by the others.
    """
    small = np.minimum(errors, LARGEST_ERROR)
    beyond = (errors - small) / (1 - LARGEST_ERROR)
    losses: FloatArray = -np.log1p(-small) + beyond
    return losses


def estimate_norms(network: nn.Module, images: Sequence[Tensor]) -> None:
    """Give a network's batch norms the statistics of some images; then evaluation mode."""
    train_norms(network, None, reset=True)
    with torch.no_grad():
        for batch in images:
            network(batch)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.momentum = 0.1
    network.eval()


def _ends(features: Features, stage: Stage) -> Features:
    """Only what a stage begins with and ends in."""
    wanted = {stage.module, *([] if stage.before is None else [stage.before])}
    return Features({name: tensor for name, tensor in features.by_module.items() if name in wanted})


def _before(stage: Stage, full: Features) -> Tensor | None:
    return None if stage.before is None else full.by_module[stage.before]


def _key(stage: int, choice: Sequence[int]) -> str:
    return f"{stage}:{','.join(map(str, choice))}"
