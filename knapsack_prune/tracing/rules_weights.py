"""What operators do to weights: the same operators as in the other rules, per dimension and not per element.

A rule takes the node and its arguments, in which parameters and what was computed from them are `Weight`s, and
returns a `Weight` (or several). An operator without a rule mixes the dimensions: the layers that use its result
freeze what they touch.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from knapsack_prune.tracing import rules_weights_movement
from knapsack_prune.tracing.context import Context, share_rule
from knapsack_prune.tracing.ids import NONE
from knapsack_prune.tracing.rules_elementwise import NARY, UNARY
from knapsack_prune.tracing.rules_weights_movement import WeightRule, weight_operands
from knapsack_prune.tracing.weights import Axis, Dim, NoAxesError, Weight, contracted, merged

KEEP_ZERO = (
    "abs alias celu ceil clone contiguous detach dropout elu erf expm1 floor gelu hardtanh leaky_relu "
    "lift_fresh_copy mish neg relu relu6 round selu sign silu sin softshrink sqrt square tanh threshold "
    "to type_as _to_copy mul triu tril nan_to_num"
)
"""Element-wise operators that give zero where (one of) their operands is zero."""


def elementwise(context: Context) -> Weight:
    """Dimensions that meet are tied."""
    operands = weight_operands(context)
    name = context.operator
    joined = name in ("add", "sub") and len(operands) > 1 and not any(_number(v) for v in context.args[:2])
    quotient = name in ("div", "true_divide") and isinstance(context.args[0], Weight)
    clamped = name == "clamp" and len(operands) == 1
    if not (name in KEEP_ZERO.split() or joined or quotient or clamped):
        for dim in (dim for operand in operands for dim in operand.dims):
            _mixes(context, dim, exact=False)
    return merged(context.ledger, operands, name, zeros_from_first=quotient)


def _number(value: object) -> bool:
    return isinstance(value, (int, float))


def _mixes(context: Context, dim: Dim, *, exact: bool) -> None:
    """Record that the result at one index depends on the others (or is not zero where the weight is)."""
    for axis in dim:
        context.ledger.mixed_weights.append(
            (context.module, context.operator, axis.ids.numpy(), axis.sources, exact)
        )


def reduction(context: Context) -> Weight | tuple[Weight, ...]:
    """Sums, means and norms over dimensions."""
    (source,) = weight_operands(context)[:1]
    value = context.node.meta["val"]
    first = value[0] if isinstance(value, (tuple, list)) else value
    given = context.argument("dim")
    if given is None or (isinstance(given, (list, tuple)) and not given):
        given = range(len(source.dims))
    dims = {
        int(dim) % len(source.dims) for dim in (given if isinstance(given, Sequence | range) else [given])
    }
    for dim in dims:
        _mixes(
            context,
            source.dims[dim],
            exact=context.operator not in ("mean", "var", "std", "var_mean", "amin"),
        )
    same_rank = first.dim() == len(source.dims)
    kept = tuple(
        () if dim in dims else axes for dim, axes in enumerate(source.dims) if same_rank or dim not in dims
    )
    result = Weight(kept, source.name, source.elements)
    return (result,) * len(value) if isinstance(value, (tuple, list)) else result


def normalised(context: Context) -> Weight:
    """`_weight_norm(v, g, dim)`: a direction of length 1, and its length."""
    direction, length = weight_operands(context)
    dim = int(context.argument("dim", 0)) % len(direction.dims)
    for other, axes in enumerate(direction.dims):
        if other != dim:
            _mixes(context, axes, exact=True)
    return merged(context.ledger, [direction, length], context.operator)


def batch_norm(context: Context) -> Weight:
    """A batch norm of the weights themselves, by their own statistics (NF-ResNets)."""
    source = weight_operands(context)[0]
    scale = [value for value in context.args[1:3] if isinstance(value, Weight)]
    if not bool(context.args[5]) or len(source.dims) < 2:
        raise NoAxesError("`batch_norm` of a weight by stored statistics")
    for dim, axes in enumerate(source.dims):
        if dim != 1:
            _mixes(context, axes, exact=False)
    for value in scale:
        contracted(context.ledger, source.dims[1], value.dims[0], context.operator)
    factors = [axis for dim in source.dims for axis in dim]
    _volume(context, "batch_norm", 5 if isinstance(context.args[1], Weight) else 4, factors)
    return source


def _volume(context: Context, operator: str, factor: int, axes: Sequence[Axis]) -> None:
    """A count in proportion to a product of axes, of which two may lose something."""
    varying = [axis for axis in axes if bool((axis.ids != NONE).any())]
    # The kernel's axes, which nothing ties, are the last.
    for axis in varying[2:]:
        context.ledger.freeze(axis.ids, f"`{operator}` of a weight counts it beside two others")
    context.ledger.cost(context.module, operator, factor, *(axis.ids for axis in axes))


def product(context: Context) -> Weight:
    """`matmul` and `mv` of two weights."""
    left, right = weight_operands(context)
    if len(left.dims) > 2 or len(right.dims) > 2:
        raise NoAxesError(f"`{context.operator}` of batches of weights")
    inner = right.dims[0]
    contracted(context.ledger, left.dims[-1], inner, context.operator)
    _mixes(context, left.dims[-1], exact=True)
    if context.operator in ("matmul", "mm") and len(right.dims) == 2:
        if len(left.dims) == 1:
            raise NoAxesError("fvcore cannot count a product of a vector and a matrix")
        for axis in inner:
            context.ledger.freeze(
                axis.ids, f"the inner dimension of a product of weights in {context.module}"
            )
        outer = [*left.dims[0], *right.dims[1]]
        _volume(context, context.operator, math.prod(axis.size for axis in inner), outer)
    largest = max(left, right, key=lambda weight: weight.elements)
    return Weight((*left.dims[:-1], *right.dims[1:]), largest.name, largest.elements)


RULES: dict[str, WeightRule] = {
    **rules_weights_movement.RULES,
    **share_rule(elementwise, f"{UNARY} {NARY} triu tril nan_to_num"),
    **share_rule(reduction, "mean sum amax amin var std var_mean norm linalg_vector_norm"),
    **share_rule(product, "matmul mm mv dot vdot"),
    "_weight_norm": normalised,
    "batch_norm": batch_norm,
}
