"""The best plans that differ from each other, ranked by what their repaired networks lose on held-out images."""

from __future__ import annotations

from dataclasses import dataclass

from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.planning.plan_parts import CandidatePart
from knapsack_prune.planning.planner import Planner
from knapsack_prune.search.trials import Trials
from knapsack_prune.settings import SearchSettings
from knapsack_prune.values.tables import ValueTables


@dataclass(frozen=True, eq=False)
class Ranking:
    """All candidates in the order of their values, and the plan of the first by rank."""

    plan: Plan
    parts: tuple[CandidatePart, ...]


def rank_candidates(
    planner: Planner, values: ValueTables, settings: SearchSettings, trials: Trials
) -> Ranking:
    """Try the best plans out.

    Args:
        planner, values: what the plans are made from.
        settings: how many candidates, how far apart, and how long each is trained.
        trials: tries them out.

    Raises:
        RequestError: there are not so many plans, or what `Trials` refuses.
    """
    count = settings.candidates or 1
    trials.enter("solving for candidates")
    found = planner.several(values, count, settings.candidate_distance)
    tried = []
    for number, (plan, allocation) in enumerate(found, 1):
        what = f"candidate {number} of {count}"
        small, repaired = trials.repaired_loss(plan, what)
        epochs = settings.candidate_epochs
        trained = trials.trained_loss(small, plan, epochs, what) if epochs else None
        tried.append(
            CandidatePart(
                rank=number,
                value=plan.solver.value,
                proved=allocation.best_left,
                predicted_loss=plan.importance.predicted_loss,
                repaired_loss=repaired,
                trained_loss=trained,
                widths=allocation.counts,
            )
        )
    order = sorted(range(count), key=lambda index: tried[index].outcome)
    parts = tuple(
        part.model_copy(update={"rank": order.index(index) + 1}) for index, part in enumerate(tried)
    )
    return Ranking(found[order[0]][0], parts)
