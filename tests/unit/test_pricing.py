"""Prices: our sum against the library's own, for every model it lists."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from genai_prices import Usage as ListUsage
from genai_prices import calc_price
from genai_prices.data_snapshot import get_snapshot

from app.ledger.pricing import NANO, PricedUpstream, Prices
from app.models import Usage
from app.units import dollars
from tests.unit.test_price_list import has_more_than_tokens

MODELS = [model.id for provider in get_snapshot().providers if provider.id == "openai" for model in provider.models]
SIZES = [(0, 0, 7), (1, 0, 1), (1000, 999, 12_345), (272_000, 1, 3), (272_001, 200_000, 99_999), (1_000_000, 0, 0)]


@pytest.mark.parametrize("model", MODELS)
def test_sums_are_the_librarys(model: str) -> None:
    """Below, at and above the sizes at which prices change; what cannot be found costs "unknown" in both, and in ours
    also what is not charged by tokens alone."""
    for sent, cached, written in SIZES:
        ours = Prices().cost_nano(model, Usage(sent, written, sent + written, cached))
        if "-search" in model:
            # Its calls cost a fee that the list does not tell.
            assert ours is None
            continue
        usage = ListUsage(input_tokens=sent, cache_read_tokens=cached or None, output_tokens=written)
        try:
            listed = calc_price(usage, model_ref=model, provider_id="openai")
        except LookupError:
            assert ours is None
        else:
            assert (ours is None) == has_more_than_tokens(listed.model_price)
            assert ours is None or abs(ours - listed.total_price * NANO) <= 0.5


CLAUDES = [model.id for provider in get_snapshot().providers if provider.id == "anthropic" for model in provider.models]


@pytest.mark.parametrize("model", CLAUDES)
def test_what_is_written_to_a_cache_costs_what_the_library_says(model: str) -> None:
    """For five minutes and for an hour; where the list has no price for it, the cost is not known."""
    prices = Prices()
    for sent, cached, kept, kept_1h in [(10, 1, 2, 3), (200_000, 0, 9, 0), (200_001, 50, 99, 1000), (7, 0, 0, 7)]:
        usage = Usage(sent, 5, sent + 5, cached, cache_write_tokens=kept, cache_write_1h_tokens=kept_1h)
        ours = prices.cost_nano(f"anthropic/{model}", usage)
        price = prices.price(f"anthropic/{model}")
        assert price is not None
        if (kept and price.cache_write is None) or (kept_1h and price.cache_write_1h is None):
            assert ours is None
            continue
        listed = ListUsage(
            input_tokens=sent,
            cache_read_tokens=cached or None,
            cache_write_tokens=kept + kept_1h or None,
            cache_write_1h_tokens=kept_1h or None,
            output_tokens=5,
        )
        assert ours is not None
        assert abs(ours - calc_price(listed, model_ref=model, provider_id="anthropic").total_price * NANO) <= 0.5


@pytest.mark.parametrize(
    ("model", "nano"),
    [
        *(("whisper-1", None), ("tts-1", None), ("groq/whisper-large-v3", None), ("perplexity/sonar", None)),
        *(
            ("mistral/voxtral-small-latest", None),
            ("openrouter/perplexity/sonar", None),
            ("GPT-4o-Search-Preview", None),
        ),
        *(("google/gemini-2.5-flash-image", None), ("google/gemini-2.5-flash", 5_300), ("gpt-image-1", 85_000)),
        *(("openrouter/agentica-org/deepcoder-14b-preview:free", 0), ("gpt-4o-mini", 1_350)),
    ],
)
def test_what_is_not_charged_by_tokens_alone_has_no_known_price(model: str, nano: int | None) -> None:
    """By the hour, the call or the picture as well; what is listed without any price is free."""
    assert Prices().cost_nano(model, Usage(1, 2, 3)) == nano


@pytest.mark.parametrize(
    ("provider", "model", "like"),
    [
        ("https://openrouter.ai/api/v1", "google/gemma-3-27b-it", "openrouter/google/gemma-3-27b-it"),
        ("https://api.groq.com/openai/v1", "openai/gpt-oss-120b", "groq/openai/gpt-oss-120b"),
        ("groq", "moonshotai/kimi-k2-instruct", "groq/moonshotai/kimi-k2-instruct"),
        ("https://api.together.xyz/v1", "google/gemma-3n-E4B-it", None),
        ("https://openrouter.ai/api/v1", "perplexity/sonar", None),
        ("https://openrouter.ai/api/v1", "perplexity/sonar-pro", None),
        ("https://api.openai.com/v1", "openai/gpt-4o-mini", "gpt-4o-mini"),
        ("http://127.0.0.1:4000", "anthropic/claude-sonnet-4-5", "anthropic/claude-sonnet-4-5"),
    ],
)
def test_a_model_costs_what_its_upstream_asks(provider: str, model: str, like: str | None) -> None:
    """Also where its name begins with another provider's, who may give it away: that counts for nobody else."""
    usage = Usage(1_000_000, 1_000_000, 2_000_000)
    found = Prices(upstreams={"it": PricedUpstream(provider, {})}).cost_nano(model, usage, upstream="it")
    assert found == (like and Prices().cost_nano(like, usage))
    assert found != 0
    assert like is None or found is not None


def test_a_price_that_changes_at_half_past_is_not_late(monkeypatch: pytest.MonkeyPatch) -> None:
    """The price that was asked for first in that hour is not kept for all of it."""
    seen = []
    for clock in ("16:00", "16:29:59", "16:30", "16:59:59"):
        now = datetime.fromisoformat(f"2025-06-02T{clock}+00:00")
        monkeypatch.setattr("time.time", now.timestamp)
        seen.append(Prices().cost_nano("deepseek/deepseek-chat", Usage(1_000_000, 0, 1_000_000)))
    assert seen[0] == seen[1] != seen[2] == seen[3]


def test_fees_have_no_known_price() -> None:
    """Nor has what is written to a cache of a model whose list does not name it."""
    assert Prices().cost_nano("gpt-4o-mini", Usage(9, 9, 18)) is not None
    assert Prices().cost_nano("gpt-4o-mini", Usage(9, 9, 18, has_fees=True)) is None
    assert Prices().cost_nano("gpt-4o-mini", Usage(9, 9, 18, cache_write_tokens=1)) is None
    assert Prices().cost_nano("gpt-4o-mini", Usage(9, 9, 18, cache_write_1h_tokens=1)) is None


def test_an_own_price_of_what_is_written_to_a_cache(tmp_path: Path) -> None:
    """In PRICES_FILE; left out, it is not known."""
    own = tmp_path / "prices.toml"
    own.write_text(
        '[models.a]\ninput = "1"\noutput = "2"\n[models.b]\ninput = 1\noutput = 2\ncache_write = 1.25\n'
        'cache_write_1h = "2"\n'
    )
    kept = Usage(4, 0, 4, cache_write_tokens=2, cache_write_1h_tokens=1)
    assert Prices(own).cost_nano("a", kept) is None
    assert Prices(own).cost_nano("b", kept) == 1000 + 2500 + 2000


def test_an_upstreams_own_price_wins_there(tmp_path: Path) -> None:
    """Over PRICES_FILE and the list, by the name that answers or the one that was asked for, and nowhere else."""
    file = tmp_path / "prices.toml"
    file.write_text("[models.gpt-4o-mini]\ninput = 1\noutput = 2\n[models.mine]\ninput = 3\noutput = 4\n")
    own = {"gpt-4o-mini": {"input": Decimal("0.1"), "output": Decimal("0.25")}}
    cellar, azure = PricedUpstream("http://cellar.test/v1", own), PricedUpstream("azure", {})
    prices, usage = Prices(file, upstreams={"cellar": cellar, "azure": azure}), Usage(1000, 1000, 2000)
    assert prices.cost_nano("gpt-4o-mini", usage, upstream="cellar") == 350_000
    assert prices.cost_nano("what-it-calls-itself", usage, asked="gpt-4o-mini", upstream="cellar") == 350_000
    for elsewhere in ("azure", ""):
        assert prices.cost_nano("gpt-4o-mini", usage, upstream=elsewhere) == 3_000_000
    assert prices.cost_nano("mine", usage, upstream="cellar") == 7_000_000
    assert prices.cost_nano("gpt-4o", usage, upstream="cellar") == prices.cost_nano("gpt-4o", usage) is not None


def test_the_version_of_prices_tells_of_every_source(tmp_path: Path) -> None:
    """A row says by which prices it was billed."""
    file = tmp_path / "prices.toml"
    file.write_text("[models.m]\ninput = 1\noutput = 2\n")
    at = [{"a": PricedUpstream("openai", {"m": {"input": Decimal(dear), "output": Decimal(1)}})} for dear in (1, 2)]
    none = {"a": PricedUpstream("openai", {})}
    known = [Prices(), Prices(file), Prices(upstreams=at[0]), Prices(upstreams=at[1]), Prices(file, upstreams=at[0])]
    assert len({prices.version for prices in known}) == len(known)
    assert Prices(upstreams=none).version == Prices().version


@pytest.mark.parametrize("nano", [0, 1, 10, 999_999_999, 10**9, 1_500_000_000, 123 * 10**9 + 4, -1, -2_500_000_000])
def test_dollars_are_exact(nano: int) -> None:
    """As a decimal string without zeros at its end."""
    assert dollars(nano) == format((Decimal(nano) / NANO).normalize(), "f")
    assert dollars(None) is None


@pytest.mark.parametrize(
    ("name", "like"),
    [
        ("openai/gpt-4o-mini", "gpt-4o-mini"),
        ("openai/gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("azure/gpt-4o", "gpt-4o"),
        ("gpt-4o-mini-2024-07-18", "gpt-4o-mini"),
        ("ft:gpt-4o-mini:org::id", None),
        ("gpt-4o-mini-search-preview", None),
        ("gpt-4o-of-my-own", None),
        ("meta-llama/Llama-3.1-8B", None),
        ("", None),
    ],
)
def test_a_price_is_right_or_unknown(name: str, like: str | None) -> None:
    """Behind a provider's prefix and with a date a price is the model's own; another model's is never taken for it."""
    usage = Usage(1000, 1000, 2000)
    assert Prices().cost_nano(name, usage) == (like and Prices().cost_nano(like, usage))


@pytest.mark.parametrize(
    ("answered", "known"),
    [
        ("my-model-2024-07-18", False),
        ("gpt-4o-mini-2031-01-01", True),
        ("gpt-4o-mini-latest", True),
        ("gpt-4o-mini-turbo-x", False),
        ("o1-pro-of-another", False),
    ],
)
def test_another_model_that_answers_has_no_price_by_the_name_it_was_asked_by(answered: str, known: bool) -> None:
    """Only a version of the model that was asked for costs what that costs."""
    assert (Prices().cost_nano(answered, Usage(1, 1, 2), asked="gpt-4o-mini") is not None) == known


def test_the_provider_is_that_of_the_base_url() -> None:
    """At Google's address Google's models have their prices, and unknown addresses have OpenAI's."""
    usage = Usage(1000, 1000, 2000)
    google = Prices(base_url="https://generativelanguage.googleapis.com/v1beta/openai")
    assert google.cost_nano("gemini-2.0-flash", usage) == 1000 * 100 + 1000 * 400
    assert Prices(base_url="http://127.0.0.1:8000/v1").cost_nano("gemini-2.0-flash", usage) is None
    assert Prices(base_url="http://127.0.0.1:8000/v1").cost_nano("gpt-4o-mini", usage) is not None


@pytest.mark.parametrize(
    ("model", "changes", "cost"),
    [
        ("gpt-4o-mini", {"service_tier": "priority"}, None),
        ("gpt-4o-mini", {"input_audio_tokens": 1}, None),
        ("gpt-4o-audio-preview", {"output_audio_tokens": 10}, None),
        (
            "gpt-4o-realtime-preview",
            {"input_audio_tokens": 100, "output_audio_tokens": 10},
            4_500_000 + 4_000_000 + 19_800_000 + 800_000,
        ),
        ("gpt-4o-mini", {}, 1000 * 150 + 1000 * 600),
    ],
)
def test_sound_and_service_tiers(model: str, changes: dict[str, Any], cost: int | None) -> None:
    """Sound costs what the list says for sound; what the list does not say is unknown."""
    assert Prices().cost_nano(model, Usage(1000, 1000, 2000, **changes)) == cost
