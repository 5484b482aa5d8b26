"""The sequence of budgets over the rounds."""

from __future__ import annotations

from knapsack_prune.errors import RequestError


def geometric_budgets(parent: int, final: int, rounds: int) -> tuple[int, ...]:
    """A budget per round: each keeps the same fraction of the one before, and the last is `final`.

    Args:
        parent: what the parent costs.
        final: the budget of the last round, under `parent`.
        rounds: how many, at least 1.

    Raises:
        RequestError: no round, or a final budget that removes nothing.
    """
    if rounds < 1:
        raise RequestError(f"`rounds` {rounds}: there must be at least 1 round")
    if not 0 < final < parent:
        raise RequestError(
            f"the final budget {final:,} is not under the parent's {parent:,}: nothing would be removed; give a "
            f"fraction under 1"
        )
    ratio = final / parent
    return (*(int(parent * ratio ** (index / rounds)) for index in range(1, rounds)), final)
