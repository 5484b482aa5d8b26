"""How parameters, and tensors computed from them, are read: per element as plain data, per dimension as weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch.fx.node import Node, map_aggregate

from knapsack_prune.tracing import rules_weights, weights
from knapsack_prune.tracing.context import Computed, Context, Parameter, Rule, Value, nothing
from knapsack_prune.tracing.ids import Ids
from knapsack_prune.tracing.ledger import Ledger
from knapsack_prune.tracing.weights import NoAxesError, Weight


class ParameterReader:
    """Gives parameters, and what was computed from them, their ids: the same ones at every use.

    Args:
        ledger: where ids, parameter axes and ties are recorded.
        rules: of operators on elements.
    """

    def __init__(self, ledger: Ledger, rules: Mapping[str, Rule]) -> None:
        self._ledger = ledger
        self._rules = rules
        self._elements: dict[str, Ids] = {}
        self._computed: dict[Node, Value] = {}
        self._weights: dict[Node, Weight | tuple[Weight, ...]] = {}

    def element_ids(self, value: Parameter | Computed) -> Ids:
        """One id per element."""
        if isinstance(value, Computed):
            found = self._data(value)
            return found if isinstance(found, Ids) else Ids.none(value.shape)
        tensor = value.tensor
        if tensor.numel() <= 1 or not tensor.is_floating_point():
            return Ids.none(tensor.shape)
        if value.name not in self._elements:
            fresh = self._ledger.fresh(tensor.numel()).reshape(tensor.shape)
            self._elements[value.name] = Ids(fresh, tuple(tensor.shape))
            self._ledger.elements.append((value.name, self._elements[value.name]))
        return self._elements[value.name]

    def _data(self, value: Computed) -> Value:
        node = value.context.node
        if node not in self._computed:
            context = self._with(value.context, lambda part: self._data(part))
            rule = self._rules.get(context.operator)
            self._computed[node] = without_rule(context) if rule is None else rule(context)
        return self._computed[node]

    def axes(self, value: Parameter | Computed) -> Weight:
        """Ids per dimension."""
        found = self._axes(value)
        assert isinstance(found, Weight)
        return found

    def _axes(self, value: Parameter | Computed) -> Weight | tuple[Weight, ...]:
        if isinstance(value, Parameter):
            if value.constant:
                return weights.of_constant(value.shape)
            return weights.of_parameter(self._ledger, value.name, value.tensor)
        node = value.context.node
        if node not in self._weights:
            try:
                self._weights[node] = self._computed_axes(value.context)
            except NoAxesError as error:
                self._weights[node] = self._frozen(value, f"a weight of which {error}")
        return self._weights[node]

    def reconcile(self) -> None:
        """Once all is propagated: parameters that were read in both ways, and dimensions that must stay whole."""
        ledger = self._ledger
        for name, dim in ledger.whole:
            if (name, dim) in ledger.axes:
                ledger.freeze(
                    torch.from_numpy(ledger.axes[name, dim].ids), f"a dimension of `{name}` without channels"
                )
        for name, ids in list(ledger.elements):
            long = [dim for dim, size in enumerate(ids.shape) if size > 1]
            axes = [ledger.axes[name, dim] for dim in long if (name, dim) in ledger.axes]
            if not axes:
                continue
            if len(long) == 1:
                ledger.tie(torch.from_numpy(axes[0].ids), ids.data.reshape(-1))
                ledger.elements.remove((name, ids))
            else:
                for axis in axes:
                    ledger.freeze(
                        torch.from_numpy(axis.ids), f"`{name}` is used both as a weight and as plain data"
                    )
                ledger.freeze(ids.data, f"`{name}` is used both as a weight and as plain data")

    def made_by_activations(self, context: Context) -> Value:
        """What an operator makes of a weight that activations make of parameters: a weight again, if it has a rule."""
        try:
            return self._computed_axes(context)
        except NoAxesError:
            return without_rule(context)

    def _computed_axes(self, context: Context) -> Weight | tuple[Weight, ...]:
        rule = rules_weights.RULES.get(context.operator)
        if rule is None:
            raise NoAxesError(f"`{context.operator}` mixes the dimensions")
        return rule(self._with(context, self._axes, parameters=True))

    def _frozen(self, value: Computed, reason: str) -> Weight | tuple[Weight, ...]:
        """A weight of which nothing can be removed; nor can it of any parameter in it."""
        names = []

        def freeze(part: Value) -> Value:
            if isinstance(part, Parameter) and not part.constant:
                own = weights.of_parameter(self._ledger, part.name, part.tensor)
                own.keep(self._ledger, *range(len(own.dims)))
                names.append(part.name)
            elif isinstance(part, Computed):
                map_aggregate((part.context.args, part.context.kwargs), freeze)
            return part

        freeze(value)
        name = names[0] if names else value.context.module + "."
        result = value.context.node.meta["val"]
        if isinstance(result, (tuple, list)):
            return tuple(weights.of_constant(tuple(part.shape), name, reason) for part in result)
        return weights.of_constant(value.shape, name, reason)

    def _with(self, context: Context, read: object, parameters: bool = False) -> Context:
        """The context with what was computed, read (and parameters too, and constants as weights)."""

        def change(part: Value) -> Value:
            if isinstance(part, Computed) or (parameters and isinstance(part, Parameter)):
                return read(part)  # type: ignore[operator]
            if parameters and isinstance(part, Ids):
                return weights.of_ids(part)
            return part

        args, kwargs = map_aggregate((context.args, context.kwargs), change)
        return replace(context, args=args, kwargs=kwargs)


def without_rule(context: Context) -> Value:
    """Freeze the channels that reach an operator without a rule."""
    reason = f"`{context.operator}` has no rule"

    def freeze(value: Value) -> Value:
        if isinstance(value, (Ids, Parameter, Computed, Weight)):
            context.ledger.freeze(context.ids(value).data, reason)
        return value

    map_aggregate((context.args, context.kwargs), freeze)
    return nothing(context.node.meta["val"])
