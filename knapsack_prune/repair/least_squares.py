"""Ridge regression from streamed moments: memory does not grow with the number of rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

STRENGTHS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0)
"""Ridge strengths that are tried, relative to each column's variance."""


class Moments:
    """Sums over rows of inputs x (columns) and residuals r (outputs), in float64, group by group.

    Attributes:
        gram: sum of x x^T, shape (groups, columns, columns).
        cross: sum of x r^T, shape (groups, columns, outputs).
        inputs, residuals: sums of x and r, shapes (groups, columns) and (groups, outputs).
        squares: sum of r^2, shape (groups, outputs).
        targets: sums of t and t^2 of the targets, shape (2, groups, outputs): what an error is relative to.
        rows: how many.
    """

    def __init__(self, groups: int, columns: int, outputs: int, device: torch.device) -> None:
        def zeros(*shape: int) -> Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        self.gram = zeros(groups, columns, columns)
        self.cross = zeros(groups, columns, outputs)
        self.inputs = zeros(groups, columns)
        self.residuals = zeros(groups, outputs)
        self.squares = zeros(groups, outputs)
        self.targets = zeros(2, groups, outputs)
        self.rows = zeros(1)

    def add(self, inputs: Tensor, residuals: Tensor, targets: Tensor) -> None:
        """Count rows: inputs (rows, groups, columns), residuals and targets (rows, groups, outputs)."""
        x, r, t = inputs.double(), residuals.double(), targets.double()
        by_group = x.transpose(0, 1)
        self.gram.baddbmm_(by_group.transpose(1, 2), by_group)
        self.cross.baddbmm_(by_group.transpose(1, 2), r.transpose(0, 1))
        self.inputs += x.sum(0)
        self.residuals += r.sum(0)
        self.squares += r.square().sum(0)
        self.targets += torch.stack((t.sum(0), t.square().sum(0)))
        self.rows += len(x)

    def tensors(self) -> tuple[Tensor, ...]:
        """All sums."""
        return (
            self.gram,
            self.cross,
            self.inputs,
            self.residuals,
            self.squares,
            self.targets,
            self.rows,
        )

    def share(self) -> None:
        """Sum over processes, where there are several."""
        if dist.is_available() and dist.is_initialized():
            for tensor in self.tensors():
                dist.all_reduce(tensor)

    def absorb(self, other: Moments) -> None:
        """Add the rows of another."""
        for mine, theirs in zip(self.tensors(), other.tensors(), strict=True):
            mine += theirs

    def finite(self) -> bool:
        """Whether no input and no output was NaN or infinite."""
        return all(bool(torch.isfinite(tensor).all()) for tensor in self.tensors())

    def variation(self) -> Tensor:
        """Sum of squares of the targets about their mean, shape (groups, outputs)."""
        return self.targets[1] - self.targets[0].square() / self.rows.clamp(min=1)

    def error(self, change: Tensor, shift: Tensor) -> Tensor:
        """Sum of squared residuals, shape (groups, outputs), after adding x @ change + shift to the outputs."""
        moved = torch.bmm(self.gram, change)
        error = self.squares - 2 * (self.cross * change).sum(1) + (change * moved).sum(1)
        means = (self.inputs.unsqueeze(2) * change).sum(1)
        return error - 2 * shift * self.residuals + 2 * shift * means + self.rows * shift.square()


@dataclass(frozen=True)
class Fit:
    """A solution: outputs change by `x @ change + shift`.

    Attributes:
        change: shape (groups, columns, outputs).
        shift: shape (groups, outputs).
    """

    change: Tensor
    shift: Tensor


def solve(moments: Moments, strengths: Sequence[float], intercept: bool) -> list[Fit]:
    """The ridge solution for each strength: the least squared residual plus strength * variance * change^2.

    Columns are scaled to unit variance, so that one strength means the same for every input. Cholesky; where a matrix
    is not positive definite (columns that repeat, no rows), a least-squares solution of least norm instead.
    """
    rows = moments.rows.clamp(min=1)
    mean_x, mean_r = moments.inputs / rows, moments.residuals / rows
    gram, cross = moments.gram / rows, moments.cross / rows
    if intercept:
        gram = gram - mean_x.unsqueeze(2) * mean_x.unsqueeze(1)
        cross = cross - mean_x.unsqueeze(2) * mean_r.unsqueeze(1)
    spread = gram.diagonal(dim1=1, dim2=2).clamp(min=0).sqrt()
    # A column that hardly varies (a dead channel) must not be scaled up: it stays as it is.
    floor = 1e-6 * spread.amax(dim=1, keepdim=True)
    scale = torch.where(spread > floor, 1 / spread, torch.zeros_like(spread))
    gram = gram * scale.unsqueeze(2) * scale.unsqueeze(1)
    cross = cross * scale.unsqueeze(2)
    fits = []
    for strength in strengths:
        ridged = gram + strength * torch.eye(gram.shape[1], dtype=gram.dtype, device=gram.device)
        factor, failed = torch.linalg.cholesky_ex(ridged)
        if bool(failed.any()):
            solution = torch.linalg.pinv(ridged, hermitian=True) @ cross
        else:
            solution = torch.cholesky_solve(cross, factor)
        change = solution * scale.unsqueeze(2)
        shift = torch.zeros_like(mean_r)
        if intercept:
            shift = mean_r - (mean_x.unsqueeze(2) * change).sum(1)
        fits.append(Fit(change, shift))
    return fits
