"""The price list that ships with the server: what a model costs at a provider at a moment.

`make prices` writes the list from the package genai-prices (docs/prices.py says what stands in it). What is found in it
is what the package finds, but for models that charge by more than tokens: test_price_list.py asks both for every model.
"""

from __future__ import annotations

import functools
import itertools
import operator
import re
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

from app.json_bytes import glance_json

FILE = Path(__file__).with_name("price_list.json")
CONDITIONS = {"from", "between"}
COMPACT_DATE = re.compile(r"-(20[0-9]{6})(?=[-:]|$)")
Listed = str | list[tuple[int, str]]
"""US dollars per million tokens; or pairs of how many tokens the input has more than and the price then, of which the
first that fits counts."""


@functools.cache
def shipped() -> PriceList:
    """The list of this release. Its first call reads it, which takes 5 ms."""
    return PriceList(FILE.read_bytes())


class PriceList:
    """A list in JSON. `version` is its name in the ledger, that of the package."""

    def __init__(self, raw: bytes) -> None:
        listed = glance_json(raw)
        self.version = str(listed["version"])
        self._providers: dict[str, Any] = {provider["id"]: provider for provider in listed["providers"]}

    def has_provider(self, name: str) -> bool:
        """Tell whether a provider has that name."""
        return name in self._providers

    def provider_at(self, base_url: str) -> str | None:
        """The first provider that a base URL belongs to."""
        providers = self._providers.items()
        return next((name for name, about in providers if re.match(about["api_pattern"], base_url)), None)

    def find(self, model: str, provider: str, moment: datetime) -> dict[str, Listed] | None:
        """The prices of a model at a provider of the list, by the fields of `Price`; None when that has no such model,
        or also charges by a unit that nobody counts here.

        A name that no model goes by is tried once more with its date as the list writes dates.
        """
        name = model.lower()
        tried = dict.fromkeys([name, COMPACT_DATE.sub(_with_dashes, name)])
        prices = next((prices for name in tried if (prices := self._prices(name, provider)) is not None), None)
        if prices is None:
            return None
        utc = moment.astimezone(UTC)
        day, clock = utc.date().isoformat(), utc.time().isoformat()
        price = next((price for price in reversed(prices) if _holds(price, day, clock)), prices[0])
        known = {unit: listed for unit, listed in price.items() if unit not in CONDITIONS}
        return None if "uncounted" in known else known

    def _prices(self, name: str, provider: str) -> list[dict[str, Any]] | None:
        """Those of the first model that goes by the name, here or else at the providers whose models it has, too."""
        there = [provider, *self._providers[provider]["fallback_model_providers"]]
        models = itertools.chain.from_iterable(self._providers[place]["models"] for place in there)
        return next((model["prices"] for model in models if _fits(name, model["names"])), None)


def _fits(name: str, clauses: Mapping[str, list[Any]]) -> bool:
    return any(CLAUSES[kind](name, text) for kind, texts in clauses.items() for text in texts)


CLAUSES: Mapping[str, Callable[[str, Any], bool]] = {
    "equals": operator.eq,
    "starts_with": str.startswith,
    "ends_with": str.endswith,
    "contains": operator.contains,
    "regex": lambda name, pattern: re.search(pattern, name) is not None,
    "and": lambda name, parts: all(_fits(name, part) for part in parts),
}
"""What each kind of clause asks of a name."""


def _with_dashes(found: re.Match[str]) -> str:
    """`-20251211` as `-2025-12-11`; what is no date stays."""
    try:
        return f"-{date.fromisoformat(found[1])}"
    except ValueError:
        return found[0]


def _holds(price: Mapping[str, Any], day: str, clock: str) -> bool:
    """Dates and times in ISO 8601 are in order as texts."""
    if "between" in price:
        start, end = map(str, price["between"])
        return start <= clock < end if start <= end else not end <= clock < start
    return str(price.get("from", "")) <= day
