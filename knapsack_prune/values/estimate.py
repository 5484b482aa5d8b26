"""Value tables by name: additive criteria and the models that predict what a cut costs."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import ChannelGraph
from knapsack_prune.networks.modes import one_thread
from knapsack_prune.settings.importance import VALUE_MODELS
from knapsack_prune.values.criteria import CRITERIA, score
from knapsack_prune.values.energy import energy_values
from knapsack_prune.values.fisher import joint_fisher
from knapsack_prune.values.losses import Batches, Loss
from knapsack_prune.values.measured import Measurements, measured_values
from knapsack_prune.values.reconstruction import reconstruction_values
from knapsack_prune.values.tables import ValueTables, additive_tables

MODELS = VALUE_MODELS
"""Models of what a cut costs. `energy` needs weights alone; the others count in units of the loss."""


def estimate_values(
    graph: ChannelGraph,
    model: nn.Module,
    method: str = "measured",
    *,
    data: Batches | None = None,
    loss: Loss | None = None,
    normalize: str = "none",
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
        seed: of everything drawn.
        known: for `measured`, measurements of a run that was stopped, extended in place.
        progress: called with what is done (cuts for `measured`, else examples) and the total where it is known.

    Raises:
        RequestError: unknown method, no data, or whatever the method refuses.
    """
    if loss is not None and (method in CRITERIA or method == "energy"):
        raise RequestError(f"`loss` with importance {method!r}: only {', '.join(MODELS[:-1])} take one")
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
            return measured_values(graph, model, data, loss=loss, seed=seed, known=known, progress=progress)
        examples = None if progress is None else (lambda done: progress(done, None))
        if method == "reconstruction":
            return reconstruction_values(graph, model, data, loss=loss, seed=seed, progress=examples)
        return joint_fisher(graph, model, data, loss=loss, seed=seed, progress=examples).tables
