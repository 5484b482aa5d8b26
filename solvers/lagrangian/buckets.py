"""The types of an elimination order: one bucket per elimination (Dechter, bucket elimination, 1999)."""

from dataclasses import dataclass, field
from typing import Literal

from .factor_graph import PartialSum

Kind = Literal["conjugate", "table", "sum", "substitute"]


@dataclass
class Bucket:
    """One elimination: variables `out` leave, a message over `scope` remains, received by bucket `parent`.

    Attributes:
        kind: how; `conjugate`: the variable meets others in products only, a price look-up for each of their
            combinations, once for each combination of `given`; `table`: it also shares tables or messages with others,
            every combination is compared; `sum`: base and part of a partial sum go together, their combinations
            scattered onto the sum's values; `substitute`: a partial sum goes, replaced by what its base and part add
            up to.
        products: bilinear terms of the variables that leave, as pairs of variables.
        tables: pairs of groups whose tables of costs and values are used up here.
        relation: the partial sum of a `sum` or `substitute`.
        given: variables of a `conjugate` that share tables or messages with the one that leaves; few combinations.
        children: buckets whose messages are received here.
        parent: the bucket that receives the message; -1 for a root, whose message is one number.
        work: combinations compared.
    """

    kind: Kind
    out: tuple[int, ...]
    scope: tuple[int, ...]
    products: list[tuple[int, int]] = field(default_factory=list)
    tables: list[tuple[int, int]] = field(default_factory=list)
    relation: PartialSum | None = None
    given: tuple[int, ...] = ()
    children: list[int] = field(default_factory=list)
    parent: int = -1
    work: int = 0


@dataclass(frozen=True)
class EliminationOrder:
    """Buckets in the order of elimination; together they form a forest (a tree decomposition).

    Attributes:
        buckets: a bucket comes after its children.
        roots: buckets without parent.
        linearised: products that no table could hold; the relaxation bounds them by a tangent plane.
        work: of all steps together.
        linear_terms: products with a fixed variable (one value left), as (other, fixed): linear in the other, they
            join nothing.
        too_large: a step exceeds the limits all the same: the order must not be carried out.
    """

    buckets: list[Bucket]
    roots: list[int]
    linearised: list[tuple[int, int]]
    work: int
    linear_terms: list[tuple[int, int]]
    too_large: bool = False
