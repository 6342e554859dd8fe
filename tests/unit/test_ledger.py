"""What a request costs, in whole nano-dollars; and in which class of times it falls."""

from __future__ import annotations

import pytest

from app.ledger.pricing import Prices
from app.ledger.sums import LONGEST_MS, middle_ms
from app.models import Usage


@pytest.mark.parametrize("usage", [Usage(1, 1), Usage(10**9, 10**9), Usage(3, 0, 3, 1)])
def test_costs_are_whole_nano_dollars(usage: Usage) -> None:
    """Whole numbers inside, however large; an unknown model has none."""
    cost = Prices().cost_nano("gpt-4o-mini", usage)
    assert (
        cost == usage.cached_tokens * 75 + (usage.input_tokens - usage.cached_tokens) * 150 + usage.output_tokens * 600
    )
    assert Prices().cost_nano("no-such-model", usage) is None


def test_classes_of_times_are_narrow() -> None:
    """The middle of the class in which a time falls is right to 5 %, below 20 ms to half a millisecond."""
    lowers = {0: 0.5, 19: 19.5, 20: 21, 48: 49, 95: 97.5, 100: 105, 500: 525, LONGEST_MS: LONGEST_MS}
    assert {lower: middle_ms(lower) for lower in lowers} == lowers
    assert middle_ms(None) is None
