"""`einsum`, of activations and of activations with parameters."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch
from torch import Tensor

from knapsack_prune.tracing.context import Context, Value
from knapsack_prune.tracing.contracting import sums_over_units
from knapsack_prune.tracing.ids import NONE, Ids
from knapsack_prune.tracing.ledger import LayerRecord
from knapsack_prune.tracing.weights import ParameterWeight, Weight


def einsum(context: Context) -> Value:
    """Letters that are summed over are tied, shared letters meet; a parameter's letters enter or leave."""
    values = list(context.args[1])
    weights = [context.weight(value) for value in values]
    shapes = tuple(tuple(value.shape) for value in values)
    inputs, _, output = str(context.args[0]).replace(" ", "").partition("->")
    terms = inputs.split(",")
    plain = "->" in str(context.args[0]) and "." not in inputs
    if not plain or any(len(set(term)) != len(term) for term in terms) or all(weights):
        return _frozen(context, f"{inputs}->{output}", shapes, "has no rule")
    if any(weights):
        return _with_weights(context, terms, output, weights, shapes)
    return _of_activations(context, terms, output, shapes)


def _frozen(context: Context, equation: str, shapes: tuple[tuple[int, ...], ...], why: str) -> Value:
    """Nothing that it touches can be removed."""
    for value in context.args[1]:
        context.ledger.freeze(context.ids(value).data, f"`einsum` of {equation!r} {why}")
    context.ledger.cost(context.module, "einsum", einsum_flops(str(context.args[0]), shapes, ""))
    return Ids.none(context.shape)


def _of_activations(
    context: Context, terms: list[str], output: str, shapes: tuple[tuple[int, ...], ...]
) -> Value:
    ledger = context.ledger
    equation = f"{','.join(terms)}->{output}"
    operands = [context.ids(value) for value in context.args[1]]
    contracted = _contracted(context, terms, output, operands)
    result = torch.zeros((1,) * len(output), dtype=torch.int64)
    for term, ids in zip(terms, operands, strict=True):
        summed = tuple(index for index, letter in enumerate(term) if letter not in output)
        if any(letter in contracted for letter in term):
            data = torch.zeros((1,) * len(term), dtype=torch.int64)
        else:
            data = ledger.tie_along(ids, summed, "einsum").data
        kept = [letter for letter in term if letter in output]
        for index in sorted(summed, reverse=True):
            data = data.select(index, 0)
        order = sorted(range(len(kept)), key=lambda at: output.index(kept[at]))
        data = data.permute(order)
        sorted_letters = [kept[at] for at in order]
        view = iter(data.shape)
        data = data.reshape([next(view) if letter in sorted_letters else 1 for letter in output])
        ledger.tie(result, data, "einsum")
        result, data = torch.broadcast_tensors(result, data)
        result = torch.where(result == NONE, data, result)
    result = Ids.of(result).data
    varying = [letter for index, letter in enumerate(output) if result.shape[index] > 1]
    channels = dict(contracted)
    if len(varying) == 1:
        at = output.index(varying[0])
        channels[varying[0]] = result.movedim(at, -1).reshape(-1, result.shape[at])[0]
    elif varying:
        ledger.freeze(result, f"`einsum` of {equation!r} varies along {len(varying)} dimensions")
    lookup = partial(einsum_flops, equation, shapes, "".join(channels))
    ledger.cost(context.module, "einsum", 1, *channels.values(), lookup=lookup)
    return Ids(result, context.shape)


def _contracted(context: Context, terms: list[str], output: str, operands: list[Ids]) -> dict[str, Tensor]:
    """The letter that is summed over unit by unit, if there is one, with its channels."""
    for letter in dict.fromkeys("".join(terms)):
        if letter in output or sum(letter in term for term in terms) < 2:
            continue
        holding = [at for at, term in enumerate(terms) if letter in term]
        shared = set.intersection(*({terms[at][dim] for dim in operands[at].varying} for at in holding))
        if shared != {letter}:
            continue
        nodes = [tuple(context.node.args[1])[at] for at in holding]  # type: ignore[arg-type]
        given = [operands[at] for at in holding]
        dims = [terms[at].index(letter) for at in holding]
        if sums_over_units(context, nodes, given, dims):
            return {letter: given[0].channel_ids(dims[0])}
    return {}


def _with_weights(
    context: Context,
    terms: list[str],
    output: str,
    weights: list[Weight | ParameterWeight | None],
    shapes: tuple[tuple[int, ...], ...],
) -> Value:
    """Channels that are summed over enter; if all are, new ones leave by the first letter of the parameter alone."""
    ledger = context.ledger
    equation = f"{','.join(terms)}->{output}"
    entering: dict[str, Tensor] = {}
    for term, value, weight in zip(terms, context.args[1], weights, strict=True):
        if weight is None:
            ids = context.ids(value)
            for at in ids.varying:
                along = ledger.channel_ids(ids, at)
                known = entering.setdefault(term[at], along)
                ledger.tie(known, along, "einsum")
    passing = [letter for letter in output if letter in entering]
    if len(passing) > 1 or sum(weight is not None for weight in weights) > 1 or len(entering) > 1:
        return _frozen(context, equation, shapes, f"has channels along {len(entering)} letters")
    ((term, weight),) = ((t, w) for t, w in zip(terms, weights, strict=True) if w is not None)
    assert weight is not None
    others = "".join(t for t, w in zip(terms, weights, strict=True) if w is None)
    fresh = [letter for letter in output if letter in term and letter not in others]
    leaves = fresh[0] if fresh and not passing else None
    channels: dict[str, Tensor] = dict(entering)
    for dim, letter in enumerate(term):
        if letter in entering:
            role = "channel" if letter in output else "in"
            weight.attach(ledger, dim, role, entering[letter], "einsum")  # type: ignore[arg-type]
        elif letter == leaves:
            channels[letter] = weight.attach(
                ledger, dim, "out", ledger.fresh(context.shape[output.index(letter)]), "einsum"
            )
        else:
            weight.keep(ledger, dim)
    letters = "".join(letter for letter, ids in channels.items() if bool(ids.any()))
    lookup = partial(einsum_flops, equation, shapes, letters)
    ledger.cost(context.module, "einsum", 1, *(channels[letter] for letter in letters), lookup=lookup)
    result = leaves or (passing[0] if passing else None)
    if leaves is not None:
        into = next((ids for letter, ids in entering.items()), torch.zeros(1, dtype=torch.int64))
        ledger.layers.append(
            LayerRecord(weight.layer, into.numpy().copy(), channels[leaves].contiguous().numpy())
        )
    if result is None:
        return Ids.none(context.shape)
    return Ids.along(channels[result], output.index(result), context.shape)


def einsum_flops(equation: str, shapes: tuple[tuple[int, ...], ...], letters: str, *sizes: int) -> int:
    """fvcore's count of an einsum: half of NumPy's printed estimate, which carries four digits.

    Two equations (the batched products) are counted exactly. The estimate is a text such as `1.204e+08`: the count
    is a staircase in the width, hence a look-up and not a polynomial.

    Args:
        equation: the equation.
        shapes: of the operands in the parent.
        letters: the letters whose sizes change.
        sizes: their sizes.
    """
    equation = equation.replace(" ", "")
    new = dict(zip(letters, sizes, strict=True))
    terms = equation.split("->")[0].split(",")
    sized = [
        tuple(new.get(name, length) for name, length in zip(term, shape, strict=True))
        if "." not in term
        else shape
        for term, shape in zip(terms, shapes, strict=True)
    ]
    names: dict[str, str] = {}
    for name in equation:
        if name.isalpha():
            names.setdefault(name, chr(97 + len(names)))
    canonical = "".join(names.get(name, name) for name in equation)
    if canonical == "abc,abd->acd":
        return math.prod(sized[0]) * sized[-1][-1]
    if canonical == "abc,adc->adb":
        return math.prod(sized[0]) * sized[-1][1]
    operands = [np.broadcast_to(np.zeros(()), shape) for shape in sized]
    report = np.einsum_path(canonical, *operands, optimize="optimal")[1]
    for text in report.split("\n"):
        if "optimized flop" in text.lower():
            return int(np.floor(float(text.split(":")[-1]) / 2))
    raise RuntimeError(f"NumPy's einsum_path no longer prints a FLOP count for {equation!r}")
