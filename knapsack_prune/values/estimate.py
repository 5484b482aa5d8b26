"""Value tables by name: additive criteria and the models that predict what a cut costs."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import ChannelGraph
from knapsack_prune.networks.modes import one_thread
from knapsack_prune.settings.importance import LOSS_MODELS, VALUE_MODELS
from knapsack_prune.values.criteria import CRITERIA, score
from knapsack_prune.values.energy import energy_values
from knapsack_prune.values.fisher import joint_fisher
from knapsack_prune.values.losses import Batches, Loss
from knapsack_prune.values.measured import Measurements, measured_values
from knapsack_prune.values.reconstruction import reconstruction_values
from knapsack_prune.values.tables import ValueTables, additive_tables

MODELS = VALUE_MODELS
"""Models of what a cut costs. `energy` needs weights alone; the others count in units of the loss."""

PAIRED = ("joint_fisher", "measured")


def estimate_values(
    graph: ChannelGraph,
    model: nn.Module,
    method: str = "measured",
    *,
    data: Batches | None = None,
    loss: Loss | None = None,
    normalize: str = "none",
    pair_values: bool = False,
    seed: int = 0,
    known: Measurements | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> ValueTables:
    """What keeping units is worth.

    Args:
        graph: the traced network.
        model: its weights; left as they are.
        method: one of `MODELS` or `CRITERIA`.
        data: batches; labels are read by the criteria that take a gradient, and by a `loss` that does.
        loss: for `MODELS` on images, what a cut costs; by default the divergence of the outputs from the parent's.
        normalize: for `CRITERIA`, see `score`.
        pair_values: for `joint_fisher` and `measured`, also values of `fisher.joined_groups`.
        seed: of everything drawn.
        known: for `measured`, measurements of a run that was stopped, extended in place.
        progress: called with what is done (cuts for `measured`, else examples) and the total where it is known.

    Raises:
        RequestError: unknown method, no data, or whatever the method refuses.
    """
    if loss is not None and method in (*MODELS, *CRITERIA) and method not in LOSS_MODELS:
        raise RequestError(f"`loss` with importance {method!r}: only {', '.join(LOSS_MODELS)} take one")
    if pair_values and method not in PAIRED:
        raise RequestError(
            f"`pair_values` with importance {method!r}: only {' and '.join(PAIRED)} have them; choose one, or leave "
            "it out"
        )
    if method in CRITERIA:
        counted = None if progress is None else (lambda done: progress(done, None))
        scores = score(graph, model, method, data=data, seed=seed, normalize=normalize, progress=counted)
        return additive_tables(graph, scores)
    if method not in MODELS:
        raise RequestError(f"unknown importance {method!r}; choose one of {', '.join((*MODELS, *CRITERIA))}")
    if normalize != "none":
        raise RequestError(
            f"`normalize` {normalize!r} with importance {method!r}: losses are compared as they are"
        )
    if method == "energy":
        return energy_values(graph, model, seed)
    if data is None:
        raise RequestError(
            f"importance {method!r} needs images: give `data`, or choose `energy`, which needs none"
        )
    with one_thread():
        if method == "measured":
            tables = measured_values(graph, model, data, loss=loss, seed=seed, known=known, progress=progress)
            if not pair_values:
                return tables
            orders = tuple(group.order for group in tables.groups)
            return joint_fisher(graph, model, data, orders=orders, loss=loss, seed=seed).with_pairs(
                graph, tables
            )
        examples = None if progress is None else (lambda done: progress(done, None))
        if method == "reconstruction":
            return reconstruction_values(graph, model, data, loss=loss, seed=seed, progress=examples)
        joint = joint_fisher(graph, model, data, loss=loss, seed=seed, progress=examples)
        return joint.with_pairs(graph, joint.tables) if pair_values else joint.tables
