"""Products without parameters, which sum over a dimension of two tensors: `matmul`, attention, `einsum`."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import torch

from knapsack_prune.tracing.context import Context, Parameter, Rule, Value, share_rule
from knapsack_prune.tracing.ids import NONE, Ids


def matmul(context: Context) -> Value:
    """`matmul` and `bmm`: what is summed over is tied, and so are the factors that meet in a product."""
    ledger = context.ledger
    if any(isinstance(value, Parameter) for value in context.args[:2]):
        return _product_with_parameter(context)
    left, right = context.ids(context.args[0]), context.ids(context.args[1])
    rows = ledger.tie_along(left, (-1,), context.operator)
    columns = ledger.tie_along(right, (-2,), context.operator)
    shape = context.shape
    a = rows.data.reshape((1,) * (len(shape) - rows.data.dim()) + tuple(rows.data.shape))
    b = columns.data.reshape((1,) * (len(shape) - columns.data.dim()) + tuple(columns.data.shape))
    ledger.tie(a, b, context.operator)
    a, b = torch.broadcast_tensors(a, b)
    operator = "bmm" if context.operator == "bmm" else "matmul"
    if left.empty and not right.empty:
        # A constant matrix acts on channels: only the columns may differ, and they alone change the count.
        if right.varying != (len(right.shape) - 1,):
            ledger.freeze(
                right.data, f"`{context.operator}` of a constant with channels in several dimensions"
            )
            return Ids.none(shape)
        ledger.cost(context.module, operator, math.prod(left.shape), right.channel_ids(-1))
    else:
        ledger.volume(context.module, operator, left, right.shape[-1])
    return Ids.of(torch.where(a == NONE, b, a).expand(shape)) if len(shape) else Ids.none(shape)


def _product_with_parameter(context: Context) -> Value:
    reason = f"`{context.operator}` in {context.module or 'the network'} with a bare parameter"
    for value in context.args[:2]:
        context.ledger.freeze(context.ids(value).data, reason)
    left, right = context.ids(context.args[0]), context.ids(context.args[1])
    operator = "bmm" if context.operator == "bmm" else "matmul"
    context.ledger.cost(context.module, operator, math.prod(left.shape) * right.shape[-1])
    return Ids.none(context.shape)


def attention(context: Context) -> Value:
    """`scaled_dot_product_attention`: a head of queries, keys and values is one unit; fvcore does not count it."""
    ledger = context.ledger
    parts = []
    for index in range(3):
        ids = context.ids(context.args[index])
        parts.append(ledger.tie_along(ids, (-2, -1), context.operator).data)
    query, key, value = parts
    ledger.tie(query, key, context.operator)
    ledger.tie(query, value, context.operator)
    mask = context.argument("attn_mask")
    if isinstance(mask, (Ids, Parameter)):
        bias = context.ids(mask)
        data = bias.data.reshape((1,) * (query.dim() - bias.data.dim()) + tuple(bias.data.shape))
        ledger.tie(ledger.tie_along(Ids(data, data.shape), (-2, -1), context.operator).data, query)
    return Ids(query, context.shape)


def einsum(context: Context) -> Value:
    """`einsum` of explicit equations: letters that are summed over are tied, shared letters meet."""
    ledger = context.ledger
    equation = str(context.args[0]).replace(" ", "")
    operands = [context.ids(value) for value in context.args[1]]
    inputs, arrow, output = equation.partition("->")
    terms = inputs.split(",")
    if not arrow or "." in equation or any(len(set(term)) != len(term) for term in terms):
        for ids in operands:
            ledger.freeze(ids.data, f"`einsum` of {equation!r} has no rule")
        return Ids.none(context.shape)
    shape = {
        letter: size
        for term, ids in zip(terms, operands, strict=True)
        for letter, size in zip(term, ids.shape, strict=True)
    }
    result = torch.zeros((1,) * len(output), dtype=torch.int64)
    for term, ids in zip(terms, operands, strict=True):
        summed = tuple(index for index, letter in enumerate(term) if letter not in output)
        collapsed = ledger.tie_along(ids, summed, "einsum")
        kept = [letter for letter in term if letter in output]
        data = collapsed.data
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
    sizes = tuple(tuple(ids.shape) for ids in operands)
    if len(varying) == 1:
        at = output.index(varying[0])
        channels = result.movedim(at, -1).reshape(-1, result.shape[at])[0]
        lookup = partial(_einsum_flops, equation, sizes, varying[0])
        ledger.cost(context.module, "einsum", 1, channels, lookup=lookup)
    else:
        if varying:
            ledger.freeze(result, f"`einsum` of {equation!r} varies along {len(varying)} dimensions")
        letter = next(iter(shape))
        ledger.cost(context.module, "einsum", _einsum_flops(equation, sizes, letter, shape[letter]))
    return Ids(result, context.shape)


def _einsum_flops(equation: str, shapes: tuple[tuple[int, ...], ...], letter: str, size: int) -> int:
    """fvcore's count of an einsum: half of NumPy's printed estimate, which carries four digits.

    Two equations (the batched products) are counted exactly. The estimate is a text such as `1.204e+08`: the count
    is a staircase in the width, hence a look-up and not a polynomial.
    """
    equation = equation.replace(" ", "")
    terms = equation.split("->")[0].split(",")
    sized = [
        tuple(size if name == letter else length for name, length in zip(term, shape, strict=True))
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


RULES: dict[str, Rule] = {
    **share_rule(matmul, "matmul bmm"),
    "scaled_dot_product_attention": attention,
    "einsum": einsum,
}
