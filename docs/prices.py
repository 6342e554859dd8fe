"""The price list that ships with the server, written from the package genai-prices: `make prices`.

It is data, so that a worker need not import the package, which brings pydantic and an HTTP client; and each model is a
line, so that who audits a bill sees in git which price changed. All of its models are there, also those without a
price of tokens: a name belongs to the first that it fits. What the file says is read by app/ledger/price_list.py.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from decimal import Decimal
from pathlib import Path
from typing import Any

from genai_prices.data import providers
from genai_prices.types import (
    ClauseAnd,
    ClauseOr,
    ClauseRegex,
    ConditionalPrice,
    MatchLogic,
    ModelInfo,
    ModelPrice,
    Provider,
    StartDateConstraint,
    TieredPrices,
)

PACKAGE = importlib.metadata.distribution("genai-prices")
LIST = Path(__file__).parent.parent / "app" / "ledger" / "price_list.json"
LICENSE = LIST.with_suffix(".LICENSE")
UNITS = {
    "input": "input_mtok",
    "cached": "cache_read_mtok",
    "output": "output_mtok",
    "input_audio": "input_audio_mtok",
    "output_audio": "output_audio_mtok",
    "cache_write": "cache_write_mtok",
    "cache_write_1h": "cache_write_1h_mtok",
}
"""The fields of `Price` (app/ledger/pricing.py), each by its name in the package."""
LEFT_OUT = {
    *("web_searches_kcount", "storage_searches_kcount", "input_image_mtok", "input_video_mtok"),
    *("cache_audio_read_mtok", "cache_image_read_mtok"),
}
"""Units that a call need not have: fees of tools, pictures and films in the input, and what is cheaper from a cache.
The prices of tokens hold without them."""


def main() -> None:
    """Write the list and its licence."""
    for path, text in documents().items():
        # A worker that starts meanwhile reads the one file or the other.
        new = path.with_suffix(".new")
        new.write_text(text)
        new.replace(path)


def documents() -> dict[Path, str]:
    """The generated files: their text by their path."""
    return {
        LIST: price_list(f"{PACKAGE.name} {PACKAGE.version}", providers),
        LICENSE: PACKAGE.read_text("licenses/LICENSE") or "",
    }


def price_list(version: str, listed: list[Provider]) -> str:
    """JSON with a model to a line, in the order of the list."""
    lines = ",\n".join(map(provider_lines, listed))
    return f'{{"version": {as_json(version)}, "providers": [\n{lines}\n]}}\n'


def provider_lines(provider: Provider) -> str:
    """A provider: a line about it, and one for each of its models."""
    about = {
        "id": provider.id,
        "api_pattern": provider.api_pattern,
        "fallback_model_providers": provider.fallback_model_providers or [],
    }
    models = ",\n".join(as_json(model_entry(model)) for model in provider.models)
    return f'{as_json(about)[:-1]}, "models": [\n{models}\n]}}'


def model_entry(model: ModelInfo) -> dict[str, Any]:
    """A model: the names that it goes by, and its prices; the last that holds counts, and the first where none does."""
    prices = model.prices if isinstance(model.prices, list) else [ConditionalPrice(prices=model.prices)]
    return {
        "id": model.id,
        "names": names(model.match),
        "prices": [dict([*condition(price), *dollars(price.prices), *uncounted(price.prices)]) for price in prices],
    }


def names(match: MatchLogic) -> dict[str, list[Any]]:
    """The names that fit, which are asked for in lower case: one of these clauses, by their kinds, must be true.

    `and` has lists of what `names` returns, all of which must be true.
    """
    if isinstance(match, ClauseAnd):
        return {"and": [[names(part) for part in match.and_]]}
    if isinstance(match, ClauseOr):
        found: dict[str, list[Any]] = {}
        for part in map(names, match.or_):
            for kind, texts in part.items():
                found.setdefault(kind, []).extend(texts)
        return found
    ((kind, text),) = vars(match).items()
    return {kind: [text if isinstance(match, ClauseRegex) else text.lower()]}


def condition(price: ConditionalPrice) -> Iterator[tuple[str, Any]]:
    """When a price holds, in UTC: from a day on, or daily from one time until before another."""
    limit = price.constraint
    if isinstance(limit, StartDateConstraint):
        yield "from", limit.start_date.isoformat()
    elif limit is not None:
        yield "between", [time_of_day(limit.start_time), time_of_day(limit.end_time)]


def time_of_day(moment: time) -> str:
    """In UTC; what names no zone is."""
    return datetime.combine(date(2000, 1, 1), moment, moment.tzinfo or UTC).astimezone(UTC).time().isoformat()


def dollars(price: ModelPrice) -> Iterator[tuple[str, Any]]:
    """US dollars per million tokens. Where they depend on the size of the input: how many tokens it has more than, and
    the price of then; the first that fits counts."""
    for unit, name in UNITS.items():
        listed: Decimal | TieredPrices | None = getattr(price, name)
        if isinstance(listed, TieredPrices):
            yield unit, [*((tier.start, plain(tier.price)) for tier in reversed(listed.tiers)), (0, plain(listed.base))]
        elif listed is not None:
            yield unit, plain(listed)


def uncounted(price: ModelPrice) -> Iterator[tuple[str, Any]]:
    """The units because of which the prices of tokens do not say what a call costs, as calls, hours and pictures."""
    units = {unit for unit, listed in vars(price).items() if listed is not None}
    counted = {*UNITS.values()}
    if found := units - counted - LEFT_OUT if units & counted else units:
        yield "uncounted", sorted(found)


def plain(number: Decimal) -> str:
    """As a decimal string without zeros at its end."""
    return format(number.normalize(), "f")


def as_json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


if __name__ == "__main__":
    main()
