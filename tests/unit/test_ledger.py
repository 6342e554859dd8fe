"""What a request costs, in whole nano-dollars."""

from __future__ import annotations

import pytest

from app.ledger.pricing import Prices
from app.models import Usage


@pytest.mark.parametrize("usage", [Usage(1, 1), Usage(10**9, 10**9), Usage(3, 0, 3, 1)])
def test_costs_are_whole_nano_dollars(usage: Usage) -> None:
    """Whole numbers inside, however large; an unknown model has none."""
    cost = Prices().cost_nano("gpt-4o-mini", usage)
    assert (
        cost == usage.cached_tokens * 75 + (usage.input_tokens - usage.cached_tokens) * 150 + usage.output_tokens * 600
    )
    assert Prices().cost_nano("no-such-model", usage) is None
