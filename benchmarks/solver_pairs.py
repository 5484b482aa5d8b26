"""Whether `exact` proves real instances with values of pairs of groups inside residual blocks: a table in Markdown.

    python benchmarks/solver_pairs.py -o benchmarks/results/solvers/pairs.md
    python benchmarks/solver_pairs.py --families cifar_resnet20 --round-to 8 --time-limit 60

The networks' own instances have no such values, so they are made here: two groups that a convolution joins (one in its
input, one in its output; a padded stream has several) get a table over both. With the share d of its value that a group
loses by a cut, the pair gains or loses `strength * smaller value * (d_a d_b)^0.75`, smooth and curved. `worse`
(cutting both costs more than the two cuts apart) is what one expects of the two sides of a residual block; `better` and
`rough` (`worse`, every entry times a seeded factor of 0.8 to 1.2) are there because no solver may rely on that. Each
instance is also solved without the tables, and that answer's value is compared on the values with them.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
from pathlib import Path

import numpy as np

from solvers import Instance, Limits, PairValues, Status, solve

INSTANCES = Path(__file__).parent / "instances"
FAMILIES = ("cifar_resnet20", "resnet50", "mobilenet_v2")
BUDGETS = (20, 35, 50, 70)
KINDS = ("worse", "better", "rough")
STRENGTH = 0.5


def joined_pairs(instance: Instance, across: bool) -> list[tuple[int, int]]:
    """Pairs of different groups of several levels on the two sides of a product of a resource.

    With `across`, also groups that follow each other, which joins the blocks of a stage in a chain.
    """
    sides = (
        pair
        for resource in instance.resources
        for term in resource.terms
        if len(term.factors) == 2
        for pair in itertools.product(*(f.groups for f in term.factors))
    )
    several = {g for g, group in enumerate(instance.groups) if group.levels.size > 1}
    chain = itertools.pairwise(sorted(several)) if across else ()
    return sorted({(min(p), max(p)) for p in (*sides, *chain) if p[0] != p[1] and several.issuperset(p)})


def with_pairs(instance: Instance, kind: str, across: bool = False, seed: int = 0) -> Instance:
    """The instance with one table for each of `joined_pairs`; see the module's text for the kinds."""
    random = np.random.default_rng(seed)
    tables = []
    for pair in joined_pairs(instance, across):
        values = [instance.groups[g].values for g in pair]
        lost = [1.0 - v / max(1, int(v.max())) for v in values]
        smaller = min(int(v.max()) for v in values)
        table = STRENGTH * smaller * np.outer(*lost) ** 0.75 * (1.0 if kind == "better" else -1.0)
        if kind == "rough":
            table *= random.uniform(0.8, 1.2, table.shape)
        tables.append(PairValues(pair, np.rint(table).astype(np.int64)))
    return Instance(
        f"{instance.name}-pairs-{kind}", instance.groups, instance.resources, instance.value_scale, tables
    )


def row(path: Path, kind: str, across: bool, limits: Limits) -> tuple[str, bool] | None:
    """A line of the table, and whether the optimum was proved; None for an infeasible instance."""
    plain = Instance.load(path)
    instance = with_pairs(plain, kind, across)
    before, after = solve(plain, "exact", limits), solve(instance, "exact", limits)
    if after.status is Status.INFEASIBLE:
        return None
    cells = [path.name.split(".json")[0], kind, str(len(instance.pair_values))]
    cells += [str(sum(p.values.size for p in instance.pair_values)), after.status.value]
    cells += [f"{after.gap:.1e}" if after.gap else "0", f"{after.seconds:.2f}", f"{before.seconds:.2f}"]
    gained = (after.value or 0) - instance.value(before.choice)
    cells.append(f"{100 * gained / max(1, abs(after.value or 0)):.3f} %")
    return f"| {' | '.join(cells)} |", after.status is Status.OPTIMAL


def main() -> None:
    """Solve all, print the rows, write the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("-o", "--output", type=Path)
    parser.add_argument("--families", nargs="+", default=FAMILIES)
    parser.add_argument("--round-to", nargs="+", type=int, default=[1, 8, 32])
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--across", action="store_true", help="join the blocks of a stage, too")
    parser.add_argument("--time-limit", type=float, default=10.0)
    options = parser.parse_args()
    limits = Limits(options.time_limit, 0, 1)
    rows, proofs = [], []
    for family in options.families:
        for round_to in options.round_to:
            for budget in BUDGETS:
                for kind in options.kinds:
                    path = INSTANCES / f"{family}-f{budget}-r{round_to}.json.xz"
                    answer = row(path, kind, options.across, limits)
                    if answer is not None:
                        print(answer[0], flush=True)
                        rows.append(answer[0])
                        proofs.append(answer[1])
    lines = [
        "# Values of pairs of groups: what `exact` proves",
        "",
        f"{options.time_limit:g} s and one thread a run, {os.cpu_count()}-core {platform.machine()}, "
        f"Python {platform.python_version()}. Made tables over the two sides of every convolution that joins groups"
        f"{', and over groups that follow each other' if options.across else ''}, strength {STRENGTH:g} "
        f"(`benchmarks/solver_pairs.py` says how). **{sum(proofs)} of {len(proofs)} feasible instances proved.** "
        "`gained`: by the optimum over the plain instance's answer, on the values with pairs; infeasible ones are left "
        "out.",
        "",
        "| instance | kind | tables | entries | status | gap | seconds | seconds without pairs | gained |",
        "|---|---|---|---|---|---|---|---|---|",
        *rows,
    ]
    if options.output is not None:
        options.output.write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
