"""From records to what is read: a table per solver and instance, and plots."""

import math
from io import BytesIO
from pathlib import Path
from typing import Any

from ..io.files import write_bytes, write_text
from .measures import best_values, gap_at, primal_integrals, profile, shifted_geometric_mean, time_to_proof
from .records import Record, write_csv

SHIFT_SECONDS = 1.0
SHIFT_GAP = 1e-4
VIRTUAL = "virtual best"
HEADINGS = (
    "| solver | runs | proved | within 0.01 % | seconds | median s | gap | largest gap | primal integral | lost |",
    "|---" * 10 + "|",
)
MEANS = (
    f"Means are geometric, shifted by {SHIFT_SECONDS:g} s and {SHIFT_GAP:g}; a run without a proof counts with its "
    "time limit, one without a choice with a gap of 1. `lost` is the mean value lost against the best known."
)


def write_summary(records: list[Record], output: Path) -> str:
    """Write `runs.csv` and `summary.md`; returns the summary's text."""
    best = best_values(records)
    integrals = primal_integrals(records, best)
    write_csv(output / "runs.csv", records, integrals)
    taken = [r for r in records if not r.error]
    solvers = list(dict.fromkeys(r.solver for r in records))
    instances = list(dict.fromkeys(r.instance for r in records))
    lines = [
        f"# {len(instances)} instances, {len(solvers)} solvers",
        "",
        _conditions(records),
        "",
        MEANS,
        "",
        *HEADINGS,
    ]
    for solver in solvers:
        runs = [r for r in taken if r.solver == solver]
        lines.append(_row(solver, runs, best, [integrals[r.key] for r in runs]))
    if len(solvers) > 1 and taken:
        lines.append(_virtual(taken, instances))
    refused = [r for r in records if r.error]
    if refused:
        lines += ["", f"{len(refused)} runs were refused, e.g. {refused[0].instance}: {refused[0].error}"]
    open_ = [r for r in taken if not r.proved and r.solver == solvers[0]]
    if open_:
        lines += ["", f"Not proved by `{solvers[0]}`:", ""]
        lines += ["| instance | status | gap | seconds |", "|---|---|---|---|"]
        lines += [f"| {r.instance} | {r.status} | {_gap(r.gap)} | {r.seconds:.2f} |" for r in open_]
    text = "\n".join(lines) + "\n"
    write_text(output / "summary.md", text)
    return text


def _conditions(records: list[Record]) -> str:
    machines = sorted({r.machine for r in records})
    limits = sorted({(r.time_limit, r.threads) for r in records})
    told = "; ".join(f"{s:g} s and {t} threads a run" for s, t in limits)
    versions = sorted({r.version for r in records if r.version})
    return f"Machine: {'; '.join(machines)}. Limits: {told}. Versions: {'; '.join(versions)}."


def _row(solver: str, runs: list[Record], best: dict[str, int], integrals: list[float | None]) -> str:
    if not runs:
        return f"| {solver} | 0 | | | | | | | | |"
    seconds = [r.seconds if r.proved else r.time_limit for r in runs]
    gaps = [0.0 if r.proved else 1.0 if r.gap is None else r.gap for r in runs]
    lost = [
        (best[r.instance] - r.value) / max(1, abs(best[r.instance]))
        for r in runs
        if r.value is not None and r.instance in best
    ]
    areas = [a for a in integrals if a is not None]
    means = f"{sum(areas) / max(1, len(areas)):.4f} | {_gap(sum(lost) / max(1, len(lost)))}"
    return _cells(solver, seconds, gaps, sum(r.proved for r in runs), means)


def _virtual(runs: list[Record], instances: list[str]) -> str:
    fastest, gaps = [], []
    for name in instances:
        mine = [r for r in runs if r.instance == name]
        if mine:
            proved = [r.seconds for r in mine if r.proved]
            fastest.append(min(proved) if proved else max(r.time_limit for r in mine))
            gaps.append(0.0 if proved else min(1.0 if r.gap is None else r.gap for r in mine))
    return _cells(VIRTUAL, fastest, gaps, sum(g == 0 for g in gaps), "|")


def _cells(label: str, seconds: list[float], gaps: list[float], proofs: int, means: str) -> str:
    count, near = len(gaps), sum(g <= 1e-4 for g in gaps)
    return (
        f"| {label} | {count} | {_share(proofs, count)} | {_share(near, count)} "
        f"| {shifted_geometric_mean(seconds, SHIFT_SECONDS):.3f} | {sorted(seconds)[count // 2]:.3f} "
        f"| {_gap(shifted_geometric_mean(gaps, SHIFT_GAP))} | {_gap(max(gaps))} | {means} |"
    )


def _share(part: int, whole: int) -> str:
    return f"{part} ({100 * part / max(1, whole):.1f} %)"


def _gap(gap: float | None) -> str:
    return "" if gap is None else "0" if gap < 1e-12 else f"{100 * gap:.2g} %"


def draw(records: list[Record], output: Path) -> list[Path]:
    """Write `profile.png` and `gap.png`."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    taken = [r for r in records if not r.error]
    solvers = list(dict.fromkeys(r.solver for r in taken))
    runs = {(r.solver, r.instance, r.seed): r for r in taken}
    cases = [
        (i, s)
        for i, s in dict.fromkeys((r.instance, r.seed) for r in taken)
        if all((name, i, s) in runs for name in solvers)
    ]
    paths = [output / "profile.png", output / "gap.png"]

    def finish(path: Path, title: str, **settings: Any) -> None:
        axes.set(xscale="log", title=f"{title}, {len(cases)} instances", **settings)
        axes.legend()
        axes.grid(alpha=0.3)
        drawn = BytesIO()
        pyplot.savefig(drawn, format="png", dpi=120, bbox_inches="tight")
        write_bytes(path, drawn.getvalue())
        pyplot.close()

    axes = pyplot.subplots(figsize=(7, 4.5))[1]
    factors = [10 ** (k / 20) for k in range(81)]
    times = {name: [time_to_proof(runs[name, i, s]) for i, s in cases] for name in solvers}
    for name, shares in profile(times, factors).items():
        axes.step(factors, shares, where="post", label=name)
    labels = {"xlabel": "factor of the fastest proof", "ylabel": "share of instances proved"}
    finish(paths[0], "Performance profile", ylim=(-0.02, 1.02), **labels)

    axes = pyplot.subplots(figsize=(7, 4.5))[1]
    limit = max((r.time_limit for r in taken), default=1.0)
    moments = [limit * 10 ** (k / 25 - 4) for k in range(101)]
    curves = {name: [[gap_at(runs[name, i, s], t) for i, s in cases] for t in moments] for name in solvers}
    if len(solvers) > 1 and cases:
        curves[VIRTUAL] = [
            [min(gaps) for gaps in zip(*rows, strict=True)] for rows in zip(*curves.values(), strict=True)
        ]
    for name, rows in curves.items():
        means = [max(1e-9, shifted_geometric_mean(row, 1e-9)) if row else math.nan for row in rows]
        axes.plot(moments, means, "k:" if name == VIRTUAL else "-", label=name)
    labels = {"xlabel": "seconds", "ylabel": "certified gap (geometric mean, shift 1e-9)"}
    finish(paths[1], "Gap over time", yscale="log", **labels)
    return paths
