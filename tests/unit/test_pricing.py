"""Prices: our sum against the library's own, for every model it lists."""

from __future__ import annotations

import pytest
from genai_prices import Usage as ListUsage
from genai_prices import calc_price
from genai_prices.data_snapshot import get_snapshot

from app.ledger.pricing import NANO, Prices
from app.models import Usage

MODELS = [model.id for provider in get_snapshot().providers if provider.id == "openai" for model in provider.models]
SIZES = [(0, 0, 7), (1, 0, 1), (1000, 999, 12_345), (272_000, 1, 3), (272_001, 200_000, 99_999), (1_000_000, 0, 0)]


@pytest.mark.parametrize("model", MODELS)
def test_sums_are_the_librarys(model: str) -> None:
    """Below, at and above the sizes at which prices change; what cannot be found costs "unknown" in both."""
    for sent, cached, written in SIZES:
        ours = Prices().cost_nano(model, Usage(sent, written, sent + written, cached))
        usage = ListUsage(input_tokens=sent, cache_read_tokens=cached or None, output_tokens=written)
        try:
            listed = calc_price(usage, model_ref=model, provider_id="openai").total_price
        except LookupError:
            assert ours is None
        else:
            assert ours is not None
            assert abs(ours - listed * NANO) <= 0.5
