"""One pass over data: second moments of what consumers read and of the gradients at their outputs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from knapsack_prune.data.seeds import generator
from knapsack_prune.errors import RequestError
from knapsack_prune.narrowing.masking import aten
from knapsack_prune.networks.batch import batch_inputs
from knapsack_prune.networks.example import Example, device_and_type
from knapsack_prune.values.cutting import Consumer, CuttableNetwork
from knapsack_prune.values.losses import (
    Batches,
    Loss,
    batch_part,
    check_output,
    check_scalar,
    class_scores,
    tensors,
)
from knapsack_prune.values.patches import MAX_MATRIX, sampled_columns
from knapsack_prune.values.replay import memory_limit


@dataclass(eq=False)
class Moments:
    """What is known about one consumer.

    Attributes:
        consumer: the parameter that reads.
        taps: columns per input channel: the kernel's elements, or 1 where only channels are described.
        units: where there are too many columns, as behind a flattened image, shape (units, positions per unit): the
            positions are then taken for rows, and the columns are the units. None otherwise.
        centred: whether a shift of its output does not matter (its bias or a batch norm takes it up).
        total: sum of the columns over rows; shape (channels * taps,), float64.
        gram: sum of their products; shape (channels * taps, channels * taps), float64.
        rows: inputs seen.
        gradient: sum over rows of products of output gradients; shape (outputs, outputs), float64; of more outputs
            than a matrix can hold the squares alone, shape (outputs,).
    """

    consumer: Consumer
    taps: int
    units: Tensor | None
    centred: bool
    total: Tensor
    gram: Tensor
    rows: int = 0
    gradient: Tensor | None = None

    def covariance(self) -> Tensor:
        """Second moment of the columns, around their mean if a shift of the output does not matter."""
        moment = self.gram / self.rows
        if self.centred:
            mean = self.total / self.rows
            moment = moment - mean[:, None] * mean[None, :]
        return moment


@dataclass(frozen=True, eq=False)
class NetworkMoments:
    """Moments of all consumers that were seen to multiply a matrix.

    Attributes:
        consumers: by parameter.
        examples: how many were read.
        derivatives: per group, shape (examples, units): the derivative of each example's loss by a mask on each
            unit; empty where they were not asked for.
    """

    consumers: Mapping[str, Moments]
    examples: int
    derivatives: tuple[Tensor, ...] = ()


def collect_moments(
    network: CuttableNetwork,
    data: Batches,
    *,
    gradients: bool = False,
    derivatives: bool = False,
    loss: Loss | None = None,
    seed: int = 0,
    progress: Callable[[int], None] | None = None,
) -> NetworkMoments:
    """Read the data once.

    Args:
        network: the parent, in evaluation mode for the while.
        data: batches.
        gradients: also the second moments of output gradients (one backward pass).
        derivatives: also each example's derivatives by unit masks (one backward pass; example by example where the
            rows of a consumer's input are not its examples, as in attention).
        loss: whose gradient is taken; by default minus the log-probability of classes drawn from the parent's own
            output, which needs no labels and makes the second moments Fisher's information.
        seed: of the positions and of the classes drawn.
        progress: called with the number of examples after every batch.

    Memory: a float64 matrix of columns squared and one of outputs squared per consumer, and activations of as many
    examples as fit into `replay.memory_limit`.

    Raises:
        RequestError: no data, or a loss that is no finite scalar.
    """
    recorder = _Recorder(network, seed, gradients, derivatives)
    draw = generator(seed, 2)
    examples = 0
    step = 0
    with _prepared(network):
        for batch in data:
            inputs = batch_inputs(batch, network.graph.example)
            inputs = inputs.to(next(network.model.parameters()).device)
            step = step or _examples_at_once(
                network, inputs.rows(slice(2)), gradients or derivatives, derivatives
            )
            for start in range(0, inputs.count, step):
                part = slice(start, start + step)
                chosen, some = batch_part(batch, inputs.count, part), inputs.rows(part)
                recorder.begin(some.count)
                if gradients or derivatives:
                    _backward(network, recorder, some, chosen, loss, draw)
                else:
                    with torch.no_grad(), recorder:
                        some.run(network.model)
            examples += inputs.count
            if progress is not None:
                progress(examples)
    if not examples:
        raise RequestError("the data holds 0 examples; give at least one batch with `data`")
    return NetworkMoments(recorder.moments, examples, recorder.derivatives() if derivatives else ())


def _backward(
    network: CuttableNetwork,
    recorder: _Recorder,
    inputs: Example,
    batch: Any,
    loss: Loss | None,
    draw: torch.Generator,
) -> None:
    inputs = inputs.map(lambda leaf: leaf.detach().requires_grad_() if leaf.is_floating_point() else leaf)
    sources = [leaf for leaf in inputs.tensors if leaf.is_floating_point()]
    if len(sources) < len(inputs.tensors):  # gradients do not reach tokens
        sources += network.parameters.values()
    with torch.enable_grad(), recorder:
        output = inputs.run(network.model)
        check_output(network.model, inputs, output)
        found = _drawn_loss(output, inputs.count, draw) if loss is None else loss(output, output, batch)
        check_scalar(found)
        if not bool(torch.isfinite(found.detach())):
            raise RequestError(
                f"the loss is {float(found.detach())}; it must be finite: check the weights and the data for NaN"
            )
        recorder.backward = True
        # The mean over examples times their number: what reaches an example's rows is its own gradient.
        torch.autograd.grad(found * inputs.count, sources, allow_unused=True)


def _examples_at_once(network: CuttableNetwork, inputs: Example, backward: bool, apart: bool) -> int:
    """How many examples are read together: as many as memory allows; one where those of a consumer's rows must be
    told apart and are not the examples (but tokens, for instance)."""
    probe = _Recorder(network, 0, False, False)
    probe.begin(inputs.count)
    with torch.no_grad(), probe:
        inputs.run(network.model)
    if apart and probe.mixed:
        return 1
    kept = probe.results / inputs.count if backward else probe.results / inputs.count / 4
    return max(1, int(memory_limit(device_and_type(network.model)[0]) / max(1.0, kept)))


def _drawn_loss(output: Any, examples: int, draw: torch.Generator) -> Tensor:
    logits = class_scores(output)
    chances = logits.detach().softmax(-1).cpu()
    classes = torch.multinomial(chances, 1, generator=draw)[:, 0].to(logits.device)
    return F.cross_entropy(logits, classes, reduction="sum") / examples


@contextmanager
def _prepared(network: CuttableNetwork) -> Iterator[None]:
    """Evaluation mode, weights without gradients where the input can carry them; put back on exit."""
    before = {name: parameter.requires_grad for name, parameter in network.parameters.items()}
    threads = torch.get_num_threads()
    try:
        # On the CPU, sums are split among threads: with one, their last bit does not depend on the number.
        torch.set_num_threads(1)
        with network.measuring(batch_statistics=False):
            yield
    finally:
        torch.set_num_threads(threads)
        for name, parameter in network.parameters.items():
            parameter.requires_grad_(before[name])


class _Recorder(TorchDispatchMode):
    """Watches the operators that multiply an input by a consumer's weights, forwards and backwards."""

    def __init__(self, network: CuttableNetwork, seed: int, gradients: bool, derivatives: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.moments: dict[str, Moments] = {}
        self.backward = False
        self.mixed = False
        self.results = 0
        self._network = network
        self._gradients = gradients
        self._derivatives = derivatives
        self._draw = generator(seed, 3)
        self._examples = 0
        self._inputs: dict[str, list[Tensor]] = {}
        self._masks: dict[str, Tensor] = {}
        self._passes: list[dict[str, Tensor]] = []
        self._last: tuple[Tensor, str] | None = None

    def begin(self, examples: int) -> None:
        """Another forward pass, of so many examples."""
        self._examples, self.backward = examples, False
        self._inputs, self._masks = {}, {}
        if self._derivatives:
            self._passes.append(self._masks)

    def derivatives(self) -> tuple[Tensor, ...]:
        """Per group, shape (examples, units), float64: the sum over its consumers."""
        channels = {
            name: torch.cat([masks[name] for masks in self._passes]).double() for name in self._passes[0]
        }
        found = []
        for group in self._network.graph.groups:
            parts = [p for p in group.slices if p.role == "in" and p.parameter in channels]
            units = [channels[p.parameter][:, torch.from_numpy(p.positions)].sum(-1) for p in parts]
            found.append(torch.stack(units).sum(0) if units else torch.zeros(0, group.size))
        return tuple(found)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func._schema.is_mutable:
            self.results += sum(t.numel() * t.element_size() for t in tensors(result))
        if self.backward:
            self._watch_backward(func, args, result)
        elif func in _NORMS and self._last is not None and args[0].data_ptr() == self._last[0].data_ptr():
            self.moments[self._last[1]].centred = True
        elif (reader := self._network.reader(func, args)) is not None:
            consumer, position, weight = reader
            self._watch_forward(func, args, consumer, args[position].detach(), weight)
            self._last = (result, consumer.parameter)
        return result

    def _watch_forward(self, func: Any, args: Any, consumer: Consumer, data: Tensor, weight: Tensor) -> None:
        (columns,), taps = sampled_columns(func, args, [data], weight, self._draw)
        name, units = consumer.parameter, None
        if len(columns) > MAX_MATRIX:
            by_unit = consumer.by_unit()
            if by_unit is None or len(by_unit) > MAX_MATRIX:
                return
            units = torch.from_numpy(by_unit).to(columns.device)
            columns = columns[units].flatten(1)
        if name not in self.moments:
            size = len(columns)
            bias = func is aten.addmm.default or (func is aten.convolution.default and args[2] is not None)
            zeros = torch.zeros(size, dtype=torch.float64)
            gram = torch.zeros(size, size, dtype=torch.float64)
            self.moments[name] = Moments(consumer, taps, units, bias, zeros, gram)
        found = self.moments[name]
        found.rows += columns.shape[1]
        found.total += columns.double().sum(1).cpu()
        found.gram += (columns @ columns.T).double().cpu()
        if self._derivatives:
            self._inputs.setdefault(name, []).append(data)
        self.mixed |= func is not aten.convolution.default and len(data) != self._examples

    def _watch_backward(self, func: Any, args: Any, result: Any) -> None:
        if func is aten.convolution_backward.default:
            gradient, weight, at_input = args[0], args[2], result[0]
        elif func is aten.mm.default and self._network.named(args[1]) is not None:
            gradient, weight, at_input = args[0], args[1], result
        elif (
            func is aten.mm.default
        ):  # autograd multiplies from the left where the input lies in memory by columns
            gradient, weight, at_input = args[1].T, args[0], result.T
        else:
            return
        consumer = self._network.named(weight)
        if consumer is None or consumer.parameter not in self.moments or at_input is None:
            return
        found = self.moments[consumer.parameter]
        if self._gradients:
            rows = gradient.movedim(1, -1).reshape(-1, gradient.shape[1])
            large = rows.shape[1] > MAX_MATRIX
            products = (rows.square().sum(0) if large else rows.T @ rows).double().cpu()
            found.gradient = products if found.gradient is None else found.gradient + products
        if self._derivatives:
            # The last call forwards is the first one backwards.
            data = self._inputs[consumer.parameter].pop()
            mask = (data * at_input).flatten(2).sum(2) if data.dim() > 2 else data * at_input
            mask = mask if len(mask) == self._examples else mask.sum(0, keepdim=True)
            before = self._masks.get(consumer.parameter)
            self._masks[consumer.parameter] = mask.cpu() if before is None else before + mask.cpu()


_NORMS = (aten.native_batch_norm.default, aten.cudnn_batch_norm.default)
