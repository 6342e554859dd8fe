"""The price list that ships with the server: it is the package's, and what is found in it is what the package finds."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from itertools import count, product

import genai_prices
import pytest
from genai_prices import Usage as ListUsage
from genai_prices.data_snapshot import DataSnapshot, get_snapshot
from genai_prices.types import (
    ClauseAnd,
    ClauseContains,
    ClauseEndsWith,
    ClauseEquals,
    ClauseOr,
    ClauseRegex,
    ClauseStartsWith,
    ConditionalPrice,
    MatchLogic,
    ModelInfo,
    ModelPrice,
    Provider,
    StartDateConstraint,
    Tier,
    TieredPrices,
    TimeOfDateConstraint,
)

from app.ledger.price_list import PriceList, shipped
from app.ledger.pricing import FEE_PER_CALL, MILLION, SHARES, Price, Prices, Tiers
from app.units import NANO
from docs.prices import documents, price_list

Dollars = list[tuple[int, Decimal]]
"""Of a million tokens, by how many tokens the input has more than, the dearest first."""
PACKAGE = get_snapshot()
PROVIDERS = {provider.id: provider for provider in PACKAGE.providers}
SOME_DAY = date(2026, 12, 5)
SOON = timedelta(microseconds=1)
FAR_EAST = timezone(timedelta(hours=9))
CHANGES: dict[str, Callable[[str], str]] = {
    "as it is": str,
    "in capitals": str.upper,
    "something before": "x-{}".format,
    "something behind": "{}-zz9".format,
    "a prefix": "somebody/{}".format,
    "a date": "{}-2026-02-03".format,
    "a compact date": "{}-20260203".format,
    "no date": "{}-20260230".format,
    "dates made compact": lambda name: re.sub(r"-(\d{4})-(\d\d)-(\d\d)", r"-\1\2\3", name),
    "dates with dashes": lambda name: re.sub(r"-(\d{4})(\d\d)(\d\d)", r"-\1-\2-\3", name),
}
MANY = 100
"""Of so many names at one provider, each is changed in one of these ways only: each asks all clauses of a long list."""


def test_the_list_is_that_of_the_installed_package() -> None:
    """`make prices` was run after the last change of the package, and the ledger names it as the package does."""
    assert [path.name for path, text in documents().items() if path.read_text() != text] == []
    assert shipped().version == f"genai-prices {genai_prices.__version__}"


def test_every_model_has_the_packages_prices() -> None:
    """Of input, what was cached of it, output, sound and what is written to a cache, now; and none that it has not."""
    prices, now = Prices(), datetime.now(UTC)
    for provider in PACKAGE.providers:
        for model in provider.models:
            expected = (
                None if FEE_PER_CALL.search(f"{provider.id}/{model.id}") else priced(theirs(model.id, provider.id, now))
            )
            assert prices.price(f"{provider.id}/{model.id}") == expected, (provider.id, model.id)


@pytest.mark.parametrize("change", CHANGES)
def test_a_name_is_the_same_models_as_in_the_package(change: str) -> None:
    """At its provider, at those that offer the models of others, and at neither."""
    moment, turn = at(SOME_DAY, time(12)), list(CHANGES).index(change)
    for provider in PACKAGE.providers:
        listed = list(names(provider))
        asked = listed[turn :: len(CHANGES)] if len(listed) > MANY else listed
        for name in ("", *map(CHANGES[change], asked)):
            assert ours(name, provider.id, moment) == theirs(name, provider.id, moment), (provider.id, name)


def test_prices_change_when_the_packages_do() -> None:
    """Around each day from which a price holds and the ends of all hours in which one holds daily."""
    for provider in PACKAGE.providers:
        for model in provider.models:
            for moment in moments(model):
                expected = theirs(model.id, provider.id, moment)
                assert ours(model.id, provider.id, moment) == expected, (provider.id, model.id, moment)


def test_prices_change_on_the_hour_or_half_past() -> None:
    """So long a price may be kept (pricing.py)."""
    prices = [price for provider in PACKAGE.providers for model in provider.models for price in conditional(model)]
    limits = [price.constraint for price in prices if isinstance(price.constraint, TimeOfDateConstraint)]
    clocks = [clock for limit in limits for clock in (limit.start_time, limit.end_time)]
    assert clocks
    assert {(clock.minute % 30, clock.second) for clock in clocks} == {(0, 0)}


@pytest.mark.parametrize(
    "place",
    [
        *("https://api.openai.com/v1", "https://api.anthropic.com", "https://my.openai.azure.com/openai/v1"),
        "https://generativelanguage.googleapis.com/v1beta/openai",
        "https://router.huggingface.co/groq/openai/v1",
        "https://bedrock-runtime.eu-west-1.amazonaws.com/openai/v1",
        "http://127.0.0.1:8000/https://api.anthropic.com",
        *("http://api.openai.com/v1", "http://127.0.0.1:8000/v1", "https://api.openai.com.evil.test", ""),
    ],
)
def test_the_provider_of_a_base_url_is_the_packages(place: str) -> None:
    """Or none; a provider's name is none of its places."""
    try:
        expected = PACKAGE.find_provider(None, None, place).id
    except LookupError:
        expected = None
    assert shipped().provider_at(place) == expected
    assert not shipped().has_provider(place)
    assert all(map(shipped().has_provider, PROVIDERS))


numbers = count(1)


def made_up(match: MatchLogic, *prices: ConditionalPrice) -> ModelInfo:
    return ModelInfo(id="made up", match=match, prices=list(prices) or dollar())


def dollar() -> ModelPrice:
    """A price that no other model has."""
    return ModelPrice(input_mtok=Decimal(next(numbers)), output_mtok=Decimal("0.10"))


def always(price: ModelPrice | None = None) -> ConditionalPrice:
    return ConditionalPrice(prices=price or dollar())


def since(day: str) -> ConditionalPrice:
    return ConditionalPrice(StartDateConstraint(date.fromisoformat(day)), prices=dollar())


def since_calls(day: str) -> ConditionalPrice:
    """Each call costs something from a day on."""
    price = ModelPrice(input_mtok=Decimal(1), requests_kcount=Decimal(1))
    return ConditionalPrice(StartDateConstraint(date.fromisoformat(day)), prices=price)


def daily(start: str, end: str) -> ConditionalPrice:
    return ConditionalPrice(TimeOfDateConstraint(time.fromisoformat(start), time.fromisoformat(end)), prices=dollar())


LARGE = TieredPrices(Decimal("1E+1"), [Tier(200, Decimal("2.50")), Tier(100, Decimal("1E-7"))])
FIRST = [
    made_up(ClauseEquals("exact")),
    made_up(ClauseStartsWith("Some")),
    made_up(ClauseStartsWith("some-more")),
    made_up(ClauseAnd([ClauseContains("left"), ClauseOr([ClauseEndsWith("RIGHT"), ClauseContains("up")])])),
    made_up(ClauseOr([ClauseRegex(r"[bx]-\d+b"), ClauseEndsWith("tail"), ClauseEquals("head")])),
    made_up(ClauseRegex("NEVER")),
    made_up(ClauseEquals("dated-2026-02-03")),
    made_up(ClauseEquals("dated-20260203")),
    made_up(ClauseStartsWith("dashed-2026-02-03")),
    made_up(ClauseEquals("two-2026-02-03-2026-04-05")),
    made_up(ClauseEquals("old"), since("2026-03-01"), since("2026-02-01")),
    made_up(ClauseEquals("once"), always(), since("2026-02-01"), since("2026-01-01")),
    made_up(ClauseEquals("night"), always(), daily("22:00", "06:30:30")),
    made_up(ClauseEquals("noon"), always(), daily("12:00+09:00", "23:00+09:00")),
    made_up(ClauseEquals("never"), always(), daily("12:00", "12:00")),
    made_up(ClauseEquals("large"), always(ModelPrice(input_mtok=LARGE, cache_read_mtok=Decimal("1.0")))),
    made_up(ClauseEquals("calls"), always(ModelPrice(requests_kcount=Decimal(1)))),
    made_up(ClauseEquals("both"), always(ModelPrice(input_mtok=Decimal(1), requests_kcount=Decimal(1)))),
    made_up(ClauseEquals("tools"), always(ModelPrice(input_mtok=Decimal(1), web_searches_kcount=Decimal(1)))),
    made_up(ClauseEquals("sound"), always(ModelPrice(audio_hours=Decimal(1)))),
    made_up(ClauseEquals("nothing"), always(ModelPrice())),
    made_up(ClauseEquals("later"), always(), since_calls("2026-02-01")),
]
SECOND = [made_up(ClauseContains("exact")), made_up(ClauseEquals("dashed-20260203"))]
THIRD = [made_up(ClauseStartsWith("exact")), made_up(ClauseEquals("thirds"))]
FOURTH = [made_up(ClauseContains("fourth"))]
MADE_UP = [
    Provider("first", "", "https://1", fallback_model_providers=["second", "third"], models=FIRST),
    Provider("second", "", "https://2", fallback_model_providers=["fourth"], models=SECOND),
    Provider("third", "", "https://3", models=THIRD),
    Provider("fourth", "", "https://4", models=FOURTH),
]


@pytest.mark.parametrize(
    "name",
    [
        *("exact", "EXACT", "exactly", "inexact", "some", "some-more", "SoMe", "awesome", "", "x" * 10_000),
        *("left-right", "right-left", "left", "leftup", "LEFT-RIGHT", "ab-2b-c", "ab-b", "tails", "tail", "entail"),
        *("head", "heads", "never", "NEVER", "dated-2026-02-03", "dated-20260203", "dated-20260230"),
        *("dashed-2026-02-03", "dashed-20260203", "dashed-20260203-a", "dashed-20260203:free", "dashed-202602030"),
        *("dashed-20260203a", "dashed-20261303", "two-20260203-20260405", "two-2026-02-03-20260405", "dashed20260203"),
        *("old", "once", "night", "noon", "large", "thirds", "fourth", "the-fourth"),
        *("calls", "both", "tools", "sound", "nothing", "later"),
    ],
)
def test_each_rule_is_the_packages(name: str) -> None:
    """In a list made up so that each decides: the order of models, one step to other providers behind the own models,
    dates written otherwise only where nothing fits, the last price that holds or else the first."""
    package = DataSnapshot(MADE_UP, from_auto_update=False)
    our_list = PriceList(price_list("made up", MADE_UP).encode())
    every = [moment for provider in MADE_UP for model in provider.models for moment in moments(model)]
    for provider in MADE_UP:
        for moment in (at(SOME_DAY, time(12)), *every):
            assert ours(name, provider.id, moment, our_list) == theirs(name, provider.id, moment, package), moment


BY_TOKENS = {
    *("input_mtok", "cache_read_mtok", "output_mtok", "input_audio_mtok", "output_audio_mtok"),
    *("cache_write_mtok", "cache_write_1h_mtok"),
}
LEFT_OUT = {
    *("web_searches_kcount", "storage_searches_kcount", "input_image_mtok", "input_video_mtok"),
    *("cache_audio_read_mtok", "cache_image_read_mtok"),
}


def theirs(name: str, provider: str, moment: datetime, package: DataSnapshot = PACKAGE) -> dict[str, Dollars] | None:
    """What the package says; nothing where that is not all that a call costs."""
    try:
        price = package.calc(ListUsage(input_tokens=1, output_tokens=1), name, provider, None, moment).model_price
    except LookupError:
        return None
    listed: dict[str, Decimal | TieredPrices | None] = {
        "input": price.input_mtok,
        "cached": price.cache_read_mtok,
        "output": price.output_mtok,
        "input_audio": price.input_audio_mtok,
        "output_audio": price.output_audio_mtok,
        "cache_write": price.cache_write_mtok,
        "cache_write_1h": price.cache_write_1h_mtok,
    }
    known = {unit: by_size(dollars) for unit, dollars in listed.items() if dollars is not None}
    return None if has_more_than_tokens(price) else known


def has_more_than_tokens(price: ModelPrice) -> bool:
    """Whether a call also costs something that is not counted by tokens, or nothing of it is."""
    units = vars(price).keys()
    return bool(units - BY_TOKENS - LEFT_OUT if units & BY_TOKENS else units)


def by_size(dollars: Decimal | TieredPrices) -> Dollars:
    if isinstance(dollars, TieredPrices):
        return [*((tier.start, tier.price) for tier in reversed(dollars.tiers)), (0, dollars.base)]
    return [(0, dollars)]


def ours(name: str, provider: str, moment: datetime, our_list: PriceList | None = None) -> dict[str, Dollars] | None:
    """What is found in the list that ships, or in another."""
    found = (our_list or shipped()).find(name, provider, moment)
    if found is None:
        return None
    pairs = {unit: [(0, listed)] if isinstance(listed, str) else listed for unit, listed in found.items()}
    return {unit: [(start, Decimal(dollars)) for start, dollars in listed] for unit, listed in pairs.items()}


def priced(found: dict[str, Dollars] | None) -> Price | None:
    """The price that comes of it: what was cached costs as other input where the list does not say."""
    if found is None:
        return None
    shares: dict[str, Tiers] = {
        unit: tuple((start, int(dollars * NANO * SHARES / MILLION)) for start, dollars in listed)
        for unit, listed in found.items()
    }
    free: Tiers = ((0, 0),)
    sent = shares.get("input", free)
    return Price(**{"input": sent, "cached": sent, "output": free} | shares)


def names(provider: Provider) -> dict[str, None]:
    """Of its models and of those of the providers whose models it offers; each once."""
    offered = [provider, *(PROVIDERS[other] for other in provider.fallback_model_providers or [])]
    models = [model for there in offered for model in there.models]
    return dict.fromkeys(name for model in models for name in (model.id, *texts(model.match)))


def texts(match: MatchLogic) -> Iterator[str]:
    """What the clauses look for in a name."""
    if isinstance(match, ClauseOr | ClauseAnd):
        for part in match.or_ if isinstance(match, ClauseOr) else match.and_:
            yield from texts(part)
    elif not isinstance(match, ClauseRegex):
        yield from vars(match).values()


def moments(model: ModelInfo) -> Iterator[datetime]:
    """Around each of those at which another price of the model may count, one of them in another time zone."""
    limits = [price.constraint for price in conditional(model)]
    starts = [limit.start_date for limit in limits if isinstance(limit, StartDateConstraint)]
    hours = [limit for limit in limits if isinstance(limit, TimeOfDateConstraint)]
    days = [start + timedelta(days) for start in starts for days in (-1, 0, 1)] or [SOME_DAY] * bool(hours)
    clocks = [time(0), *(clock for limit in hours for clock in (limit.start_time, limit.end_time))]
    for moment in (at(day, clock) for day, clock in product(days, clocks)):
        yield from (moment - SOON, moment, (moment + SOON).astimezone(FAR_EAST))


def conditional(model: ModelInfo) -> list[ConditionalPrice]:
    return model.prices if isinstance(model.prices, list) else []


def at(day: date, clock: time) -> datetime:
    return datetime.combine(day, clock, clock.tzinfo or UTC)
