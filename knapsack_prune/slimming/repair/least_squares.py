"""Ridge regression of a layer, and of a layer seen through the activation behind it.

The second follows Zhang, Zou, He, Sun 2015, "Accelerating Very Deep Convolutional Networks for Classification and
Detection" (arXiv 1505.06798, section 3.2): not the layer's output but what the activation makes of it should be the
parent's. Here it is solved by majorisation: with s = (f(t) - f(z)) / (t - z), the slope of the chord between target t
and output z, the squared error of the activations is (s (t - z))^2, and s <= 1 gives a quadratic bound with the same
Gram matrix at every step. So the matrix is made and factored once, and a step costs two products with the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.distributed as dist
from torch import Tensor

LEAST_VARIANCE = 0.01
"""Part of the mean variance of a layer's columns that is added to each: an input that hardly varied on the images
gets no large weight, which would spoil training as soon as it does vary."""

WIDEST = 10.0
"""Most by which outputs that vary too little are multiplied, see `Rows.widening`."""

CHUNK = 1 << 23
"""Numbers of a design matrix in float64 at a time: 64 MB."""

Activation = Callable[[Tensor], Tensor]


@dataclass(frozen=True, eq=False)
class Rows:
    """A sample of positions of a layer.

    Attributes:
        inputs: what outputs are computed from, shape (rows, groups, columns).
        outputs: of the slim network, in the unit of the target, shape (rows, groups, outputs).
        targets: of the parent, of the same shape.
        slope: how much `outputs` change with the layer's own, shape (groups, outputs).
        activation: what follows the outputs; None for nothing elementwise.
    """

    inputs: Tensor
    outputs: Tensor
    targets: Tensor
    slope: Tensor
    activation: Activation | None

    def part(self, columns: slice) -> Rows:
        """With some of the columns."""
        return replace(self, inputs=self.inputs[:, :, columns])

    def after(self, fit: Fit) -> Rows:
        """With the outputs that a fit of these columns gives."""
        moved = [self.outputs[s] + self.slope * fit.moved(self.inputs[s]) for s in self.chunks()]
        return replace(self, outputs=torch.cat(moved).to(self.outputs.dtype)) if moved else self

    def with_inputs(self, inputs: Tensor) -> Rows:
        """With other columns."""
        return replace(self, inputs=inputs)

    def chunks(self) -> list[slice]:
        """Spans of rows of bounded size."""
        step = max(1, CHUNK // max(1, self.inputs[0].numel())) if len(self.inputs) else 1
        return [slice(at, at + step) for at in range(0, len(self.inputs), step)]

    def wanted(self, span: slice, moved: Tensor | None) -> Tensor:
        """By how much the layer's own output should change; `moved` is by how much it does so far."""
        target, output = self.targets[span].double(), self.outputs[span].double()
        if moved is None:
            return (target - output) / self.slope
        gap = target - output - self.slope * moved
        if self.activation is not None:
            now = target - gap
            chord = (self.activation(target) - self.activation(now)) / torch.where(gap == 0, 1.0, gap)
            gap = gap * chord.square().clamp(max=1.0)
        return moved + gap / self.slope

    def widening(self, fit: Fit) -> Tensor:
        """By what a fit's outputs are to be multiplied to vary as the targets do, (groups, outputs); 1 to `WIDEST`."""
        sums = self.slope.new_zeros(4, *self.slope.shape)
        count = self.slope.new_full((1,), len(self.inputs))
        for span in self.chunks():
            now = self.outputs[span].double() + self.slope * fit.moved(self.inputs[span])
            target = self.targets[span].double()
            sums += torch.stack((now.sum(0), target.sum(0), now.square().sum(0), target.square().sum(0)))
        share(sums)
        share(count)
        mean = sums / count.clamp(min=1)
        now, target = (mean[2:] - mean[:2].square()).clamp(min=0)
        factor: Tensor = (target / now.clamp(min=1e-30)).sqrt().clamp(1.0, WIDEST)
        return factor

    def error(self, fit: Fit | None) -> tuple[float, float]:
        """After the activation: the targets' sum of squares about their mean, and of the errors; over all processes."""
        sums = self.slope.new_zeros(3, *self.slope.shape)
        count = self.slope.new_full((1,), len(self.inputs))
        for span in self.chunks():
            now, target = self.outputs[span].double(), self.targets[span].double()
            if fit is not None:
                now = now + self.slope * fit.moved(self.inputs[span])
            if self.activation is not None:
                now, target = self.activation(now), self.activation(target)
            sums += torch.stack(((target - now).square().sum(0), target.square().sum(0), target.sum(0)))
        share(sums)
        share(count)
        return float((sums[1] - sums[2].square() / count.clamp(min=1)).sum()), float(sums[0].sum())


@dataclass(frozen=True, eq=False)
class Fit:
    """A solution: the layer's outputs change by `inputs @ change + shift`.

    Attributes:
        change: shape (groups, columns, outputs).
        shift: shape (groups, outputs).
    """

    change: Tensor
    shift: Tensor

    def moved(self, inputs: Tensor) -> Tensor:
        """By how much outputs change: (rows, groups, columns) -> (rows, groups, outputs)."""
        by_group = torch.bmm(inputs.transpose(0, 1), self.change.to(inputs.dtype))
        return by_group.transpose(0, 1).double() + self.shift


class Gram:
    """Second moments of the columns of some rows, in float64, over all processes.

    Attributes:
        rows: how many, over all processes.
    """

    def __init__(self, sample: Rows, intercept: bool, more: Gram | None = None) -> None:
        """Sum over all rows; time rows * groups * columns^2.

        Args:
            sample: rows of this process.
            intercept: whether outputs may also shift.
            more: rows that count too, summed already.
        """
        self._samples: list[Rows] = [sample, *(more._samples if more is not None else ())]
        groups, columns = sample.inputs.shape[1:]
        gram = sample.inputs.new_zeros(groups, columns, columns, dtype=torch.float64)
        sums = sample.inputs.new_zeros(groups, columns, dtype=torch.float64)
        count = sample.inputs.new_zeros(1, dtype=torch.float64)
        for span in sample.chunks():
            x = sample.inputs[span].double()
            by_group = x.transpose(0, 1)
            gram.baddbmm_(by_group.transpose(1, 2), by_group)
            sums += x.sum(0)
            count += len(x)
        self._sums = (gram, sums, count)
        for at, tensor in enumerate(self._sums):
            share(tensor)
            if more is not None:
                tensor += more._sums[at]
        self.rows = int(count.item())
        self._count = count.clamp(min=1)
        self._mean = sums / self._count if intercept else torch.zeros_like(sums)
        self._gram = gram / self._count
        self._gram.baddbmm_(self._mean.unsqueeze(2), self._mean.unsqueeze(1), alpha=-1)
        variances = self._gram.diagonal(dim1=1, dim2=2).clamp(min=0)
        spread = (variances + LEAST_VARIANCE * variances.mean(1, keepdim=True)).sqrt()
        # A column that hardly varies (a dead channel) must not be scaled up: its weights stay as they are.
        floor = 1e-6 * spread.amax(dim=1, keepdim=True)
        self._scale = torch.where(spread > floor, 1 / spread, torch.zeros_like(spread))
        self._gram.mul_(self._scale.unsqueeze(2)).mul_(self._scale.unsqueeze(1))
        self._intercept = intercept

    @property
    def finite(self) -> bool:
        """Whether all columns were."""
        return bool(torch.isfinite(self._gram).all())

    def solver(self, strength: float) -> Callable[[Tensor], Tensor]:
        """A function that solves (gram + strength) x = b; columns have unit variance.

        Cholesky; where the matrix is not positive definite (columns that repeat, at a small strength), by
        eigenvalues, without the directions that the rows do not show.
        """
        ridged = self._gram + strength * torch.eye(
            self._gram.shape[1], dtype=torch.float64, device=self._gram.device
        )
        factor, failed = torch.linalg.cholesky_ex(ridged)
        if not bool(failed.any()):
            return lambda cross: torch.cholesky_solve(cross, factor)
        inverse = torch.linalg.pinv(ridged, hermitian=True, rtol=1e-12)
        return lambda cross: inverse @ cross

    def cross(self, before: Fit | None) -> Cross:
        """The columns' products with what the outputs should change by, given how they change now.

        Args:
            before: the change so far; None for no change, and without the activation.
        """
        groups, columns = self._mean.shape
        outputs = self._samples[0].targets.shape[2]
        cross = self._mean.new_zeros(groups, columns, outputs)
        sums = self._mean.new_zeros(groups, outputs)
        for sample in self._samples:
            for span in sample.chunks():
                x = sample.inputs[span]
                wanted = sample.wanted(span, None if before is None else before.moved(x))
                cross += torch.bmm(x.permute(1, 2, 0), wanted.to(x.dtype).transpose(0, 1))
                sums += wanted.sum(0)
        share(cross)
        share(sums)
        mean = sums / self._count
        cross = cross / self._count
        if self._intercept:
            cross = cross - self._mean.unsqueeze(2) * mean.unsqueeze(1)
        return Cross(cross * self._scale.unsqueeze(2), mean)

    def fit(self, solve: Callable[[Tensor], Tensor], cross: Cross) -> Fit:
        """The ridge solution."""
        change = solve(cross.products) * self._scale.unsqueeze(2)
        shift = torch.zeros_like(cross.mean)
        if self._intercept:
            shift = cross.mean - (self._mean.unsqueeze(2) * change).sum(1)
        return Fit(change, shift)


@dataclass(frozen=True, eq=False)
class Cross:
    """The right-hand side of the normal equations.

    Attributes:
        products: means of columns times wanted changes, shape (groups, columns, outputs).
        mean: of the wanted changes, shape (groups, outputs).
    """

    products: Tensor
    mean: Tensor


def share(tensor: Tensor) -> None:
    """Sum over processes, in place, where there are several."""
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(tensor)
