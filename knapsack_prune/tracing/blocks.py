"""Which residual branches hold groups of their own, so that a plan can remove them whole."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence, Set

from knapsack_prune.graph.channel_graph import Group, ResidualBlock
from knapsack_prune.tracing.branches import Branch
from knapsack_prune.tracing.grouping import Membership
from knapsack_prune.tracing.ledger import Cost, Ledger


def residual_blocks(
    ledger: Ledger, member: Membership, groups: Sequence[Group], pinned: Set[str]
) -> tuple[tuple[ResidualBlock, ...], dict[str, ResidualBlock]]:
    """The removable blocks, the innermost where some lie within others.

    Without a branch its shortcut must be left: where both sides of an addition hold groups, neither is a block. A
    layer that was pinned keeps its branch.

    Returns:
        The blocks in execution order; and the block of every node of the exported graph that is part of one.
    """
    held = {
        branch: tuple(
            index
            for index, group in enumerate(groups)
            if {part.parameter for part in group.slices} <= {*branch.parameters, *branch.buffers}
        )
        for branch in ledger.branches
    }
    sides: dict[str, int] = defaultdict(int)
    for branch, inner in held.items():
        sides[branch.addition] += bool(inner)
    candidates = [
        branch
        for branch, inner in held.items()
        if inner
        and sides[branch.addition] == 1
        and not pinned & {name.rpartition(".")[0] for name in branch.parameters}
        and _priced(branch, held[branch], ledger, member)
    ]
    found = {
        branch: ResidualBlock(branch.module, held[branch], branch.parameters)
        for branch in candidates
        if not any(other.addition in branch.nodes for other in candidates)
    }
    nodes = {node: block for branch, block in found.items() for node in branch.nodes}
    return tuple(found.values()), nodes


def _priced(branch: Branch, inner: Sequence[int], ledger: Ledger, member: Membership) -> bool:
    """Whether every cost of a branch can be written with the branch's presence as one more factor."""

    def free(cost: Cost) -> int:
        forms = [member.form(ids) for ids in cost.factors]
        if any(f.weights and not f.constant and all(g in inner for g, _ in f.weights) for f in forms):
            return 0
        return sum(bool(form.weights) for form in forms)

    costs = (cost for cost in (*ledger.costs, *ledger.activations) if cost.node in branch.nodes)
    return all(free(cost) <= 1 for cost in costs)
