"""The default solver: Lagrangian bound by elimination, then exact search on the little that it leaves open.

1. Multipliers: minimise the dual function, first on a thinned set of levels, then on all (`dual`, `elimination`).
2. Primal: repair, fill and exchange from the relaxed problem's choices (`repair`).
3. Reduce: drop every level that the bound shows in no better choice (`survivors`).
4. Deepen: ask for a choice worth at least a threshold T just below the bound (`pareto`). Either one is found, then
   the best such is optimal; or there is none, then T - 1 is a new bound and T is lowered. The work depends on the
   distance from the bound to the optimum, not on the quality of the primal.
5. What is then still open goes to CP-SAT, with the best choice as hint, on the levels left.
"""

from __future__ import annotations

import numpy as np

from .cp_sat import solve_model
from .dual import Cuts, Dual, minimise
from .elimination import Relaxation, numbers
from .feasibility import cheap_choice, proof_of_infeasibility
from .instance import Instance, IntArray
from .network import Network, Structure, network, structure
from .ordering import Plan, plan
from .pareto import OutOfTimeError, Pareto
from .progress import Progress
from .repair import Repair
from .result import Result
from .survivors import TooManyError, allowed, survivors
import time, sys
DEBUG=False

THINNED = 20  # levels per group in the first, thinned pass


def run(instance: Instance, progress: Progress) -> Result:
    """Solve to proof, or as far as the limits allow; Ctrl-C ends the run with the best choice and bound so far."""
    why = proof_of_infeasibility(instance)
    if why:
        return progress.infeasible(why)
    try:
        return _Exact(instance, progress).run()
    except KeyboardInterrupt:
        progress.note("interrupted: the best choice and bound so far")
        return progress.result()


class _Exact:
    def __init__(self, instance: Instance, progress: Progress) -> None:
        self.instance, self.progress = instance, progress
        self.repair = Repair(instance)
        self.structure: Structure = structure(instance)

    def log(self, *x):
        if DEBUG: print("   %.3f"%self.progress.seconds, *x, self.progress.value, self.progress.bound, "%.2e"%((self.progress.bound-(self.progress.value or 0))/self.progress.bound))

    def run(self) -> Result:
        progress = self.progress
        start = cheap_choice(self.instance)
        if start is not None:
            progress.offer(start.tolist())
        self.repair.improve(np.array([g.values.argmax() for g in self.instance.groups]), progress, 0)
        if progress.closed:
            return progress.result()
        self.log("start")
        cuts = self._thinned()
        self.log("thinned")
        full = network(self.structure)
        order = plan(full)
        self.log("plan", "%.2e"%order.work, len(order.loose), full.relaxed)
        dual = minimise(full, order, cuts, progress, rounds=30, tolerance=1e-8)
        if dual is not None:
            self.log("dual", len(dual.choices), dual.multipliers)
            for choice in dual.choices[-3:]:
                self.repair.improve(choice, progress)
            self.log("primal")
            full, order, dual = self._reduce(full, order, dual)
            if dual is not None and not progress.closed:
                self._deepen(full, order, dual)
        if not progress.closed and progress.remaining > 0:
            self.log("cpsat")
        return progress.result()

    def _thinned(self) -> Cuts:
        """Cuts and a first primal from a restriction to few levels per group."""
        cuts = Cuts()
        positions = [
            np.unique(np.linspace(0, g.levels.size - 1, min(THINNED, g.levels.size)).astype(np.int64))
            for g in self.instance.groups
        ]
        thin = network(self.structure, positions)
        order = plan(thin)
        dual = minimise(thin, order, cuts, self.progress, rounds=60, tolerance=1e-6, proves=False)
        if dual is not None:
            for choice in dual.choices[-2:]:
                self.repair.improve(choice, self.progress, 3)
        return cuts

    def _reduce(self, net: Network, order: Plan, dual: Dual) -> tuple[Network, Plan, Dual | None]:
        """Drop levels while that pays, re-optimising multipliers and primal in between."""
        progress = self.progress
        for _ in range(6):
            if progress.value is None or progress.closed or progress.remaining <= 0:
                break
            before = sum(p.size for p in net.positions)
            relaxation = dual.relaxation
            try:
                rows = survivors([relaxation], [relaxation.scale * (progress.value + 1)])
            except TooManyError:
                self.log("reduce: too many")
                break
            if any(r.key.size == 0 for r in rows):
                progress.prove(progress.value)
                break
            positions, sums = allowed(net, rows)
            net = network(self.structure, positions, sums)
            after = sum(p.size for p in net.positions)
            self.log("reduce", before, after, "rows", sum(r.key.size for r in rows))
            order = plan(net)
            found = minimise(net, order, Cuts(), progress, rounds=30, tolerance=1e-10, floor=progress.value)
            if found is None:
                return net, order, None
            dual = found
            self.log("dual", len(dual.choices))
            better = False
            for choice in dual.choices[-3:]:
                better |= self.repair.improve(choice, progress)
            if not better and after > 0.9 * before:
                break
        return net, order, dual

    def _deepen(self, net: Network, order: Plan, dual: Dual) -> None:
        progress = self.progress
        step = None
        while not progress.closed and progress.remaining > 0:
            assert progress.value is not None
            gap = progress.bound - progress.value
            step = max(1, gap // 256) if step is None else min(step * 4, gap)
            threshold = progress.bound - step + 1
            try:
                found = self._search(net, order, dual, threshold)
            except TooManyError:
                self.log("deepen: too many")
                return
            except OutOfTimeError:
                return
            if found is None:
                progress.prove(max(threshold - 1, progress.value))
            else:
                progress.offer(found)
                assert progress.value is not None
                progress.prove(progress.value)
            self.log("deepen", step, found is not None)

    def _search(self, net: Network, order: Plan, dual: Dual, threshold: int) -> tuple[int, ...] | None:
        """The best choice worth the threshold, or None when there is none."""
        relaxation = dual.relaxation
        rows = survivors([relaxation], [relaxation.scale * threshold])
        if any(r.key.size == 0 for r in rows):
            return None
        positions, sums = allowed(net, rows)
        net = network(self.structure, positions, sums)
        order = plan(net)
        relaxations = [Relaxation(net, order, relaxation.numerators, relaxation.scale)]
        for factor in (0.85, 0.95, 0.98, 0.995, 1.005, 1.02, 1.05, 1.15):
            numerators, scale = numbers(net, [m * factor for m in dual.multipliers])
            relaxations.append(Relaxation(net, order, numerators, scale))
        thresholds = [r.scale * threshold for r in relaxations]
        rows = survivors(relaxations, thresholds)
        if any(r.key.size == 0 for r in rows):
            return None
        search = Pareto(relaxations, thresholds, rows, self.progress)
        found = search.run()
        self.log("  search", sum(p.size for p in net.positions), "rows", sum(r.key.size for r in rows), "peak", search.peak)
        return found
