"""Making a latency table: the times of a network's operators over grids of widths, and of whole narrower networks.

Operators are timed one after the other in the order of the network, each on an input that was just written and with
weights that were not touched since the pass before, as in the network itself. A grid starts with eighths of the full
width and gets points where a time between two of them is not the mean of theirs: there the times step. The samples of
a point come from several passes over all points, so that what else the machine did for a while is in one of them alone.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise, product

import numpy as np
import torch
from torch import Tensor, nn

from knapsack_prune.costs.allocator import keep_freed_memory
from knapsack_prune.costs.latency_table import (
    Conditions,
    EndToEnd,
    Grid,
    LatencyTable,
    MeasuredNetwork,
    OperatorEntry,
    WidthForm,
)
from knapsack_prune.costs.operator_calls import OperatorCall, calls_of_blocks, operator_calls
from knapsack_prune.costs.resource import PricedNetwork
from knapsack_prune.costs.timing import clock_of, clock_overhead
from knapsack_prune.costs.whole_networks import fit_whole_networks
from knapsack_prune.graph.channel_graph import Form
from knapsack_prune.networks.example import Example

PARTS = 8
MOST_POINTS = 12
DEVIATION = 0.06
"""A grid starts with so many parts, has at most so many points, and gets one where a time between two deviates by more
than this share."""

FINEST = 32
"""Points are no closer than the full width by this, unless that is under one channel."""

CALLS_PER_EVENT = 5
ROUGH = 3
"""Samples with which steps are looked for; every later pass adds one."""

SHORTEST = 100.0
"""Nanoseconds that an operator takes at least: calling it does."""

WORTHWHILE = 20_000.0
"""Nanoseconds under which an operator's steps are not looked for."""

Points = dict[str, dict[str, list[float]]]
"""Nanoseconds by configuration and widths, as in `{"…": {"16,32": [5100.0, 5080.0]}}`."""

Wanted = Mapping[str, Sequence[tuple[int, ...]]]
"""Widths by configuration."""

Choose = Callable[[LatencyTable], Sequence[Sequence[int]]]
"""Units per group of the narrower networks that are timed whole, from a table without factor and constant."""


def measure_table(
    network: PricedNetwork,
    conditions: Conditions,
    name: str,
    versions: Mapping[str, str],
    *,
    repeats: int,
    choose: Choose,
    seconds: float,
    known: Points | None = None,
    save: Callable[[LatencyTable], None] = lambda table: None,
    progress: Callable[[str, int, int], None] = lambda what, done, of: None,
) -> LatencyTable:
    """Measure a network's operators, and fit what they miss on whole networks.

    Args:
        network: its narrower copies are on the device, of the type and memory format of `conditions`.
        conditions: what is measured under; the caller has set the threads.
        name: of the network.
        versions: of what runs it.
        repeats: of which the median counts.
        choose: the narrower networks that are timed whole.
        seconds: for each of them.
        known: what an earlier run measured.
        save: called with an incomplete table now and then.
        progress: called with what is measured, how much is done, and how much there is.
    """
    device = torch.device(conditions.device)
    keep_freed_memory()
    example = example_batch(conditions, network.graph.example)
    calls = operator_calls(network, example)
    distinct = list({call.configuration: call for call in calls}.values())
    points: Points = known if known is not None else {}
    described = MeasuredNetwork(
        name=name,
        fingerprint=network.graph.fingerprint,
        input_shape=network.graph.input_shape,
        groups={group.name: group.size for group in network.graph.groups},
    )

    def table(
        grids: Sequence[Grid], operators: Sequence[OperatorEntry], end: EndToEnd | None
    ) -> LatencyTable:
        return LatencyTable(
            format="knapsack-prune-latency",
            version=1,
            conditions=conditions,
            versions=dict(versions),
            network=described,
            operators=tuple(operators),
            grids=tuple(grids),
            end_to_end=end,
            partial=None if end is not None else points,
        )

    def fill(wanted: Wanted, what: str, samples: int) -> None:
        _fill(distinct, wanted, points, device, samples, what, progress, lambda: save(table([], [], None)))

    rough = min(ROUGH, repeats)
    axes = _refined_axes(distinct, points, lambda wanted: fill(wanted, "where times step", rough))
    whole = {call.configuration: list(product(*axes[call.configuration])) for call in distinct}
    for samples in range(rough, repeats + 1):
        fill(whole, "grids", samples)
    places = {call.configuration: index for index, call in enumerate(distinct)}
    grids = [_grid(call.configuration, axes[call.configuration], points) for call in distinct]
    groups = [group.name for group in network.graph.groups]
    operators = [
        OperatorEntry(
            block=block,
            layer=call.layer,
            operator=call.name,
            grid=places[call.configuration],
            widths=tuple(_named(form, groups) for form in call.axes),
        )
        for call, block in zip(calls, calls_of_blocks(network, example, calls), strict=True)
    ]
    neutral = EndToEnd(factor=1, constant=0, parent=1, networks=())
    alone = table(grids, operators, neutral)
    end = fit_whole_networks(network, alone, example, choose(alone), seconds, progress)
    return table(grids, operators, end)


def example_batch(conditions: Conditions, example: Example) -> Example:
    """A batch as a table's conditions say."""
    dtype = getattr(torch, conditions.dtype)

    def prepare(leaf: Tensor) -> Tensor:
        moved = leaf.to(conditions.device, dtype if leaf.is_floating_point() else leaf.dtype)
        return moved.to(memory_format=_memory_format(conditions)) if moved.dim() == 4 else moved

    return example.batched(conditions.batch).map(prepare)


def prepared(model: nn.Module, conditions: Conditions) -> nn.Module:
    """A network moved to where a table's conditions say."""
    moved = model.to(device=conditions.device, dtype=getattr(torch, conditions.dtype))
    return moved.to(memory_format=_memory_format(conditions))


def _memory_format(conditions: Conditions) -> torch.memory_format:
    return torch.channels_last if conditions.memory_format == "channels_last" else torch.contiguous_format


def _refined_axes(
    calls: Sequence[OperatorCall],
    points: Points,
    fill: Callable[[Wanted], None],
) -> dict[str, list[list[int]]]:
    """Per configuration, the widths of each axis; the other axis is at its full width meanwhile."""
    axes = {call.configuration: [_start(whole) for whole in call.wholes] for call in calls}
    open_intervals = {
        (call.configuration, axis, low, high)
        for call in calls
        for axis in range(len(call.wholes))
        for low, high in pairwise(axes[call.configuration][axis])
    }
    wholes = {call.configuration: call.wholes for call in calls}

    def point(key: str, axis: int, width: int) -> tuple[int, ...]:
        return tuple(width if index == axis else whole for index, whole in enumerate(wholes[key]))

    while open_intervals:
        wanted: dict[str, list[tuple[int, ...]]] = {call.configuration: [] for call in calls}
        for key, axis, low, high in sorted(open_intervals):
            wanted[key] += [point(key, axis, width) for width in (low, (low + high) // 2, high)]
        fill(wanted)
        following = set()
        for key, axis, low, high in sorted(open_intervals):
            middle = (low + high) // 2
            finest = max(1, wholes[key][axis] // FINEST)
            if middle - low < finest or len(axes[key][axis]) >= MOST_POINTS:
                continue
            below, at, above = (
                statistics.median(points[key][_text(point(key, axis, w))]) for w in (low, middle, high)
            )
            line = below + (above - below) * (middle - low) / (high - low)
            if above > WORTHWHILE and abs(at - line) > DEVIATION * line:
                axes[key][axis] = sorted({*axes[key][axis], middle})
                following |= {(key, axis, low, middle), (key, axis, middle, high)}
        open_intervals = {entry for entry in following if len(axes[entry[0]][entry[1]]) < MOST_POINTS}
    return axes


def _start(whole: int) -> list[int]:
    """Eighths of a width in whole multiples of 8 where it is large, and one small width."""
    step = max(1, whole / PARTS)
    widths = {max(1, round(step * part)) for part in range(1, PARTS + 1)}
    if whole >= 8 * PARTS:
        widths = {max(8, round(width / 8) * 8) for width in widths}
    return sorted({max(1, whole // (2 * PARTS)), *(width for width in widths if width < whole), whole})


def _fill(
    calls: Sequence[OperatorCall],
    wanted: Wanted,
    points: Points,
    device: torch.device,
    samples: int,
    what: str,
    progress: Callable[[str, int, int], None],
    save: Callable[[], None],
) -> None:
    """Measure what is wanted until every point has its samples, in waves of one point per configuration."""
    waiting = {}
    for call in calls:
        have = points.setdefault(call.configuration, {})
        waiting[call.configuration] = [
            widths
            for widths in dict.fromkeys(wanted[call.configuration])
            if len(have.setdefault(_text(widths), [])) < samples
        ]
    total = sum(map(len, waiting.values()))
    done, saved = 0, time.monotonic()
    while any(waiting.values()):
        wave = [(call, waiting[call.configuration].pop()) for call in calls if waiting[call.configuration]]
        held = [points[call.configuration][_text(widths)] for call, widths in wave]
        repeats = samples - min(map(len, held))
        for known, taken in zip(held, _time_wave(wave, device, repeats), strict=True):
            known += taken[: samples - len(known)]
        done += len(wave)
        progress(what, done, total)
        if time.monotonic() - saved > 10:
            save()
            saved = time.monotonic()


def _time_wave(
    wave: Sequence[tuple[OperatorCall, tuple[int, ...]]], device: torch.device, repeats: int
) -> list[list[float]]:
    """Nanoseconds of each call, over passes through all of them; the first pass is not counted."""
    weights = [call.weights(widths, device) for call, widths in wave]
    timed = _time_on_gpu if device.type == "cuda" else _time_on_cpu
    taken: list[list[float]] = [[] for _ in wave]
    overhead = 0.0 if device.type == "cuda" else clock_overhead(clock_of(device))
    with torch.no_grad():
        for _ in range(repeats + 1):
            for (call, widths), held, times in zip(wave, weights, taken, strict=True):
                times.append(max(SHORTEST, timed(call, widths, held, device) - overhead))
    return [times[1:] for times in taken]


def _time_on_cpu(
    call: OperatorCall, widths: tuple[int, ...], weights: dict[int, Tensor], device: torch.device
) -> float:
    args, kwargs = call.arguments(widths, weights, device)
    clock = clock_of(device)
    start = clock()
    call.operator(*args, **kwargs)
    return float(clock() - start)


def _time_on_gpu(
    call: OperatorCall, widths: tuple[int, ...], weights: dict[int, Tensor], device: torch.device
) -> float:
    """Calls in a row between two events: whichever is slower, launching or running, is what a network waits for."""
    args, kwargs = call.arguments(widths, weights, device)
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    call.operator(*args, **kwargs)
    torch.cuda.synchronize(device)
    start.record()
    for _ in range(CALLS_PER_EVENT):
        call.operator(*args, **kwargs)
    end.record()
    torch.cuda.synchronize(device)
    return float(start.elapsed_time(end)) * 1e6 / CALLS_PER_EVENT


def _grid(configuration: str, axes: Sequence[Sequence[int]], points: Points) -> Grid:
    times = np.array([statistics.median(points[configuration][_text(widths)]) for widths in product(*axes)])
    nested = times.reshape([len(axis) for axis in axes]).round(1).tolist()
    return Grid(configuration=configuration, widths=tuple(map(tuple, axes)), nanoseconds=nested)


def _named(form: Form, groups: Sequence[str]) -> WidthForm:
    return WidthForm(
        constant=form.constant, weights={groups[group]: weight for group, weight in form.weights}
    )


def _text(widths: Sequence[int]) -> str:
    return ",".join(map(str, widths))
