"""The default solver: Lagrangian bound by elimination, then exact search on the little that it leaves open.

0. Where no cost ties groups, the lists of `dp` mostly prove the optimum at once. Else:
1. Multipliers: minimise the dual function, first on a thinned set of levels, then on all (`dual`,
   `elimination`).
2. Primal: repair, fill and exchange from the relaxed problem's choices (`repair`).
3. Reduce: drop every level that the bound shows in no better choice (`survivors`).
4. Deepen: ask for a choice worth at least a threshold T just below the bound (`pareto`). Either one is found,
   then
   the best such is optimal; or there is none, then T - 1 is a new bound and T is lowered. The work depends on
   the distance from the bound to the optimum, not on the quality of the primal.
5. Branch, where the bound stays apart from the optimum because a stream's width makes the problem non-convex: split
   the levels of a much tied group between the relaxed choices that mix at the best multipliers, with multipliers
   of its own for each part, the best bound first.
6. What is then still open goes to CP-SAT, with the best choice as hint, on the levels left (`core`).
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass

import numpy as np

from .core import solve_core
from .dp import solve_linear
from .dual import Cuts, Dual, minimise
from .elimination import Relaxation, most_costs, numbers
from .errors import SolverError
from .feasibility import cheap_choice, over_budget, proof_of_infeasibility
from .instance import Instance, IntArray
from .lift import bendable, between, grids, lifted
from .linear import linear_costs
from .network import MOST_SUMS, Network, network, structure
from .ordering import Plan, plan
from .pareto import Pareto
from .progress import OutOfTimeError, Progress
from .repair import Repair
from .result import Result
from .survivors import TooManyError, allowed, survivors

POINTS = 8  # levels per group in the first grid; the next ones have twice as many
FIRST_SUMS = 2000  # values per partial sum there
FIRST_STEP = 128  # the first threshold lies this fraction of the gap below the bound
BEAM = 20_000  # partial assignments kept when the lists grow too long
MISSES = 2  # searches given up before branching takes over
CLOSE = 4  # a node is searched when its gap is this many times smaller than the first
PROBE = 0.4  # of the time left is for a first try of CP-SAT
MOST_PROBED = 1200  # levels
BRANCHING = 0.4  # of the time left is for branching, the rest for CP-SAT


def run(instance: Instance, progress: Progress) -> Result:
    """Solve to proof, or as far as the limits allow; Ctrl-C ends the run with the best choice and bound so
    far.
    """
    why: str | None = None
    try:
        why = proof_of_infeasibility(instance)
        if why:
            return progress.infeasible(why)
        start = cheap_choice(instance)
        if start is not None:
            progress.offer(start.tolist())
        why = _solve_separate(instance, progress)
        if not why and not progress.closed:
            why = _Exact(instance, progress).run()
    except OutOfTimeError:
        pass
    except KeyboardInterrupt:
        progress.note("interrupted: this is the best choice and bound until then")
    return progress.infeasible(why) if why else progress.result()


def _solve_separate(instance: Instance, progress: Progress) -> str | None:
    """Where no cost ties groups, dynamic programming is the better way; it may give up, but loses nothing.

    Returns why the instance is infeasible, where it is found to be.
    """
    try:
        linear = linear_costs(instance, "exact")
    except SolverError:
        return None
    try:
        return solve_linear(instance, linear, progress)
    except OutOfTimeError:
        progress.check()
    return None


@dataclass
class _Stage:
    """A network that holds every choice better than the best, an order for it, and its best relaxation."""

    network: Network
    plan: Plan
    dual: Dual

    @property
    def levels(self) -> int:
        return sum(p.size for p in self.network.positions)

    @property
    def exact(self) -> bool:
        return not (self.network.relaxed or self.plan.loose)


class _Exact:
    def __init__(self, instance: Instance, progress: Progress) -> None:
        self.instance, self.progress = instance, progress
        self.repair = Repair(instance)
        self.structure = structure(instance)
        # Below every choice's value: the threshold of last resort while no choice is known.
        self.bottom = sum(int(g.values.min()) for g in instance.groups) - 1

    def run(self) -> str | None:
        """Why the instance is infeasible; None when it is not, or not known to be."""
        progress = self.progress
        why = self._start()
        if why or progress.closed:
            return why
        stage = self._approach()
        if stage is not None and not progress.closed:
            stage = self._reduce(stage)
            if not progress.closed and self._is_split(stage):
                self._branch(stage)
                self._probe(stage)
            if not progress.closed:
                why = self._deepen(stage)
            if not why and not progress.closed:
                self._branch(stage)
        if not why and not progress.closed:
            progress.check()
            everything = [np.arange(g.levels.size) for g in self.instance.groups]
            positions = everything if stage is None else stage.network.positions
            if solve_core(positions, progress) and progress.value is None:
                why = "no choice is within every budget at once (proved by CP-SAT on what the bound leaves)"
        return why

    @property
    def value(self) -> int:
        return self.bottom if self.progress.value is None else self.progress.value

    def _weak(self, net: Network, order: Plan) -> None:
        """Say so when the bound starts out weaker than the full relaxation's."""
        if net.relaxed:
            self.progress.note(
                "partial sums have too many values: rounded down, which weakens the first bounds"
            )
        if order.loose:
            count = len(order.loose)
            self.progress.note(
                f"ties are too wide for tables: {count} products bounded linearly, a weaker first bound"
            )

    def _start(self) -> str | None:
        """A first choice; or a proof that one resource alone cannot be met, where tables hide it."""
        progress = self.progress
        if progress.value is None and max(most_costs(self.instance), default=0) < 2**59:
            full = network(self.structure)
            order = plan(full)
            for r, resource in enumerate(self.instance.resources):
                prices = [int(r == k) for k in range(len(self.instance.resources))]
                cheapest = Relaxation(full, order, prices, 0, progress.check)
                if cheapest.total < 0:
                    least = resource.budget - cheapest.total
                    return over_budget(resource, least)
                self.repair.improve(cheapest.choice(), progress, 0)
        highest = np.array([g.values.argmax() for g in self.instance.groups], dtype=np.int64)
        if (self.repair.evaluator.costs(highest) <= self.repair.evaluator.budgets).all():
            progress.offer(highest.tolist())
        return None

    def _approach(self) -> _Stage | None:
        """Grids over what survives, until they hold every level that does; None when numbers are too large."""
        progress = self.progress
        groups = self.instance.groups
        free = bendable(self.instance)
        left: list[IntArray] = [np.arange(g.levels.size) for g in groups]
        start: list[float] | None = None
        points = POINTS
        while True:
            thinned = grids(
                [g.levels[p] for g, p in zip(groups, left, strict=True)],
                [g.values[p] for g, p in zip(groups, left, strict=True)],
                points,
            )
            kept = [t if f else np.arange(p.size) for t, p, f in zip(thinned, left, free, strict=True)]
            values = [lifted(g.levels[p], g.values[p], k) for g, p, k in zip(groups, left, kept, strict=True)]
            # Partial sums are rounded down on the first grid, which only has to tell where to look.
            positions = [p[k] for p, k in zip(left, kept, strict=True)]
            sums = MOST_SUMS if start else FIRST_SUMS
            net = network(self.structure, positions, values=values, most_sums=sums)
            whole = all(k.size == p.size for k, p in zip(kept, left, strict=True))
            whole = whole and not (net.relaxed and sums < MOST_SUMS)
            order = plan(net)
            if start or whole:
                self._weak(net, order)
            # Bounds hold for what is better than the best choice: what is worse may have been dropped.
            floor = None if not start else self.value
            tolerance = 1e-9 if whole else 1e-5
            dual = minimise(
                net, order, Cuts(), progress, floor=floor, start=start, tolerance=tolerance, rounds=60
            )
            if dual is None:
                return None
            stage = _Stage(net, order, dual)
            self._polish(stage, 30 if whole else 5)
            start = dual.multipliers
            if whole or progress.closed:
                return stage
            progress.check()
            before = sum(p.size for p in left)
            try:
                if net.relaxed and sums < MOST_SUMS:
                    raise TooManyError  # nothing sharp enough yet to drop levels by
                rows = survivors([dual.relaxation], [dual.relaxation.scale * (self.value + 1)])
            except TooManyError:
                rows = []
            for found in rows:
                for v in found.out:
                    if v < len(groups):
                        left[v] = left[v][between(kept[v], np.unique(found.at[v]), left[v].size)]
            if any(p.size == 0 for p in left):
                progress.prove(self.value)
                return stage
            if points == POINTS or sum(p.size for p in left) > 0.6 * before:
                points *= 2

    def _polish(self, stage: _Stage, exchanges: int) -> bool:
        better = False
        for choice in stage.dual.choices[-3:]:
            better |= self.repair.improve(choice, self.progress, exchanges)
        return better

    def _narrow(self, stage: _Stage, threshold: int) -> Network | None:
        """The network of what can still be worth the threshold; None when nothing can."""
        relaxation = stage.dual.relaxation
        rows = survivors([relaxation], [relaxation.scale * threshold])
        if any(r.key.size == 0 for r in rows):
            return None
        positions, sums = allowed(stage.network, rows)
        return network(self.structure, positions, sums)

    def _reduce(self, stage: _Stage) -> _Stage:
        """Drop levels while that pays, re-optimising multipliers and primal in between."""
        progress = self.progress
        settled = True  # whether the multipliers are the best of this very network
        while not progress.closed:
            progress.check()
            before = stage.levels
            try:
                narrowed = self._narrow(stage, self.value + 1)
            except TooManyError:
                narrowed = stage.network
            if narrowed is None:
                progress.prove(self.value)
                break
            fresh = sum(p.size for p in narrowed.positions) < 0.9 * before
            if not fresh:
                if settled:
                    break
                narrowed = stage.network
            order = plan(narrowed) if fresh else stage.plan
            start = stage.dual.multipliers
            dual = minimise(narrowed, order, Cuts(), progress, rounds=40, floor=self.value, start=start)
            if dual is None:
                break
            settled = True
            stage = _Stage(narrowed, order, dual)
            self._polish(stage, 30)
        return stage

    def _deepen(self, stage: _Stage) -> str | None:
        """Lower the threshold from the bound until a choice is found; see step 4 of the module's text."""
        progress = self.progress
        step, misses = 0, 0
        while not progress.closed and misses < MISSES:
            progress.check()
            gap = progress.bound - self.value
            step = max(1, gap // FIRST_STEP) if step == 0 else max(1, min(step, gap))
            threshold = progress.bound - step + 1
            try:
                found = self._search(stage, threshold)
            except TooManyError:
                misses += 1
                step = max(1, step // 3)
                if misses == 1 and self._beam(stage):
                    step = 0
                continue
            step *= 4 if len(self.instance.resources) < 2 else 2
            if found is not None:
                progress.offer(found)
                progress.prove(self.value)
            elif threshold <= self.bottom + 1:
                return "no choice is within every budget at once (every combination is ruled out)"
            else:
                progress.prove(max(threshold - 1, self.value))
        return None

    def _is_split(self, stage: _Stage) -> bool:
        """Whether the bound stays so far off that searching for the optimum below it is hopeless."""
        gap = self.progress.bound - self.value
        return gap > 1e-3 * abs(self.progress.bound) and stage.levels > 300

    def _probe(self, stage: _Stage) -> None:
        """A short run of CP-SAT: where few levels are left it is at times far quicker than any branching."""
        if stage.levels <= MOST_PROBED and self.progress.value is not None and not self.progress.closed:
            solve_core(stage.network.positions, self.progress, PROBE)

    def _branch(self, stage: _Stage) -> None:
        """Best-first branch and bound; see step 5 of the module's text."""
        progress = self.progress
        if progress.closed:
            return
        until = progress.seconds + BRANCHING * progress.remaining
        ties = [0] * len(self.structure.instance.groups)
        for pair in self.structure.pairs:
            for v in pair:
                if v < len(ties):
                    ties[v] += 1
        counter = 0
        bound = progress.bound
        nodes: list[tuple[int, int, _Stage]] = [(-bound, 0, stage)]
        while nodes and progress.seconds < until:
            progress.check()
            bound = -nodes[0][0]
            progress.prove(max(bound, self.value))
            if bound <= self.value:
                break
            node = heapq.heappop(nodes)[2]
            sizes = [p.size for p in node.network.positions]
            open_ = [g for g, size in enumerate(sizes) if size > 1]
            if not open_:
                # One choice: it was offered when its relaxation was solved, or it is infeasible.
                progress.offer([int(p[0]) for p in node.network.positions])
                continue
            mixed = node.dual.mixed()
            low, high = mixed.min(axis=0), mixed.max(axis=0)
            spread = {g: int(np.ptp(np.searchsorted(node.network.positions[g], mixed[:, g]))) for g in open_}
            group = max(open_, key=lambda g: ((ties[g] + 1) * spread[g] / sizes[g], sizes[g], -g))
            at = int(np.searchsorted(node.network.positions[group], (low[group] + high[group] + 1) // 2))
            cut = min(max(at, 1), sizes[group] - 1)
            for part in (slice(0, cut), slice(cut, None)):
                positions = list(node.network.positions)
                positions[group] = positions[group][part]
                child = self._child(node, positions)
                if child is None or child.dual.relaxation.bound <= self.value:
                    continue
                own = min(bound, child.dual.relaxation.bound)
                if CLOSE * (own - self.value) > stage.dual.relaxation.bound - self.value:
                    counter += 1
                    heapq.heappush(nodes, (-own, counter, child))
                    continue
                try:
                    found = self._search(child, self.value + 1)
                except TooManyError:
                    counter += 1
                    heapq.heappush(nodes, (-own, counter, child))
                else:
                    if found is not None:
                        progress.offer(found)
        if not nodes and progress.seconds < until:
            progress.prove(self.value)

    def _child(self, node: _Stage, positions: list[IntArray]) -> _Stage | None:
        """A part of a node with multipliers of its own, reduced; None when it holds nothing better."""
        net = network(self.structure, positions)
        if any(d.size == 0 for d in net.domains):
            return None
        order = plan(net)
        start = node.dual.multipliers
        dual = minimise(
            net, order, Cuts(), self.progress, rounds=25, tolerance=1e-8, proves=False, start=start
        )
        if dual is None:
            raise OutOfTimeError  # numbers do not change from node to node: only the time can end this
        stage = _Stage(net, order, dual)
        if dual.relaxation.bound <= self.value:
            return stage
        self._polish(stage, 3)
        try:
            narrowed = self._narrow(stage, self.value + 1)
        except TooManyError:
            return stage
        if narrowed is None:
            return None
        order = plan(narrowed)
        again = minimise(
            narrowed,
            order,
            Cuts(),
            self.progress,
            rounds=25,
            tolerance=1e-8,
            proves=False,
            start=dual.multipliers,
        )
        return stage if again is None else _Stage(narrowed, order, again)

    def _beam(self, stage: _Stage) -> bool:
        """A better choice by the search cut off at a number of partial assignments; whether one was found."""
        try:
            found = self._search(stage, self.value + 1, BEAM)
        except TooManyError:
            return False
        return found is not None and self.progress.offer(found)

    def _search(self, stage: _Stage, threshold: int, beam: int | None = None) -> tuple[int, ...] | None:
        """The best choice worth the threshold (with a beam, a good one), or None when there is none."""
        narrowed = self._narrow(stage, threshold)
        if narrowed is None:
            return None
        order = plan(narrowed)
        if narrowed.relaxed or order.loose:
            raise TooManyError
        relaxations = self._around(stage.dual, narrowed, order)
        thresholds = [r.scale * threshold for r in relaxations]
        rows = survivors(relaxations, thresholds)
        if any(r.key.size == 0 for r in rows):
            return None
        found = Pareto(relaxations, thresholds, rows, self.progress, beam=beam).run()
        if found is not None and self.instance.value(found) < threshold:
            # Its bound passed, its value does not: a choice like any other, and nothing is worth the threshold.
            self.progress.offer(found)
            return None
        return found

    def _around(self, dual: Dual, net: Network, order: Plan) -> list[Relaxation]:
        """The best relaxation again on this network, and some with multipliers around its own.

        A partial assignment far from the budget's share it should take is cut off by a steeper or a flatter
        price.
        """
        best, count = dual.relaxation, len(dual.multipliers)
        points = [best.numerators]
        scales = [best.scale]
        factors = [[f] * count for f in (0.8, 0.93, 0.98, 1.02, 1.07, 1.2)]
        if count > 1:
            factors += [
                [f if r == k else 1.0 for r in range(count)] for k in range(count) for f in (0.9, 1.1)
            ]
        for factor in factors:
            numerators, scale = numbers(net, [m * f for m, f in zip(dual.multipliers, factor, strict=True)])
            if scale >= 4:
                points.append(numerators)
                scales.append(scale)
        return [
            Relaxation(net, order, p, s, self.progress.check) for p, s in zip(points, scales, strict=True)
        ]
