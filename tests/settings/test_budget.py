"""How budgets are read: fractions, absolute numbers, and what is neither."""

from __future__ import annotations

import pytest

from knapsack_prune.errors import RequestError
from knapsack_prune.settings.budget import parse_budget, read_budgets


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.3", 0.3),
        (".5", 0.5),
        ("1", 1.0),
        ("1e-1", 0.1),
        ("2", 2),
        ("500M", 500_000_000),
        # 1.2 has no binary fraction: 1.2 * 10**9 must still be whole.
        ("1.2G", 1_200_000_000),
        ("4.089184256g", 4_089_184_256),
        ("0.5K", 500),
        ("3.5e8", 350_000_000),
        ("1_000_000", 1_000_000),
    ],
)
def test_fractions_and_absolute_numbers(text: str, value: float) -> None:
    parsed = parse_budget(text)
    assert parsed == value
    # The type tells a fraction (1.0: keep all) from an absolute number.
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0", "not above 0"),
        ("-0.3", "not above 0"),
        ("1.5", "no whole number"),
        ("0.1234K", "no whole number"),
        ("NaN", "not a number"),
        ("inf", "not a number"),
        ("abc", "not a number"),
        ("", "not a number"),
        ("30%", "not a number"),
        ("1,2G", "not a number"),
        ("1e300", "beyond 2"),
        ("1e99999999999G", "beyond 2"),
        ("1e-400", "too small"),
        ("٣", "not a number"),
    ],
)
def test_wrong_budgets_are_refused_with_the_rule_and_a_remedy(text: str, words: str) -> None:
    with pytest.raises(RequestError, match=words) as caught:
        parse_budget(text)
    assert "1.2G" in str(caught.value)
    assert repr(text) in str(caught.value)


def test_lists_are_split_at_commas() -> None:
    assert read_budgets("0.2, 0.5,1G") == (0.2, 0.5, 10**9)
    assert read_budgets([0.2, 2]) == (0.2, 2)
    with pytest.raises(ValueError, match="not a number"):
        read_budgets(" ,")
