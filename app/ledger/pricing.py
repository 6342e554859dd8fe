"""Prices: what tokens cost, in whole nano-dollars, from the shipped price list and an own file."""

from __future__ import annotations

import functools
import hashlib
import logging
import re
import time
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from app.errors import ConfigurationException
from app.ledger.price_list import Listed, shipped
from app.models import Usage
from app.units import NANO

logger = logging.getLogger(__name__)

MILLION = 1_000_000
DATED = re.compile(r"-(\d{4}-\d{2}-\d{2}|\d{8}|\d{4}|latest)")
"""How the name of one version of a model ends."""
FEE_PER_CALL = re.compile(r"-search|perplexity/sonar", re.IGNORECASE)
"""In the names of models whose calls cost a fee beside their tokens, which the list does not tell everywhere."""
HALF_HOUR = 1800
NOT_LISTED = "openai"
"""Whose prices hold at an upstream that the list does not know."""


SHARES = 10**9
"""So many make a nano-dollar: whole numbers for prices of up to 12 decimal places of a dollar per million tokens."""
Tiers = tuple[tuple[int, int], ...]
"""What a token costs (shares), by how many tokens the input has more than: the first that fits counts."""
FREE: Tiers = ((0, 0),)


@dataclass(frozen=True)
class Price:
    """Shares per token; sound, and what is written to a cache, cost otherwise: None where the list does not say."""

    input: Tiers
    cached: Tiers
    output: Tiers
    input_audio: Tiers | None = None
    output_audio: Tiers | None = None
    cache_write: Tiers | None = None
    cache_write_1h: Tiers | None = None

    def cost_nano(self, usage: Usage) -> int | None:
        """Nano-dollars, rounded half up; None when a part of the usage has no price here."""
        sent = usage.input_tokens
        heard, spoken = usage.input_audio_tokens, usage.output_audio_tokens
        kept, kept_1h = usage.cache_write_tokens, usage.cache_write_1h_tokens
        if usage.service_tier or (heard and self.input_audio is None) or (spoken and self.output_audio is None):
            return None
        if usage.has_fees or (kept and self.cache_write is None) or (kept_1h and self.cache_write_1h is None):
            return None
        cached = min(usage.cached_tokens, sent - heard)
        anew = sent - heard - cached - kept - kept_1h
        shares = anew * _rate(self.input, sent) + cached * _rate(self.cached, sent)
        shares += (usage.output_tokens - spoken) * _rate(self.output, sent)
        if self.cache_write is not None:
            shares += kept * _rate(self.cache_write, sent)
        if self.cache_write_1h is not None:
            shares += kept_1h * _rate(self.cache_write_1h, sent)
        if self.input_audio is not None:
            shares += heard * _rate(self.input_audio, sent)
        if self.output_audio is not None:
            shares += spoken * _rate(self.output_audio, sent)
        return (2 * shares + SHARES) // (2 * SHARES)


@dataclass(frozen=True)
class PricedUpstream:
    """Whose prices hold at an upstream: `provider` is the list's name of one, or the base URL to know it by. `own` wins
    over all others; by model, tables as in PRICES_FILE."""

    provider: str
    own: Mapping[str, Mapping[str, Decimal]]


class Prices:
    """Knows the price of a model, or that it is unknown: that is None, never 0.

    `own` is a TOML file of `[models."NAME"]` tables with `input`, `output` and optionally `cached`, `cache_write` and
    `cache_write_1h`, in US dollars per million tokens as strings or numbers; it wins over the list. `upstreams` are by
    name; what is none of them is at `base_url`.
    """

    def __init__(
        self, own: Path | None = None, base_url: str = "", upstreams: Mapping[str, PricedUpstream] | None = None
    ) -> None:
        raw, self._own = _read_or_keep(own) if own is not None else (b"", {})
        self._base_url = base_url
        self._providers = {name: priced.provider for name, priced in (upstreams or {}).items()}
        self._at = {
            (name, model): _price(table)
            for name, priced in (upstreams or {}).items()
            for model, table in priced.own.items()
        }
        if self._at:
            raw += repr(self._at).encode()
        self._mark = " + " + hashlib.sha256(raw).hexdigest()[:8] if raw else ""

    @functools.cached_property
    def version(self) -> str:
        """What the ledger calls these prices: the list, and a digest of what is added to it."""
        return shipped().version + self._mark

    def load(self) -> None:
        """Read the shipped list now: it takes a few milliseconds, which no request should pay."""
        self.price("gpt-4o-mini")

    def price(self, model: str, *, asked: str = "", upstream: str = "") -> Price | None:
        """What tokens of `model` cost; None when that is not known.

        `asked`: the name it was asked for by. Its listed price counts where the answering one, a dated form of it, has
        none; another model that answered in its place has no price by that. An own price counts by either name.
        `upstream`: the name of the one that answers; empty: the only one.
        """
        there = self._at.get((upstream, model)) or self._at.get((upstream, asked)) if self._at else None
        own = there or self._own.get(model) or self._own.get(asked)
        provider = _provider(self._providers.get(upstream) or self._base_url)
        return own or _listed(model, asked, provider, int(time.time() // HALF_HOUR))

    def cost_nano(self, model: str, usage: Usage, *, asked: str = "", upstream: str = "") -> int | None:
        """What `usage` of `model` costs, in nano-dollars rounded half up; see `price`."""
        price = self.price(model, asked=asked, upstream=upstream)
        return None if price is None else price.cost_nano(usage)


def check_providers(named: Mapping[str, str]) -> None:
    """See that the list knows each provider that an upstream names; a misspelt one would be billed as OpenAI is.

    `named` is by upstream, empty where it names none. Raises ConfigurationException.
    """
    for upstream, provider in named.items():
        if provider and not shipped().has_provider(provider):
            place = f"UPSTREAMS_FILE [upstreams.{upstream}]"
            raise ConfigurationException(f"{place}: provider must be one of the price list, as azure", "UPSTREAMS_FILE")


class NoPrices:
    """Prices when nothing is accounted for: every one is unknown."""

    version = ""

    def load(self) -> None:
        """There is nothing to read."""

    def price(self, model: str, *, asked: str = "", upstream: str = "") -> Price | None:
        """Unknown."""
        return None

    def cost_nano(self, model: str, usage: Usage, *, asked: str = "", upstream: str = "") -> int | None:
        """Unknown."""
        return None


@functools.lru_cache(maxsize=1024)
def _listed(model: str, asked: str, provider: str, half_hour: int) -> Price | None:
    """The shipped price; kept for half an hour, as all prices of the list change on the hour or half past it."""
    moment = datetime.fromtimestamp(half_hour * HALF_HOUR, UTC)
    names = [model] if model else [asked]
    if model.startswith(asked) and DATED.fullmatch(model.removeprefix(asked)):
        names.append(asked)
    return next((price for name in names if name and (price := _shipped(name, provider, moment)) is not None), None)


def _shipped(model: str, provider: str, moment: datetime) -> Price | None:
    """The list's price of a model at a provider."""
    listed = None if FEE_PER_CALL.search(model) else _find(model, provider, moment)
    if listed is None:
        return None
    tiers = {unit: _tiers(price) for unit, price in listed.items()}
    sent = tiers.get("input", FREE)
    return Price(**{"input": sent, "cached": sent, "output": FREE, **tiers})


def _find(model: str, provider: str, moment: datetime) -> dict[str, Listed] | None:
    """What the list says of a model at a provider; where it says nothing, of the one that the name's prefix tells, as
    `openai/gpt-4o-mini`. What that one gives away may cost something where another serves it."""
    prefix, _, rest = model.partition("/")
    has_prefix = rest and shipped().has_provider(prefix)
    here = provider or ("" if has_prefix else NOT_LISTED)
    listed = shipped().find(model, here, moment) if here else None
    if listed is None and has_prefix:
        listed = shipped().find(rest, prefix, moment)
        return None if listed == {} and here not in {"", prefix} else listed
    return listed


@functools.cache
def _provider(place: str) -> str:
    """The provider of that name, or the one that a base URL belongs to; empty where the list knows none."""
    return place if shipped().has_provider(place) else shipped().provider_at(place) or ""


def _tiers(listed: Listed) -> Tiers:
    pairs = [(0, listed)] if isinstance(listed, str) else listed
    return tuple((start, _shares(Decimal(dollars))) for start, dollars in pairs)


def _shares(dollars_per_million: Decimal) -> int:
    return int(dollars_per_million * NANO * SHARES / MILLION)


def _rate(tiers: Tiers, sent: int) -> int:
    for start, price in tiers:
        if sent > start:
            return price
    return tiers[-1][1]


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


def _price(table: Mapping[str, Any]) -> Price:
    given = {name: Decimal(str(value)) for name, value in table.items()}
    if not all(value.is_finite() and value >= 0 for value in given.values()):
        raise ValueError("a price is a number of dollars")
    flat: dict[str, Tiers] = {name: ((0, _shares(value)),) for name, value in given.items()}
    return Price(
        input=flat["input"],
        cached=flat.get("cached", flat["input"]),
        output=flat["output"],
        cache_write=flat.get("cache_write"),
        cache_write_1h=flat.get("cache_write_1h"),
    )
