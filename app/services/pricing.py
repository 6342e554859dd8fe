"""Prices: what tokens cost, in whole nano-dollars, from the price list that ships with genai-prices and an own file."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
import tomllib
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path
from typing import Any

from app.errors import ConfigurationException
from app.models import Usage

NANO = 1_000_000_000
MILLION = 1_000_000


@dataclass(frozen=True)
class Price:
    """US dollars per million tokens."""

    input: Decimal
    cached: Decimal
    output: Decimal


class Prices:
    """Knows the price of a model, or that it is unknown: that is None, never 0.

    `own` is a TOML file of `[models."NAME"]` tables with `input`, `output` and optionally `cached`, in US dollars per
    million tokens as strings or numbers; it wins over the list.
    """

    def __init__(self, own: Path | None = None) -> None:
        raw = own.read_bytes() if own is not None and own.is_file() else b""
        self._own = _read(raw)
        self.version = "genai-prices " + importlib.metadata.version("genai-prices")
        if raw:
            self.version += " + " + hashlib.sha256(raw).hexdigest()[:8]

    def load(self) -> None:
        """Read the shipped list now: it takes a third of a second, which no request should pay."""
        _is_listed("gpt-4o-mini")

    def cost_nano(self, model: str, usage: Usage, *, asked: str = "") -> int | None:
        """What `usage` of `model` costs, in nano-dollars rounded half up.

        `asked`: the name it was asked for by. Its listed price counts where the answering one, a dated form of it, has
        none; another model that answered in its place has no price by that. An own price counts by either name.
        """
        price = self._own.get(model) or self._own.get(asked)
        if price is not None:
            fresh = usage.input_tokens - usage.cached_tokens
            dollars = fresh * price.input + usage.cached_tokens * price.cached + usage.output_tokens * price.output
            return _nano(dollars / MILLION)
        names = [name for name in (model, asked) if name and (model or asked).startswith(name)]
        costs = (_listed_cost(name, usage.input_tokens, usage.cached_tokens, usage.output_tokens) for name in names)
        return next((cost for cost in costs if cost is not None), None)


class NoPrices:
    """Prices when nothing is accounted for: every one is unknown."""

    version = ""

    def cost_nano(self, model: str, usage: Usage, *, asked: str = "") -> int | None:
        """Unknown."""
        return None


def dollars(nano: int | None) -> str | None:
    """Nano-dollars as a decimal string of dollars; None stays unknown."""
    return None if nano is None else format(Decimal(nano) / NANO, "f")


def _listed_cost(model: str, sent: int, cached: int, written: int) -> int | None:
    from genai_prices import Usage as ListUsage
    from genai_prices import calc_price

    if not _is_listed(model):
        return None
    usage = ListUsage(input_tokens=sent, cache_read_tokens=cached or None, output_tokens=written)
    return _nano(calc_price(usage, model_ref=model, provider_id="openai").total_price)


@functools.lru_cache(maxsize=1024)
def _is_listed(model: str) -> bool:
    from genai_prices import Usage as ListUsage
    from genai_prices import calc_price

    try:
        calc_price(ListUsage(input_tokens=1, output_tokens=1), model_ref=model, provider_id="openai")
    except LookupError:
        return False
    return True


def _nano(amount: Decimal) -> int:
    return int((amount * NANO).to_integral_value(ROUND_HALF_UP))


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
    return Price(given["input"], given.get("cached", given["input"]), given["output"])
