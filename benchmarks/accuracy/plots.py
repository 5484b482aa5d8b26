"""Accuracy against multiply-adds or against measured time."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.experiment.config import Figure


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


def draw_figure(figure: Figure, rows: Sequence[dict[str, Any]], parent: float, path: Path) -> None:
    """A figure of chosen lines, as SVG, from the rows that are there.

    Args:
        figure: its lines.
        rows: of all methods.
        parent: its accuracy in per cent.
        path: of the picture.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    drawn = [(line, [row for row in rows if line.holds(row)]) for line in figure.lines]
    with pyplot.rc_context({"svg.hashsalt": figure.name, "font.size": 10}):
        shown, axes = pyplot.subplots(figsize=(7.2, 4.2))
        axes.axhline(parent, color="0.4", linestyle=":", label=f"parent, {parent:.1f} %")
        colours = {
            True: iter(("tab:blue", "tab:cyan", "tab:green")),
            False: iter(("0.25", "0.45", "0.6", "0.75")),
        }
        for number, (line, own) in enumerate(drawn):
            at = sorted({row["budget"] for row in own})
            points = [[row["top1"] for row in own if row["budget"] == x] for x in at]
            axes.errorbar(
                [100 * x for x in at],
                [statistics.fmean(values) for values in points],
                [statistics.stdev(values) if len(values) > 1 else 0.0 for values in points],
                label=line.label,
                color=next(colours[line.ours], None),
                linestyle="-" if line.ours else "--",
                linewidth=2.2 if line.ours else 1.3,
                marker="osD^v<>"[number % 7],
                markersize=5,
                capsize=2,
            )
        axes.set_xlabel("FLOPs kept, % of the parent's")
        axes.set_ylabel("test accuracy, %")
        axes.set_title(figure.title, fontsize=11)
        axes.grid(alpha=0.25)
        axes.legend(fontsize=8.5, frameon=False)
        shown.tight_layout()
        path.parent.mkdir(parents=True, exist_ok=True)
        shown.savefig(path, metadata={"Date": None})
        pyplot.close(shown)
