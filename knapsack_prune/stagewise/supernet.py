"""Training a supernet: in every step the full network, the tiny one and random ones between them, stage by stage."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from knapsack_prune.data.batches import TrainingData
from knapsack_prune.data.seeds import derive_seed
from knapsack_prune.errors import RequestError
from knapsack_prune.files import write_atomically
from knapsack_prune.graph.channel_graph import ChannelGraph, IntArray
from knapsack_prune.networks.fingerprint import tensors_digest
from knapsack_prune.settings.stagewise import SupernetSettings
from knapsack_prune.stagewise.stages import Stage
from knapsack_prune.stagewise.subnets import Features, Subnet, full_features, train_norms

SAVE_SECONDS = 30.0


class SupernetTraining:
    """Trains a copy of the parent, whose narrower networks share its weights; what was stopped continues.

    Everything random depends on the seed and the step's number alone: a run that continues ends in the same weights.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        supernet: nn.Module,
        stages: Sequence[Stage],
        orders: Sequence[IntArray],
        levels: Sequence[IntArray],
        data: TrainingData,
        settings: SupernetSettings,
        seed: int,
        path: Path,
    ) -> None:
        """Prepare, and take up what is in `path`.

        Args:
            graph: the traced parent.
            supernet: starts with the parent's weights; trained in place.
            stages, orders, levels: where it is split; per group, its units and its allowed widths.
            data: training images.
            settings: length, rate, and random subnets per step.
            seed: of the widths.
            path: of the state.

        Raises:
            RequestError: the state is damaged or of another network.
        """
        self._graph, self._supernet, self._stages = graph, supernet, stages
        self._orders, self._levels = orders, levels
        self._data, self._settings, self._seed, self._path = data, settings, seed, path
        self._optimizer = torch.optim.SGD(
            supernet.parameters(), settings.supernet_lr, momentum=0.9, weight_decay=1e-4
        )
        self.steps = (settings.supernet_epochs or 0) * data.schedule.steps
        self.step = 0
        if path.is_file():
            self._load()

    def run(self, progress: Callable[[int, int], None] = lambda done, of: None) -> None:
        """All steps that are missing."""
        saved = time.monotonic()
        per_epoch = self._data.schedule.steps
        while self.step < self.steps:
            epoch, first = divmod(self.step, per_epoch)
            for images, labels in self._data.batches.epoch(epoch, first):
                self._step(images, labels)
                progress(self.step, self.steps)
                if time.monotonic() - saved > SAVE_SECONDS:
                    self._save()
                    saved = time.monotonic()
        self._save()

    def _step(self, images: Tensor, labels: Tensor) -> None:
        rate = self._settings.supernet_lr * 0.5 * (1 + np.cos(np.pi * self.step / self.steps))
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        train_norms(self._supernet)
        self._optimizer.zero_grad(set_to_none=True)
        made = full_features(self._supernet, images, self._stages)
        loss = F.cross_entropy(made.by_module[None], labels)
        loss.backward()
        full = Features({name: feature.detach() for name, feature in made.by_module.items()})
        del made
        for counts in self._widths():
            subnet = Subnet(self._graph, self._supernet, self._orders, counts)
            train_norms(subnet.network)
            losses = subnet.stage_losses(images, full, self._stages, subnet.shared(self._supernet))
            total = torch.stack(losses).sum()
            if not bool(torch.isfinite(total)):
                raise RequestError(
                    f"the loss of a subnet is {float(total.detach())} at step {self.step}: lower `supernet_lr` "
                    f"{self._settings.supernet_lr:g}"
                )
            total.backward()
        nn.utils.clip_grad_norm_(self._supernet.parameters(), 5.0)
        self._optimizer.step()
        self.step += 1

    def _widths(self) -> list[list[int]]:
        """The tiny network, and random ones: each group's width uniform over its levels."""
        draw = np.random.default_rng(derive_seed(self._seed, 21, self.step))
        rows = [[int(levels[0]) for levels in self._levels]]
        rows += [
            [int(draw.choice(levels)) for levels in self._levels]
            for _ in range(self._settings.random_subnets)
        ]
        return rows

    def _save(self) -> None:
        tensors = {f"network.{name}": t.contiguous() for name, t in self._supernet.state_dict().items()}
        for name, parameter in self._supernet.named_parameters():
            momentum = self._optimizer.state.get(parameter, {}).get("momentum_buffer")
            if momentum is not None:
                tensors[f"momentum.{name}"] = momentum.contiguous()
        tensors = {name: tensor.cpu().clone() for name, tensor in tensors.items()}
        said = {"step": f"{self.step} {tensors_digest(tensors)}"}  # one entry: several would be in any order
        write_atomically(self._path, lambda waiting: save_file(tensors, str(waiting), said))

    def _load(self) -> None:
        try:
            with safe_open(str(self._path), "pt") as file:
                number, *digest = (file.metadata() or {})["step"].split()
                step = int(number)
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
                if digest and digest != [tensors_digest(tensors)]:
                    raise ValueError("it is not as it was written, by its own digest")
            network = {
                name.removeprefix("network."): tensor
                for name, tensor in tensors.items()
                if name.startswith("network.")
            }
            self._supernet.load_state_dict(network)
        except (SafetensorError, KeyError, ValueError, RuntimeError, OSError) as error:
            first = str(error).strip().split("\n")[0]
            raise RequestError(
                f"{self._path} is no state of this supernet ({first}); remove it, or choose another directory with "
                "`output`"
            ) from error
        for name, parameter in self._supernet.named_parameters():
            if f"momentum.{name}" in tensors:
                momentum = tensors[f"momentum.{name}"].to(parameter.device)
                self._optimizer.state[parameter] = {"momentum_buffer": momentum}
        self.step = step
