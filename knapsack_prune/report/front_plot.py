"""The picture of a front: importance kept against FLOPs kept."""

from __future__ import annotations

from collections.abc import Sequence

from knapsack_prune.report.plots import lines


def front_svg(fronts: Sequence[tuple[str, Sequence[float], Sequence[float]]]) -> str:
    """A line per front: (name, fractions of the FLOPs kept, fractions of the importance kept)."""
    percent = [(name, [100 * v for v in flops], [100 * v for v in worth]) for name, flops, worth in fronts]
    return lines(percent, "Importance kept under each budget", "FLOPs kept (%)", "importance kept (%)")


def standalone(svg: str) -> str:
    """The same picture as a file of its own, in dark ink on white."""
    colours = "--c1:#0b62a4;--c2:#c2410c;--c3:#15803d"
    style = f'style="color:#1a1a1a;background:#fff;{colours}"'
    return f'<?xml version="1.0" encoding="utf-8"?>\n{svg.replace("<svg ", f"<svg {style} ", 1)}\n'
