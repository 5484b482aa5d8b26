"""Accuracy against multiply-adds or against measured time."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def plot(
    rows: Sequence[dict[str, Any]],
    parent: float,
    recipe: str,
    path: Path,
    times: Mapping[tuple[float, str], float] | None = None,
) -> None:
    """A line a method, with the deviation over seeds.

    Args:
        rows: of one recipe.
        parent: its accuracy in per cent.
        recipe: for the title.
        path: of the picture.
        times: by budget and plan, time over the parent's; None plots against multiply-adds.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    arms: dict[tuple[str, str], dict[float, list[float]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        at = row["kept"] if times is None else times[row["budget"], row["plan"]]
        arms[row["plan"], row["start"]][at].append(row["top1"])
    figure, axes = pyplot.subplots(figsize=(8, 5))
    axes.axhline(parent, color="grey", linestyle=":", label="parent")
    for number, ((name, start), points) in enumerate(sorted(arms.items())):
        at = sorted(points)
        means = [statistics.fmean(points[x]) for x in at]
        spread = [statistics.stdev(points[x]) if len(points[x]) > 1 else 0.0 for x in at]
        style = "--" if name.startswith("tp-") else "-"
        axes.errorbar(
            at,
            means,
            spread,
            label=f"{name}, {start}",
            linestyle=style,
            marker="osD^v<>"[number % 7],
            capsize=2,
        )
    axes.set_xlabel(
        "multiply-adds of the parent's" if times is None else "time of the parent's (ONNX Runtime, batch 32)"
    )
    axes.set_ylabel("test accuracy, %")
    axes.set_title(f"training: {recipe}")
    axes.legend(fontsize=7, ncols=2)
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
