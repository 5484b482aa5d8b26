"""Value tables by name: additive criteria and the models that predict what a cut costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from torch import nn

from knapsack_prune.errors import RequestError
from knapsack_prune.graph.channel_graph import ChannelGraph
from knapsack_prune.networks.modes import one_thread
from knapsack_prune.settings.importance import DATA_CRITERIA, IMAGE_CRITERIA, LOSS_MODELS, VALUE_MODELS
from knapsack_prune.values.criteria import CRITERIA, score
from knapsack_prune.values.energy import energy_values
from knapsack_prune.values.fisher import joint_fisher
from knapsack_prune.values.losses import Batches, Loss, TaskLoss, as_loss
from knapsack_prune.values.measured import measured_values
from knapsack_prune.values.reconstruction import reconstruction_values
from knapsack_prune.values.tables import ValueTables, additive_tables
from knapsack_prune.values.value_file import ValueFile, examples_identity, made_from

MODELS = VALUE_MODELS
"""Models of what a cut costs. `energy` needs weights alone; the others count in units of the loss."""

PAIRED = ("joint_fisher", "measured")
"""Those that may have values of pairs of groups."""


def estimate_values(
    graph: ChannelGraph,
    model: nn.Module,
    method: str = "measured",
    *,
    data: Batches | None = None,
    loss: Loss | TaskLoss | None = None,
    normalize: str = "none",
    pair_values: bool = False,
    block_removal: bool = False,
    seed: int = 0,
    values: Path | None = None,
    progress: Callable[[int, int | None], None] | None = None,
) -> ValueTables:
    """What keeping units is worth.

    Args:
        graph: the traced network.
        model: its weights; left as they are.
        method: one of `MODELS` or `CRITERIA`.
        data: batches; labels are read by the criteria that take a gradient, and by a `loss` that does.
        loss: for `MODELS` on images, what a cut costs; by default the divergence of the outputs from the parent's.
            A function of output and target, see `networks.batch.batch_target`, or of output, the parent's output and
            the batch. For criteria that take a gradient, what it is of; by default the cross-entropy.
        normalize: for `CRITERIA`, see `score`.
        pair_values: for `joint_fisher` and `measured`, also values of `fisher.joined_groups`.
        block_removal: for `measured` and `CRITERIA`, also what removing each residual block is worth.
        seed: of everything drawn.
        values: a file that keeps the tables, and measurements as they are made: a call that was stopped continues,
            and one for the same network, images and method finds them there.
        progress: called with what is done (cuts for `measured`, else examples) and the total where it is known.

    Raises:
        RequestError: unknown method, no data, a file of other values, or whatever the method refuses.
    """
    _check(method, data, loss, normalize, values)
    loss = None if loss is None else as_loss(loss, graph.example)
    if pair_values and method not in PAIRED:
        raise RequestError(
            f"`pair_values` with importance {method!r}: only {' and '.join(PAIRED)} have them; choose one, or leave "
            "it out"
        )
    if block_removal and method not in (*CRITERIA, "measured"):
        raise RequestError(
            f"`allow_block_removal` with importance {method!r}: it does not say what removing a block costs; choose "
            "measured or a criterion that adds up scores"
        )
    images, batch_size = None, 0
    if data is not None and method in IMAGE_CRITERIA:
        images, batch_size = examples_identity(data)
    identity = made_from(graph, model, images, method, normalize, seed)
    file = None if values is None else ValueFile(values, identity)

    def kept(name: str, make: Callable[[], ValueTables]) -> ValueTables:
        return make() if file is None else file.tables(name, make)

    def made() -> ValueTables:
        examples = None if progress is None else (lambda done: progress(done, None))
        if method in CRITERIA:
            scores = score(
                graph, model, method, data=data, loss=loss, seed=seed, normalize=normalize, progress=examples
            )
            return additive_tables(graph, scores, block_removal=block_removal)
        if method == "energy":
            return energy_values(graph, model, seed)
        assert data is not None
        if method == "joint_fisher":
            return joint_fisher(graph, model, data, loss=loss, seed=seed, progress=examples).tables

        def reconstructed() -> ValueTables:
            return reconstruction_values(graph, model, data, loss=loss, seed=seed, progress=examples)

        if method == "reconstruction":
            return reconstructed()
        shape, known = kept("reconstruction", reconstructed), {} if file is None else file.measurements
        return measured_values(
            graph,
            model,
            data,
            shape,
            loss=loss,
            seed=seed,
            block_removal=block_removal,
            known=known,
            progress=progress,
        )

    try:
        with one_thread():
            tables = kept(f"{method}, blocks" if block_removal else method, made)
            if pair_values:
                assert data is not None
                orders = tuple(group.order for group in tables.groups)
                joint = joint_fisher(graph, model, data, orders=orders, loss=loss, seed=seed)
                tables = joint.with_pairs(graph, tables)
    finally:
        if file is not None:
            file.write()
    if images is None:
        return tables
    options = {**tables.provenance.options, "batch_size": batch_size}
    return replace(tables, provenance=replace(tables.provenance, images=images, options=options))


def _check(
    method: str, data: Batches | None, loss: Loss | TaskLoss | None, normalize: str, values: Path | None
) -> None:
    """Refuse what does not go together."""
    takers = (*LOSS_MODELS, *DATA_CRITERIA)
    if loss is not None and method in (*MODELS, *CRITERIA) and method not in takers:
        raise RequestError(f"`loss` with importance {method!r}: only {', '.join(takers)} take one")
    if loss is not None and values is not None:
        raise RequestError(
            "`values` with a function for `loss`: nothing could tell whether the file's values are of the same "
            "function; leave one of them out"
        )
    if method in CRITERIA:
        return
    if method not in MODELS:
        raise RequestError(f"unknown importance {method!r}; choose one of {', '.join((*MODELS, *CRITERIA))}")
    if normalize != "none":
        raise RequestError(
            f"`normalize` {normalize!r} with importance {method!r}: losses are compared as they are"
        )
    if data is None and method != "energy":
        raise RequestError(
            f"importance {method!r} needs images: give `data`, or choose `energy`, which needs none"
        )
