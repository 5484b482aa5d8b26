"""The fit of one layer: strength and steps are chosen on rows that the fit did not see, then all rows are used."""

from __future__ import annotations

from dataclasses import dataclass
from math import isfinite

import torch

from knapsack_prune.settings import RepairSettings
from knapsack_prune.slimming.repair.least_squares import Fit, Gram, Rows


class NotFiniteError(Exception):
    """Inputs, outputs or targets hold NaN or infinity."""


@dataclass(frozen=True, eq=False)
class Found:
    """The best fit of a layer.

    Attributes:
        fit: over all columns; None if nothing lowers the held-out error.
        before, after: held-out squared error after the activation, of the target's variance; without held-out rows,
            of those that the fit saw.
        strength, steps: chosen; of the first block of columns.
        rows: that the final fit used.
    """

    fit: Fit | None
    before: float
    after: float
    strength: float | None
    steps: int
    rows: int


NEGLIGIBLE = 1e-10
"""Errors below this part of the variance are rounding, and nothing to repair."""


def search(seen: Rows, held_out: Rows, intercept: bool, settings: RepairSettings) -> Found:
    """Fit one layer.

    Args:
        seen: rows to fit to.
        held_out: rows to judge by; may be empty.
        intercept: whether the layer or its norm can shift the outputs.
        settings: what is tried.

    Raises:
        NotFiniteError: rows hold NaN or infinity.
    """
    columns = seen.inputs.shape[2]
    first: Found | None = None
    parts: list[Fit] = []
    after = 0.0
    for at in range(0, columns, settings.repair_columns):
        block = slice(at, at + settings.repair_columns)
        found = _search_block(seen.part(block), held_out.part(block), intercept, settings)
        first = first or found
        after = found.after
        if found.fit is None:
            width = min(settings.repair_columns, columns - at)
            groups, outputs = seen.slope.shape
            fit = Fit(seen.slope.new_zeros(groups, width, outputs), torch.zeros_like(seen.slope))
        else:
            fit = found.fit
            seen, held_out = (
                part.part(block).after(fit).with_inputs(part.inputs) for part in (seen, held_out)
            )
        parts.append(fit)
    assert first is not None
    if not any(bool(fit.change.any()) or bool(fit.shift.any()) for fit in parts):
        return first
    whole = Fit(
        torch.cat([fit.change for fit in parts], dim=1), torch.stack([fit.shift for fit in parts]).sum(0)
    )
    return Found(whole, first.before, after, first.strength, first.steps, first.rows)


def _search_block(seen: Rows, held_out: Rows, intercept: bool, settings: RepairSettings) -> Found:
    gram = Gram(seen, intercept)
    total, before = held_out.error(None)
    judge = held_out
    if not total:
        judge = seen
        total, before = judge.error(None)
    if not gram.finite or not isfinite(before):
        raise NotFiniteError
    scale = total or 1.0
    if before <= NEGLIGIBLE * total:
        return Found(None, before / scale, before / scale, None, 0, gram.rows)
    cross = gram.cross(None)
    tried: list[tuple[float, float, int]] = []
    for strength in settings.repair_ridge:
        fit = gram.fit(gram.solver(strength), cross)
        tried.append((judge.error(fit)[1], strength, 0))
    if seen.activation is not None:
        solve = gram.solver(min(tried)[1])
        strength, fit = min(tried)[1], gram.fit(solve, cross)
        for step in range(1, settings.repair_steps + 1):
            fit = gram.fit(solve, gram.cross(fit))
            tried.append((judge.error(fit)[1], strength, step))
    after, strength, steps = min(tried)
    if not after < before:
        return Found(None, before / scale, before / scale, None, 0, gram.rows)
    if judge is held_out:
        gram = Gram(held_out, intercept, gram)
    solve = gram.solver(strength)
    fit = gram.fit(solve, gram.cross(None))
    for _ in range(steps):
        fit = gram.fit(solve, gram.cross(fit))
    return Found(fit, before / scale, after / scale, strength, steps, gram.rows)
