"""The layers of a slim network, one after the other: rows are gathered, fitted, and the norm behind is corrected."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.fx import Node

from knapsack_prune.errors import RequestError
from knapsack_prune.narrowing.copying import tensor_shapes
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.settings import RepairSettings
from knapsack_prune.slimming.repair.least_squares import Activation, Fit, Rows
from knapsack_prune.slimming.repair.operators import Convolution, flat_rows
from knapsack_prune.slimming.repair.report import LayerRepair
from knapsack_prune.slimming.repair.search import Found, NotFiniteError, search
from knapsack_prune.slimming.repair.sites import Norm, Site, find_sites, scales, short_name, undo_path
from knapsack_prune.slimming.repair.walk import Visit, Walk, distributed

ACTIVATIONS = frozenset(
    [
        "relu",
        "relu6",
        "hardtanh",
        "silu",
        "gelu",
        "hardswish",
        "hardsigmoid",
        "sigmoid",
        "tanh",
        "elu",
        "leaky_relu",
    ]
)
"""Elementwise functions that a fit can look through."""


MOST_NUMBERS = 1 << 27
"""Rows times columns of a layer, at most: 4 bytes each."""

EXPLAINED_POORLY = 0.5
"""Held-out error, of the target's variance, above which a layer's outputs are widened. On the digits with one channel
in the first stream (`l1`, 30 % of the FLOPs; 6 epochs) training ends at 94.8 % without repair (mean of nine seeds), at
86.9 % with repair and no widening (three), at 94.6 % with widening above 0.5 (nine). Widening everywhere ends alike and
costs other plans up to 1.6 points before training (ResNet-20 at 0.3)."""


@dataclass(frozen=True, eq=False)
class _Task:
    """One layer to fit: its site in both networks, what to fit to, and in which unit.

    Attributes:
        mine, theirs: the layer in the slim network and in the parent.
        goal: the parent's value to reach.
        reached: the same value of the slim network.
        is_sum: whether that is the sum in which the layer ends.
        kept: the parent's output channels that the slim layer has; None for all.
    """

    mine: Site
    theirs: Site
    goal: Node
    reached: Node
    is_sum: bool
    kept: Tensor | None


def is_held_out(batch: int, settings: RepairSettings) -> bool:
    """Whether the fits do not see this batch."""
    return batch % settings.repair_held_out == settings.repair_held_out - 1


class Refit:
    """Fits the layers of one slim network, in execution order."""

    def __init__(
        self, model: nn.Module, small: nn.Module, plan: Plan, walk: Walk, settings: RepairSettings
    ) -> None:
        self._settings = settings
        self._small = small
        self._walk = walk
        self._shapes = tensor_shapes(model)
        kept = plan.selection().kept_indices(self._shapes)
        self._kept = {axis: torch.from_numpy(indices) for axis, indices in kept.items()}
        self._held: set[Node] = set()

    def run(self, progress: Callable[[int, int], None]) -> tuple[LayerRepair, ...]:
        """All layers, in execution order; `progress` is told how many are fitted, of how many."""
        sites, skipped = find_sites(self._walk.student)
        theirs = {site.weight: site for site in find_sites(self._walk.parent)[0]}
        tasks = [self._task(site, theirs[site.weight]) for site in sites if site.weight in theirs]
        skipped |= {
            s.weight: "the parent computes it in another way" for s in sites if s.weight not in theirs
        }
        self._held = {task.goal for task in tasks}
        layers = []
        for task in tasks:
            layers.append(self._fit(task))
            progress(len(layers), len(tasks))
        return (
            *layers,
            *(LayerRepair(name.rpartition(".")[0], "skipped", why) for name, why in skipped.items()),
        )

    def _task(self, mine: Site, theirs: Site) -> _Task:
        kept = self._kept_outputs(mine)
        index = self._walk.student.index
        if (
            self._settings.repair_sums
            and mine.sum is not None
            and mine.other is not None
            and theirs.sum is not None
        ):
            known = index.get(mine.other, -1) < index[mine.node]
            same = [short_name(node) for node in mine.path] == [short_name(node) for node in theirs.path]
            if known and same:
                return _Task(mine, theirs, theirs.sum, mine.sum, True, kept)
        return _Task(mine, theirs, theirs.tail, mine.tail, False, kept)

    def _fit(self, task: _Task) -> LayerRepair:
        mine = task.mine
        seen, held_out = self._sample(task)
        intercept = mine.bias is not None or mine.norm is not None
        try:
            found = search(seen, held_out, intercept, self._settings)
        except NotFiniteError as error:
            raise RequestError(
                f"layer {mine.name}: NaN or infinity in the slim network's inputs or the parent's outputs; check "
                "the images and the parent's weights"
            ) from error
        if found.fit is not None:
            self._apply(mine, found.fit)
        if mine.norm is not None:
            self._renorm(mine, mine.norm)
        widened = self._widen(task, seen, found)
        self._held.discard(task.goal)
        unknowns = seen.inputs.shape[2] + intercept
        reason = "" if found.fit is not None else "no fit lowers the error on held-out images"
        if found.fit is not None and found.rows < unknowns:
            reason = f"{found.rows} rows for {unknowns} unknowns: the ridge decides; give more images"
        return LayerRepair(
            mine.name,
            "kept" if found.fit is None else "fitted",
            reason,
            "sum" if task.is_sum else "output",
            found.before,
            found.after,
            found.strength,
            unknowns,
            found.rows,
            found.steps,
            widened,
        )

    def _widen(self, task: _Task, seen: Rows, found: Found) -> bool:
        """Give the outputs of a layer that explains little of its target the target's standard deviation.

        Least squares answers what it cannot explain with the mean: outputs hardly vary, and a norm with a small scale
        and a large shift leaves its activation open (or shut) on all images. That is right for the error and wrong
        for training, which finds a linear network there. The layers behind are fitted to the outputs as they are now.
        """
        norm = task.mine.norm
        if found.fit is None or norm is None or task.mine.is_norm or task.is_sum:
            return False
        if found.after <= EXPLAINED_POORLY:
            return False
        # Statistics are fresh, so that the norm's shift is its outputs' mean, which stays.
        self._tensor(norm.weight).mul_(seen.widening(found.fit).flatten())
        return True

    def _sample(self, task: _Task) -> tuple[Rows, Rows]:
        """Rows of the batches that the fit sees, and of the held-out ones."""
        walk, mine = self._walk, task.mine
        groups, columns, outputs = mine.operator.shape(tuple(self._tensor(mine.weight).shape))
        slope = self._slope(task).reshape(groups, outputs)
        most = min(self._settings.repair_rows, MOST_NUMBERS // (groups * columns)) // walk.batches
        empty = slope.new_zeros(0, groups, max(columns, outputs), dtype=torch.float32)
        nothing = (empty[..., :columns], empty[..., :outputs].flatten(1), empty[..., :outputs].flatten(1))
        parts = ([nothing], [nothing])
        after = walk.parent.index[task.goal] + 1
        for visit in walk.at(after, walk.student.index[mine.node], self._held):
            found = self._rows(task, visit, max(1, most))
            parts[is_held_out(visit.number, self._settings)].append(found)
        samples = []
        for part in parts:
            inputs, here, goals = (torch.cat(tensors) for tensors in zip(*part, strict=True))
            here, goals = (tensor.unflatten(1, (groups, outputs)) for tensor in (here, goals))
            samples.append(Rows(inputs, here, goals, slope, self._activation(task)))
        return samples[0], samples[1]

    def _activation(self, task: _Task) -> Activation | None:
        """What all that reads the target does to it first, if that is one elementwise function."""
        users = list(task.reached.users)
        if not users or short_name(users[0]) not in ACTIVATIONS:
            return None
        first = users[0]
        if any(
            u.target != first.target or u.args[1:] != first.args[1:] or u.kwargs != first.kwargs
            for u in users
        ):
            return None
        return lambda x: first.target(x, *first.args[1:], **first.kwargs)  # type: ignore[operator]

    def _rows(self, task: _Task, visit: Visit, most: int) -> tuple[Tensor, Tensor, Tensor]:
        """Of one batch: inputs (rows, groups, columns), outputs here and in the parent (rows, channels)."""
        walk, mine = self._walk, task.mine
        device, dim = walk.device, mine.operator.channel_dim
        inputs = walk.student.value(visit.student, mine.input, device)
        goal = walk.parent.value(visit.parent, task.goal, device)
        reached = walk.student.evaluate(visit.student, task.reached, device)
        if task.is_sum:
            goal, reached = undo_path(task.theirs, goal), undo_path(mine, reached)
        goals, here = flat_rows(goal, dim), flat_rows(reached, dim)
        chosen = torch.arange(len(here))
        if len(here) > most:
            generator = torch.Generator().manual_seed(visit.number)
            chosen = torch.randperm(len(here), generator=generator)[:most].sort().values
        chosen = chosen.to(device)
        goals = goals[chosen]
        if task.kept is not None:
            goals = goals.index_select(1, task.kept.to(device))
        return mine.operator.rows(inputs, tuple(reached.shape), chosen), here[chosen], goals

    def _slope(self, task: _Task) -> Tensor:
        """How much of the target one step of the layer's output is, per channel, in float64."""
        site = task.mine
        channels = site.tail.meta["val"].shape[site.operator.channel_dim]
        slope = torch.ones(channels, dtype=torch.float64, device=self._walk.device)
        if site.norm is not None and not site.is_norm:
            variance = self._tensor(site.norm.variance).double()
            slope = self._tensor(site.norm.weight).double() / (variance + site.norm.eps).sqrt()
        for name in scales(self._walk.student, site) if task.is_sum else ():
            slope = slope * self._tensor(name).double().flatten()
        # What such a channel does is not felt; its target must stay finite.
        least = max(1e-3 * float(slope.abs().max()), 1e-30)
        return torch.where(slope.abs() < least, least, slope)

    def _apply(self, site: Site, fit: Fit) -> None:
        """Add a fit to the weights."""
        shift, norm = fit.shift.flatten(), site.norm
        if norm is not None and site.is_norm:
            change = fit.change.flatten()
            scale = (self._tensor(norm.variance).double() + norm.eps).sqrt()
            self._add(norm.weight, change * scale)
            self._add(norm.bias, shift + change * self._tensor(norm.mean).double())
            return
        self._add(site.weight, site.operator.delta(fit.change, self._tensor(site.weight)))
        if norm is not None:
            self._add(norm.mean, -shift)
        elif site.bias is not None:
            self._add(site.bias, shift)

    def _renorm(self, site: Site, norm: Norm) -> None:
        """Statistics of the slim network; scale and shift such that the function stays what it is."""
        walk = self._walk
        weight, bias, mean, variance = (
            self._tensor(name).double() for name in (norm.weight, norm.bias, norm.mean, norm.variance)
        )
        sums = torch.zeros(2, len(mean), dtype=torch.float64, device=walk.device)
        count = torch.zeros(1, dtype=torch.float64, device=walk.device)
        for visit in walk.at(0, walk.student.index[site.node], self._held):
            if site.is_norm:
                output = walk.student.value(visit.student, site.input, walk.device)
            else:
                output = walk.student.evaluate(visit.student, site.node, walk.device)
            # About the old mean, so that the difference of squares keeps its digits.
            flat = flat_rows(output, 1).double() - mean
            sums += torch.stack((flat.sum(0), flat.square().sum(0)))
            count += len(flat)
        if distributed():
            dist.all_reduce(sums)
            dist.all_reduce(count)
        moved = sums[0] / count
        new_variance = (sums[1] / count - moved.square()).clamp(min=0)
        slope = weight / (variance + norm.eps).sqrt()
        self._tensor(norm.weight).copy_(slope * (new_variance + norm.eps).sqrt())
        self._tensor(norm.bias).copy_(bias + slope * moved)
        self._tensor(norm.mean).copy_(mean + moved)
        self._tensor(norm.variance).copy_(new_variance)

    def _kept_outputs(self, site: Site) -> Tensor | None:
        """The parent's output channels that the slim layer has; None for all."""
        operator = site.operator
        if not (isinstance(operator, Convolution) and operator.transposed):
            return self._kept.get((site.weight, 0))
        inputs, outputs = self._shapes[site.weight][:2]
        columns = self._kept.get((site.weight, 1), torch.arange(outputs))
        rows = self._kept.get((site.weight, 0), torch.arange(inputs))
        if operator.groups == 1:
            return columns
        width = len(rows) // operator.groups
        return (rows[::width, None] // width * outputs + columns).flatten()

    def _tensor(self, name: str) -> Tensor:
        owner, _, leaf = name.rpartition(".")
        found: Tensor = getattr(self._small.get_submodule(owner), leaf)
        return found.detach()

    def _add(self, name: str, change: Tensor) -> None:
        tensor = self._tensor(name)
        tensor.copy_(tensor.double() + change)
