"""Planning in one call: trace, value, solve; and, where that is asked for, try plans out and write the best."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from knapsack_prune.data import ImageSource, calibration_loader
from knapsack_prune.errors import RequestError
from knapsack_prune.networks.example import Example
from knapsack_prune.planning.plan_file import Plan
from knapsack_prune.planning.plan_parts import DataPart, SearchPart
from knapsack_prune.planning.planner import Planner, check_feasible
from knapsack_prune.planning.preparation import budget_limits, check_budgets, trace_to_plan, value_units
from knapsack_prune.planning.pricing import price_network
from knapsack_prune.search.candidates import rank_candidates
from knapsack_prune.search.images import SearchImages, search_images
from knapsack_prune.search.rounds import improve
from knapsack_prune.search.trials import Trials
from knapsack_prune.settings import PlanSettings
from knapsack_prune.settings.importance import IMAGE_CRITERIA, LOSS_MODELS
from knapsack_prune.values.losses import Batches, Loss, TaskLoss, as_loss
from knapsack_prune.values.tables import ValueTables
from knapsack_prune.values.task import Task


def plan(
    model: nn.Module,
    example: Any,
    settings: PlanSettings | None = None,
    *,
    submodule: str = "",
    data: ImageSource | Task | Batches | None = None,
    loss: Loss | TaskLoss | None = None,
    name: str | None = None,
    weights: str | None = None,
    **given: Any,
) -> Plan:
    """The plan that keeps the most importance under the budgets; of several that are tried, the one that loses least.

    Args:
        model: the trained parent; left as it was.
        example: what the network is called with: a tensor, a tuple of arguments, a mapping of keyword arguments, or
            an `Example`. Costs are those of this call.
        settings: what is asked for; at least one budget.
        submodule: the name of a part to plan instead of the whole network. FLOPs are the part's, parameters the
            network's; `slim` gives the whole network with the part slimmed.
        data: a dataset or a task, of which the settings say how many examples are read; or batches, all of which are,
            more than once. For the criteria and value models that read examples, and for `candidates` and `rounds`.
        loss: what a cut costs, for `measured`, `reconstruction` and `joint_fisher`, and by which plans that are tried
            out are judged: a function of output and target, or of output, the parent's output and the batch, to the
            mean loss; by default that of `data`, or the divergence (KL) to the parent's class scores. For criteria that
            take a gradient, what it is of; by default that of `data`, or the cross-entropy.
        name: the parent's name in the plan; the class name by default.
        weights: where its weights come from, for the plan.
        given: fields of `PlanSettings` by name, as in `flops_budget=0.3, importance="l1"`.

    Raises:
        RequestError: the request is wrong or cannot be met; the message says the remedy.
    """
    asked, example = PlanSettings.of(settings, **given), Example.of(example).within(model, submodule)
    check_budgets(asked.requested())
    criterion = asked.criterion(images=data is not None)
    source, images = data, None
    if isinstance(data, Task):
        data = data.sample(examples_read(asked), asked.seed, example)
    if asked.tries:
        images = search_images(require_images(asked, data), asked, example.input_shape)
    batches: Batches | None = None if isinstance(data, ImageSource) else data
    if images is not None:
        batches = images.values
    elif isinstance(data, ImageSource) and criterion in IMAGE_CRITERIA:
        batches = calibration_loader(data, asked.samples, asked.seed, asked.batch_size, example.input_shape)
    judge, valued_by = _losses(loss, source, asked, criterion, example)
    graph = trace_to_plan(model, example, asked)
    resources = price_network(graph, model, asked.requested(), table=asked.latency_table, force=asked.force)
    limits = budget_limits(graph, asked.requested(), resources)
    check_feasible(graph, limits, asked, resources)
    values = value_units(graph, model, asked, criterion, data=batches, loss=valued_by)
    planner = Planner(graph, limits, asked, resources, name or type(model).__name__, weights, model=model)
    found = find_plan(planner, model, values, asked, images, loss=judge)
    return found.model_copy(update={"data": DataPart.of(data)}) if isinstance(data, ImageSource) else found


def examples_read(settings: PlanSettings) -> int:
    """How many examples a plan reads of its data."""
    tried = settings.repair_samples + settings.held_out_samples if settings.tries else 0
    return settings.samples + tried


def _losses(
    given: Loss | TaskLoss | None, data: Any, settings: PlanSettings, criterion: str, example: Example
) -> tuple[Loss | None, Loss | None]:
    """What plans that are tried are judged by, and what values are of."""
    own = data.loss if given is None and isinstance(data, (ImageSource, Task)) else None
    if own is not None:
        judge = as_loss(own, example)
        return judge, judge if criterion in IMAGE_CRITERIA else None
    other = None if given is None else as_loss(given, example)
    return other, None if settings.tries and criterion not in LOSS_MODELS else other


def require_images(settings: PlanSettings, data: ImageSource | Batches | None) -> ImageSource | Batches:
    """The data; `RequestError` where plans are to be tried out and there is none."""
    if data is None:
        name = "candidates" if settings.candidates is not None else "rounds"
        raise RequestError(
            f"`{name}` {getattr(settings, name)}: plans are repaired and judged on images, and there are 0; give `data`"
        )
    return data


def find_plan(
    planner: Planner,
    model: nn.Module,
    values: ValueTables,
    settings: PlanSettings,
    images: SearchImages | None,
    *,
    loss: Loss | None = None,
    enter: Callable[[str], None] = lambda step: None,
    progress: Callable[[int, int | None], None] | None = None,
) -> Plan:
    """The plan of a network that is traced and valued; candidates come before rounds, which start from the best one.

    Args:
        planner: makes the plans.
        model: the parent; left as it was.
        values: of its units.
        settings: whether plans are tried out, and which.
        images: for that.
        loss: by which they are judged.
        enter: called with the name of every step.
        progress: as of `measured_values`.

    Raises:
        RequestError: the budgets cannot be met, there are not so many candidates, or a plan cannot be tried out.
    """
    if not settings.tries:
        enter("solving")
        return planner.best(values, explain=True)
    assert images is not None
    trials = Trials(model, images, loss, settings.seed, enter)
    ranking = rank_candidates(planner, values, settings, trials)
    plan = ranking.plan
    first = next(part for part in ranking.parts if part.rank == 1)
    rounds = improve(planner, model, values, plan, first.repaired_loss, settings, trials, progress)
    several = settings.candidates is not None
    search = SearchPart(
        loss="divergence" if loss is None else "user",
        repair_images=_count(images.repair),
        held_out_images=_count(images.held_out),
        candidates=ranking.parts if several else (),
        epochs=settings.candidate_epochs or 0,
        start_loss=first.repaired_loss if settings.rounds else None,
        rounds=rounds.parts,
    )
    return rounds.plan.model_copy(update={"search": search})


def _count(batches: Batches) -> int:
    return sum(len(batch[0] if isinstance(batch, (tuple, list)) else batch) for batch in batches)
