"""Prices: what tokens cost, in whole nano-dollars, from the price list that ships with genai-prices and an own file."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import logging
import time
import tomllib
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

from app.errors import ConfigurationException
from app.models import Usage
from app.units import NANO

logger = logging.getLogger(__name__)

MILLION = 1_000_000


Tiers = tuple[tuple[int, Decimal], ...]
"""What a million tokens cost, by how many tokens the input has more than: the first that fits counts."""


@dataclass(frozen=True)
class Price:
    """US dollars per million tokens."""

    input: Tiers
    cached: Tiers
    output: Tiers

    def cost_nano(self, usage: Usage) -> int:
        """Nano-dollars, rounded half up."""
        sent, cached = usage.input_tokens, usage.cached_tokens
        dollars = (sent - cached) * _rate(self.input, sent) + cached * _rate(self.cached, sent)
        return _nano((dollars + usage.output_tokens * _rate(self.output, sent)) / MILLION)


class Prices:
    """Knows the price of a model, or that it is unknown: that is None, never 0.

    `own` is a TOML file of `[models."NAME"]` tables with `input`, `output` and optionally `cached`, in US dollars per
    million tokens as strings or numbers; it wins over the list.
    """

    def __init__(self, own: Path | None = None) -> None:
        raw, self._own = _read_or_keep(own) if own is not None else (b"", {})
        self.version = "genai-prices " + importlib.metadata.version("genai-prices")
        if raw:
            self.version += " + " + hashlib.sha256(raw).hexdigest()[:8]

    def load(self) -> None:
        """Read the shipped list now: it takes a third of a second, which no request should pay."""
        _shipped("gpt-4o-mini")

    def cost_nano(self, model: str, usage: Usage, *, asked: str = "") -> int | None:
        """What `usage` of `model` costs, in nano-dollars rounded half up.

        `asked`: the name it was asked for by. Its listed price counts where the answering one, a dated form of it, has
        none; another model that answered in its place has no price by that. An own price counts by either name.
        """
        price = self._own.get(model) or self._own.get(asked) or _listed(model, asked, _this_hour())
        return None if price is None else price.cost_nano(usage)


class NoPrices:
    """Prices when nothing is accounted for: every one is unknown."""

    version = ""

    def load(self) -> None:
        """There is nothing to read."""

    def cost_nano(self, model: str, usage: Usage, *, asked: str = "") -> int | None:
        """Unknown."""
        return None


@functools.lru_cache(maxsize=1024)
def _listed(model: str, asked: str, hour: int) -> Price | None:
    """The shipped price; kept for an hour, as prices may depend on the time.

    The library would look it up anew for each sum. A test holds our sums and the library's equal.
    """
    names = [name for name in (model, asked) if name and (model or asked).startswith(name)]
    return next((price for name in names if (price := _shipped(name)) is not None), None)


def _shipped(model: str) -> Price | None:
    from genai_prices import Usage as ListUsage
    from genai_prices import calc_price

    try:
        found = calc_price(
            ListUsage(input_tokens=1, output_tokens=1), model_ref=model, provider_id="openai"
        ).model_price
    except LookupError:
        return None
    sent = _tiers(found.input_mtok)
    return Price(
        sent, _tiers(found.cache_read_mtok) if found.cache_read_mtok is not None else sent, _tiers(found.output_mtok)
    )


def _tiers(price: Any) -> Tiers:
    """The library's price of a unit as pairs, the dearest first."""
    if price is None or isinstance(price, Decimal):
        return ((0, price or Decimal(0)),)
    return (*((tier.start, tier.price) for tier in reversed(price.tiers)), (0, price.base))


def _rate(tiers: Tiers, sent: int) -> Decimal:
    return next((price for start, price in tiers if sent > start), tiers[-1][1])


def _this_hour() -> int:
    return int(time.time() // 3600)


def _nano(amount: Decimal) -> int:
    return int((amount * NANO).to_integral_value(ROUND_HALF_UP))


_last_good: dict[Path, bytes] = {}
"""What a file held when it could be read. A worker inherits it from gunicorn's master, which has read the file at the
start and reads it before each fork: a file that is half saved when a worker is replaced stops nobody."""


def _read_or_keep(own: Path) -> tuple[bytes, dict[str, Price]]:
    """What the file holds, or held before; nothing when there never was one. Raises ConfigurationException."""
    try:
        raw = own.read_bytes() if own.is_file() else _last_good.get(own, b"")
        found = _read(raw)
    except (OSError, ConfigurationException) as exc:
        if own not in _last_good:
            message = "PRICES_FILE does not hold prices that can be read"
            raise ConfigurationException(message, "PRICES_FILE") from exc
        logger.error("PRICES_FILE cannot be read; the prices of before count")
        return _last_good[own], _read(_last_good[own])
    if raw:
        _last_good[own] = raw
    return raw, found


def _read(raw: bytes) -> dict[str, Price]:
    try:
        tables: dict[str, Any] = tomllib.loads(raw.decode()).get("models", {})
        return {name: _price(table) for name, table in tables.items()}
    except (ValueError, ArithmeticError, KeyError, TypeError, AttributeError):
        raise ConfigurationException("PRICES_FILE does not hold prices that can be read", "PRICES_FILE") from None


def _price(table: dict[str, Any]) -> Price:
    given = {name: Decimal(str(value)) for name, value in table.items()}
    if not all(value.is_finite() and value >= 0 for value in given.values()):
        raise ValueError("a price is a number of dollars")
    return Price(*(((0, price),) for price in (given["input"], given.get("cached", given["input"]), given["output"])))
