"""Which widths are allowed: multiples, limits of layers, fixed schedules; and which groups keep the same fraction."""

from __future__ import annotations

import fnmatch
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from knapsack_prune.costs.resource import Resource
from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import ChannelGraph, CostTerm, Form, Group, IntArray, TabulatedTerm
from knapsack_prune.settings import WidthConstraints
from knapsack_prune.settings.limit import WidthLimit, parse_limit

Levels = Callable[[Group], IntArray]
"""The allowed numbers of kept units of a group, increasing."""

PAIR_LEVELS = 32
"""Levels of a group, at most, where pairs of groups have values."""

STEP = 0.005
"""A wider group whose layers take less than this share more is on the same step of a measured staircase."""

OTHERS = (1.0, 0.5, 0.25)
"""Shares of the other groups at which the steps of one are looked for."""


def allowed_levels(widths: WidthConstraints) -> Levels:
    """The multiples that width constraints allow; the last level is always the whole group."""

    def levels(group: Group) -> IntArray:
        step = widths.multiple // math.gcd(widths.multiple, group.channels)
        least = max(1, -(-widths.min_channels // group.channels))
        first = -(-least // step) * step
        counts = list(range(first, group.size + 1, step))
        if not counts or counts[-1] != group.size:
            counts.append(group.size)
        return np.array(counts, dtype=np.int64)

    return levels


def fixed_levels(units: Mapping[str, int]) -> Levels:
    """One allowed level per group, by its name; a group that is not named stays as it is."""

    def levels(group: Group) -> IntArray:
        wanted = units.get(group.name, group.size)
        if not 1 <= wanted <= group.size:
            raise RequestError(f"group {group.name}: {wanted} units of {group.size} cannot be kept")
        return np.array([wanted], dtype=np.int64)

    return levels


def levels_near(levels: Levels, centre: Mapping[str, int], reach: float) -> Levels:
    """The allowed levels that are at most a part `reach` of the group's size away from its level in `centre`, and the
    next one on either side in any case."""

    def near(group: Group) -> IntArray:
        allowed = levels(group)
        middle = int(np.searchsorted(allowed, centre[group.name]))
        close = abs(allowed - centre[group.name]) <= reach * group.size
        close[max(0, middle - 1) : middle + 2] = True
        return allowed[close]

    return near


def few_levels(allowed: IntArray) -> IntArray:
    """Of some levels `PAIR_LEVELS` at most, evenly chosen, so that tables of pairs stay small."""
    if len(allowed) <= PAIR_LEVELS:
        return allowed
    return allowed[np.linspace(0, len(allowed) - 1, PAIR_LEVELS).round().astype(np.int64)]


def constrained_levels(
    graph: ChannelGraph, widths: WidthConstraints, resources: Mapping[str, Resource]
) -> Levels:
    """The levels that multiples, limits and the steps of measured times allow together.

    Args:
        graph: the traced network.
        widths: what is asked for.
        resources: what is budgeted; where `latency` is, its steps are the widths of `auto`.

    Raises:
        RequestError: a limit matches no layer, or no width of some layer is within all that is asked; the message
            says which constraints collide.
    """
    base = allowed_levels(widths)
    by_steps = widths.round_to == "auto" or (widths.round_to is None and "latency" in resources)
    if by_steps and "latency" not in resources:
        raise RequestError(
            "`round_to` auto takes the widths at which a latency table steps, and there is none: give "
            "`latency_budget` and `latency_table`, or a number"
        )
    steps = _steps(graph, resources["latency"]) if by_steps else {}
    for index in itertools.chain(*tied_groups(graph, widths.tie)):
        steps.pop(graph.groups[index].name, None)  # steps of different groups have no common fraction
    bounds = _bounds(graph, [parse_limit(text) for text in widths.limit])
    removable = _removable(graph, widths)

    def levels(group: Group) -> IntArray:
        if not group.size:
            return np.zeros(1, dtype=np.int64)  # an earlier round has removed its block
        counts = on_step = base(group)
        if group.name in steps:
            on_step = counts[np.isin(counts, steps[group.name]) | (counts == counts[-1])]
        low, low_why, high, high_why = bounds.get(group.name, (0, "", group.size, ""))
        within: IntArray = on_step[(on_step >= low) & (on_step <= high)]
        if not within.size and widths.round_to is None:
            # Nobody asked for the steps: where none is within a limit, every width is.
            within = counts[(counts >= low) & (counts <= high)]
        if not within.size:
            raise RequestError(_collision(group, on_step, (low, low_why), (high, high_why), widths, by_steps))
        return np.append(0, within) if group.name in removable and not low else within

    return levels


def _removable(graph: ChannelGraph, widths: WidthConstraints) -> set[str]:
    """The groups that may keep nothing since their block can go: not those that keep the fraction of others."""
    if not widths.allow_block_removal:
        return set()
    if not graph.blocks:
        raise RequestError(
            "`allow_block_removal`: this network has 0 residual blocks that can be removed: branches with channels of "
            "their own that are added to what they read; leave it out"
        )
    tied = set(itertools.chain(*tied_groups(graph, widths.tie)))
    return {graph.groups[index].name for block in graph.blocks for index in block.groups if index not in tied}


def check_layers(graph: ChannelGraph, widths: WidthConstraints) -> None:
    """Refuse limits and ties that no plan can meet, before anything is scored.

    Raises:
        RequestError: as of `constrained_levels` and `tied_groups`.
    """
    _bounds(graph, [parse_limit(text) for text in widths.limit])
    tied_groups(graph, widths.tie)


def tied_groups(graph: ChannelGraph, globs: Sequence[str]) -> list[tuple[int, ...]]:
    """The groups that must keep the same fraction, as lists of indices; globs that share a group are one list.

    Raises:
        RequestError: a glob matches no layer that can be pruned, or layers whose sizes have no common fraction.
    """
    parts: list[set[int]] = []
    for glob in globs:
        matched = {group for _, form in _matching(graph, glob, "tie") for group, _ in form.weights}
        if not matched:
            raise RequestError(f"`tie` {glob!r}: every layer that it matches always keeps all its channels")
        sizes = {graph.groups[index].size for index in matched}
        if len(sizes) > 1 and math.gcd(*sizes) == 1:
            named = ", ".join(
                f"{graph.groups[index].name} has {graph.groups[index].size}" for index in sorted(matched)
            )
            raise RequestError(
                f"`tie` {glob!r}: {named} units, whose sizes have no common fraction but the whole; tie layers of "
                "equal size, or of sizes with a common divisor"
            )
        for part in [part for part in parts if part & matched]:
            matched |= part
            parts.remove(part)
        parts.append(matched)
    return [tuple(sorted(part)) for part in parts if len(part) > 1]


def _matching(graph: ChannelGraph, glob: str, setting: str) -> list[tuple[str, Form]]:
    """The layers that a glob matches, with the forms of their output widths."""
    layers = {layer.name: layer.kept_out for layer in graph.layers}
    matching = fnmatch.filter(layers, glob)
    if not matching:
        some = ", ".join(list(layers)[:3])
        raise RequestError(
            f"`{setting}` {glob!r} matches none of the {len(layers)} layers; name layers as in {some}, or use * and ?"
        )
    return [(name, layers[name]) for name in matching]


def _bounds(graph: ChannelGraph, limits: Sequence[WidthLimit]) -> dict[str, tuple[int, str, int, str]]:
    """Per limited group: the fewest units and which limit says so, the most and which limit says so."""
    bounds: dict[str, tuple[int, str, int, str]] = {}
    for limit in limits:
        for layer, form in _matching(graph, limit.glob, "limit"):
            whole = form.at(graph.sizes)
            least, most = limit.least(whole), limit.most(whole)
            if least > whole or (not form.weights and most < whole):
                raise RequestError(
                    f"`limit` {limit.text!r}: {layer} has {whole} channels"
                    + (f", fewer than {least}" if least > whole else _why_whole(graph, layer, most))
                    + "; change the limit"
                )
            for index, _ in form.weights:
                group = graph.groups[index]
                # Where a layer writes several groups, each keeps a fraction within the limit.
                varying = whole - form.constant
                low = math.ceil(group.size * max(0, least - form.constant) / varying)
                high = math.floor(group.size * max(0, most - form.constant) / varying)
                known = bounds.get(group.name, (0, "", group.size, ""))
                bounds[group.name] = (
                    *((low, limit.text) if low > known[0] else known[:2]),
                    *((high, limit.text) if high < known[2] else known[2:]),
                )
    return bounds


def _why_whole(graph: ChannelGraph, layer: str, most: int) -> str:
    reason = next(
        (frozen.reason for frozen in graph.frozen if frozen.name == layer), "no plan can change them"
    )
    return f" that always stay ({reason}), more than {most}"


def _collision(
    group: Group,
    counts: IntArray,
    low: tuple[int, str],
    high: tuple[int, str],
    widths: WidthConstraints,
    by_steps: bool,
) -> str:
    """Which constraints leave a group without a width, and the nearest widths that they leave without the limits."""
    channels = group.channels
    asked = [f"`limit` {text!r}" for text in dict.fromkeys((low[1], high[1])) if text]
    if widths.multiple > 1:
        asked.append(f"`round_to` {widths.round_to}")
    if by_steps:
        asked.append("`round_to` auto")
    if widths.min_channels > 1:
        asked.append(f"`min_channels` {widths.min_channels}")
    below, above = counts[counts < max(low[0], 1)], counts[counts > high[0]]
    nearest = [int(side) * channels for side in (*below[-1:], *above[:1])]
    return (
        f"{group.name} (of {group.size * channels} channels) has no width from {low[0] * channels} to "
        f"{high[0] * channels} that {' and '.join(asked)} allow together; the nearest that the others allow: "
        f"{' or '.join(map(str, nearest))}; change one of them"
    )


def _steps(graph: ChannelGraph, latency: Resource) -> dict[str, IntArray]:
    """Per group, the whole and every width at which its layers take notably less time than at the next one that stays.

    On a step of a staircase that is the widest; where times rise steadily, widths so close together that little is
    lost. The other groups keep all of their units meanwhile, then half, then a quarter: any of these steps counts.
    """
    touching: dict[int, list[TabulatedTerm | CostTerm]] = {index: [] for index in range(len(graph.groups))}
    for term in latency.sums[0]:
        forms = term.forms if isinstance(term, TabulatedTerm) else term.factors
        for index in {index for form in forms for index, _ in form.weights}:
            touching[index].append(term)
    steps = {}
    for index, group in enumerate(graph.groups):
        counts = np.arange(1, group.size + 1, dtype=np.int64)
        kept = {group.size}
        for share in OTHERS:
            others = [math.ceil(share * size) for size in graph.sizes]
            times = np.zeros(len(counts))
            for term in touching[index]:
                times += _along(term, others, index, counts)
            last = times[-1]
            for count, taken in zip(counts[::-1].tolist(), times[::-1].tolist(), strict=True):
                if taken * (1 + STEP) < last:
                    kept.add(count)
                    last = taken
        steps[group.name] = np.array(sorted(kept), dtype=np.int64)
    return steps


def _along(
    term: TabulatedTerm | CostTerm, others: Sequence[int], index: int, counts: IntArray
) -> npt.NDArray[Any]:
    """What a term costs at some widths of one group."""
    forms = term.forms if isinstance(term, TabulatedTerm) else term.factors
    widths = []
    for form in forms:
        weight = dict(form.weights).get(index, 0)
        widths.append(form.at(others) + weight * (counts - others[index]))
    if isinstance(term, TabulatedTerm):
        return np.asarray(term.cost(*widths))
    product: npt.NDArray[Any] = np.prod([np.full(len(counts), term.coefficient), *widths], axis=0)
    return product
