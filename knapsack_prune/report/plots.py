"""Pictures as SVG that follow the colours of the page that they stand in."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

INK = "#010203"
"""Drawn in place of the colour of the page's text, and replaced by it in the SVG."""
SERIES = tuple(f"#0{number}0{number}f{number}" for number in range(1, 9))
"""Drawn in place of the page's colours `--c1` to `--c8`."""
STYLE: dict[Any, Any] = {
    **{f"{part}.color": INK for part in ("text", "xtick", "ytick")},
    **{f"axes.{part}": INK for part in ("edgecolor", "labelcolor", "titlecolor")},
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "knapsack-prune",
    "path.simplify": True,
}


class Picture:
    """An SVG that is being drawn on `axes`; `svg` once it is done."""

    def __init__(self, axes: Axes) -> None:
        self.axes = axes
        self.svg = ""


@contextmanager
def picture(title: str, x: str, y: str, *, height: float = 2.6) -> Iterator[Picture]:
    """Draw a picture 7 inches wide; with more than one labelled series it has a legend."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(7, height))
        drawn = Picture(figure.add_subplot())
        yield drawn
        axes = drawn.axes
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        axes.grid(axis="y", color=INK, alpha=0.15, linewidth=0.6)
        axes.set_axisbelow(True)
        if len(axes.get_legend_handles_labels()[1]) > 1:
            axes.legend(frameon=False, fontsize=8)
        stream = io.StringIO()
        # Tight: the picture is as large as its labels need, and names of layers take nothing from the axes.
        figure.savefig(
            stream,
            format="svg",
            transparent=True,
            bbox_inches="tight",
            pad_inches=0.05,
            metadata={"Date": None, "Creator": None},
        )
    drawn.svg = _inline(stream.getvalue(), title)


def _inline(svg: str, title: str) -> str:
    """What stands in a page: no XML header, no fixed size, a name for who cannot see it, and the page's colours."""
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, count=1, flags=re.DOTALL)
    svg = re.sub(r' (?:width|height)="[\d.]+pt"', "", svg, count=2)
    svg = svg.replace("<svg ", f'<svg role="img" aria-label="{title}" ', 1).replace(INK, "currentColor")
    for number, colour in enumerate(SERIES, 1):
        svg = svg.replace(colour, f"var(--c{number})")
    return svg


MOST_NAMED = 64
"""Layers whose names fit below a picture."""


def along_network(
    series: Sequence[tuple[str, Sequence[float]]], layers: Sequence[str], title: str, y: str
) -> str:
    """One line of steps per series over the layers of a network; the first is filled."""
    from matplotlib.ticker import EngFormatter

    named = len(layers) <= MOST_NAMED
    x = "" if named else "layers, in the order of execution"
    with picture(title, x, y, height=3.2 if named else 2.6) as drawn:
        for number, (label, heights) in enumerate(series):
            edges = np.arange(len(heights) + 1)
            look: dict[str, Any] = {"color": SERIES[number % len(SERIES)], "linewidth": 1.4, "label": label}
            drawn.axes.stairs(heights, edges, fill=not number, alpha=1 if number else 0.35, **look)
        drawn.axes.yaxis.set_major_formatter(EngFormatter(sep=""))
        drawn.axes.margins(x=0.01)
        if named:
            places, small = np.arange(len(layers)) + 0.5, 7 if len(layers) <= MOST_NAMED / 2 else 5
            drawn.axes.set_xticks(
                places, layers, rotation=60, ha="right", rotation_mode="anchor", fontsize=small
            )
    return drawn.svg


def lines(
    series: Sequence[tuple[str, Sequence[float], Sequence[float]]],
    title: str,
    x: str,
    y: str,
    *,
    log: bool = False,
    whole: bool = False,
) -> str:
    """One line per series (label, xs, ys); `whole`: only whole numbers are marked on the axis of xs."""
    from matplotlib.ticker import MaxNLocator

    with picture(title, x, y) as drawn:
        for number, (label, xs, ys) in enumerate(series):
            look: dict[str, Any] = {"color": SERIES[number % len(SERIES)], "linewidth": 1.4, "label": label}
            drawn.axes.plot(xs, ys, marker="o", markersize=3.5, **look)
        if whole:
            drawn.axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if log and any(value > 0 for _, _, ys in series for value in ys):
            drawn.axes.set_yscale("log")
    return drawn.svg


def scatter(points: Sequence[tuple[str, float, float]], title: str, x: str, y: str) -> str:
    """Named points, and the line on which both agree."""
    with picture(title, x, y, height=3.2) as drawn:
        both = [value for _, *pair in points for value in pair]
        drawn.axes.plot([0, max(both)], [0, max(both)], color=INK, alpha=0.4, linewidth=0.8, linestyle="--")
        for name, across, up in points:
            drawn.axes.plot(across, up, "o", color=SERIES[0], markersize=4)
            drawn.axes.annotate(name, (across, up), xytext=(4, 2), textcoords="offset points", fontsize=7)
    return drawn.svg
