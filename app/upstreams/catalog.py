"""Catalog: the upstreams there are and where each model is answered, read once at the start from UPSTREAMS_FILE.

Without a file there is one upstream, the settings' own, and every model is answered there. Format: docs/deployment,
"Several upstreams".
"""

from __future__ import annotations

import functools
import itertools
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, NoReturn

from app.config import Config, variable
from app.errors import ConfigurationException
from app.models import ApiKey
from app.parsers import api_key, base_url, choice, header, integer, number, price

SETTING = "UPSTREAMS_FILE"
LOCAL = "local"
"""As a base URL: the model that LOCAL_MODEL names."""
DIALECTS = ("responses", "chat_completions", "embeddings", "messages")
NATIVE_DIALECTS = ("responses", "chat_completions", "messages")
"""In which the native chat can be asked."""
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
PRICE_MEMBERS = ("input", "cached", "cache_write", "cache_write_1h", "output")
"""What PRICES_FILE may say of a model."""
MODEL = "{model}"
"""In a base URL: where the upstream wants the name of the model (Azure's deployments)."""


@dataclass(frozen=True, kw_only=True)
class UpstreamSettings:
    """One upstream. `keys` are tried by least in flight; an upstream that takes none has one that is empty.

    `key_header`: where the key goes; as `Bearer` where that is Authorization. `query` goes with every request.
    `max_in_flight`: calls that one worker has there at once; `first_byte_seconds`: how long one may say nothing.
    `provider` names whose prices hold; empty: known by the host. `prices` win over those, by model, with the members of
    PRICES_FILE.
    """

    name: str
    base_url: str
    dialects: tuple[str, ...] = DIALECTS
    keys: tuple[ApiKey, ...] = ()
    key_header: str = "Authorization"
    query: Mapping[str, str] = field(default_factory=dict)
    max_in_flight: int | None = None
    first_byte_seconds: float | None = None
    provider: str = ""
    prices: Mapping[str, Mapping[str, Decimal]] = field(default_factory=dict)
    is_local: bool = False


@dataclass(frozen=True)
class Target:
    """Where a model may be answered: an upstream, and the model's name there (empty: as asked)."""

    upstream: str
    model: str = ""
    weight: float = 1.0


@dataclass(frozen=True)
class Route:
    """The targets among which one is chosen by weight, and those that come after a failure, in order.

    `affinity`: `session` chooses the same target for the same client and session.
    """

    targets: tuple[Target, ...]
    on_failure: tuple[Target, ...] = ()
    affinity: str = ""


@dataclass(frozen=True)
class Catalog:
    """`upstreams` in the order of the file; `models` are those with a route of their own. `is_listed`: from a file.
    `key_variables`: the variables that hold the keys of the file."""

    upstreams: Mapping[str, UpstreamSettings]
    models: Mapping[str, Route] = field(default_factory=dict)
    is_listed: bool = False
    key_variables: frozenset[str] = frozenset()

    @classmethod
    def from_config(cls, config: Config, environ: Callable[[str], str | None] = variable) -> Catalog:
        """What the settings describe; `environ` gives the keys that the file names by variable.

        Raises ConfigurationException with the place of what cannot be used.
        """
        if not config.upstreams_file:
            return cls({"default": _of_settings(config)})
        try:
            document = tomllib.loads(_text(Path(config.upstreams_file)))
        except OSError as exc:
            _refuse(f"cannot be read ({exc.strerror})")
        except UnicodeDecodeError:
            _refuse("must be UTF-8")
        except tomllib.TOMLDecodeError as exc:
            where = re.search(r"line \d+", str(exc))
            _refuse(f"is not TOML ({where[0] if where else 'at its end'})")
        _check_members(document, ("upstreams", "models"), "")
        upstreams = {
            name: _upstream(name, _table(table, place), place, config, environ)
            for name, table, place in _tables(document, "upstreams")
        }
        if not upstreams:
            _refuse("must have an [upstreams.NAME]")
        models = {
            name: _route(_table(table, place), place, upstreams) for name, table, place in _tables(document, "models")
        }
        named = [_Reader(table, place).texts("key_env", header) for _, table, place in _tables(document, "upstreams")]
        return cls(upstreams, models, is_listed=True, key_variables=frozenset(itertools.chain(*named)))

    @property
    def secrets(self) -> list[str]:
        """The server's keys."""
        return [key.secret for upstream in self.upstreams.values() for key in upstream.keys if key.secret]

    @property
    def providers(self) -> dict[str, str]:
        """The provider that each upstream names; empty: it is known by the host."""
        return {name: upstream.provider for name, upstream in self.upstreams.items()}

    def speaks(self, dialect: str) -> Iterator[UpstreamSettings]:
        """The upstreams that speak a dialect; empty: all."""
        return (found for found in self.upstreams.values() if not dialect or dialect in found.dialects)


def native_dialect(settings: UpstreamSettings, wanted: str) -> str:
    """The dialect in which the native chat asks an upstream: UPSTREAM_API's, if it speaks that; empty: none."""
    return next((name for name in (wanted, *NATIVE_DIALECTS) if name in settings.dialects), "")


@functools.cache
def _text(file: Path) -> str:
    """What the file said at the start. A worker inherits it from gunicorn's master: as with the settings, no reload
    changes it, and a file that is half saved when a worker is replaced stops nobody."""
    return file.read_text(encoding="utf-8")


def _of_settings(config: Config) -> UpstreamSettings:
    key = ApiKey(config.openai_api_key, "default", config.openai_headers)
    return UpstreamSettings(
        name="default",
        base_url=config.openai_base_url,
        keys=(key,) if config.openai_api_key else (),
        is_local=bool(config.local_model),
    )


UPSTREAM_MEMBERS = (
    *("base_url", "dialects", "key_env", "key_header", "query"),
    *("max_in_flight", "first_byte_seconds", "provider", "prices"),
)


def _upstream(
    name: str, table: Mapping[str, Any], place: str, config: Config, environ: Callable[[str], str | None]
) -> UpstreamSettings:
    if not NAME.fullmatch(name):
        _refuse(f"{place}: a name is letters, digits, '.', '_' and '-'")
    _check_members(table, UPSTREAM_MEMBERS, place)
    read = _Reader(table, place)
    is_local = table.get("base_url") == LOCAL
    if is_local and not config.local_model:
        _refuse(f'{place}: base_url = "{LOCAL}" needs LOCAL_MODEL')
    dialects = read.texts("dialects", choice(*DIALECTS))
    if not dialects:
        _refuse(f"{place}: dialects must be a list of {', '.join(DIALECTS)}")
    return UpstreamSettings(
        name=name,
        base_url=config.openai_base_url if is_local else read.base_url(),
        dialects=dialects,
        keys=(ApiKey(config.openai_api_key, "default"),) if is_local else tuple(read.keys(environ)),
        key_header=read.one("key_header", header, "Authorization"),
        query=read.query(),
        max_in_flight=read.one("max_in_flight", integer(1, 100_000), None),
        first_byte_seconds=read.one("first_byte_seconds", number(0.1, 3600), None),
        provider=read.one("provider", header, ""),
        prices=_prices(table, place),
        is_local=is_local,
    )


def _prices(table: Mapping[str, Any], place: str) -> dict[str, dict[str, Decimal]]:
    """By model, in US dollars per million tokens."""
    found = {}
    for model, value in _table(table.get("prices", {}), f"{place} prices").items():
        where = f'{place} prices."{model}"'
        priced = _table(value, where)
        _check_members(priced, PRICE_MEMBERS, where)
        read = _Reader(priced, where)
        found[model] = {member: read.one(member, price, None) for member in priced}
        for member in ("input", "output"):
            if member not in priced:
                _refuse(f"{where}: {member} is missing")
    return found


def _route(table: Mapping[str, Any], place: str, upstreams: Mapping[str, UpstreamSettings]) -> Route:
    _check_members(table, ("targets", "on_failure", "affinity"), place)
    read = _Reader(table, place)
    targets = tuple(_targets(table, "targets", place, upstreams))
    if not targets:
        _refuse(f"{place}: targets must name an upstream")
    return Route(
        targets,
        tuple(_targets(table, "on_failure", place, upstreams)),
        read.one("affinity", choice("session"), ""),
    )


def _targets(
    table: Mapping[str, Any], member: str, place: str, upstreams: Mapping[str, UpstreamSettings]
) -> Iterator[Target]:
    listed = table.get(member, [])
    if not isinstance(listed, list):
        _refuse(f"{place}: {member} must be a list of tables")
    for index, given in enumerate(listed):
        where = f"{place} {member}[{index}]"
        entry = _table(given, where)
        _check_members(entry, ("upstream", "model", "weight") if member == "targets" else ("upstream", "model"), where)
        if entry.get("upstream") not in upstreams:
            _refuse(f"{where}: upstream must be one of {', '.join(upstreams)}")
        read = _Reader(entry, where)
        weight = read.one("weight", number(0.001, 1_000_000), 1.0)
        yield Target(entry["upstream"], read.one("model", _model_name, ""), weight)


class _Reader:
    """Reads the members of one table; what cannot be used is refused with its place."""

    def __init__(self, table: Mapping[str, Any], place: str) -> None:
        self._table = table
        self._place = place

    def one(self, member: str, parse: Callable[[str], Any], default: Any) -> Any:
        """A text or a number."""
        value = self._table.get(member)
        return default if value is None else self._parsed(member, value, parse)

    def texts(self, member: str, parse: Callable[[str], Any]) -> tuple[Any, ...]:
        """A list of texts, or one."""
        value = self._table.get(member, [])
        return tuple(self._parsed(member, item, parse) for item in (value if isinstance(value, list) else [value]))

    def base_url(self) -> str:
        """An http(s) URL, which may have a place for the model in its path."""
        url: str = self._parsed("base_url", self._table.get("base_url", ""), base_url)
        return url

    def query(self) -> dict[str, str]:
        """A table of texts."""
        table = _table(self._table.get("query", {}), f"{self._place} query")
        return {name: self._parsed(f"query {name}", value, header) for name, value in table.items()}

    def keys(self, environ: Callable[[str], str | None]) -> Iterator[ApiKey]:
        """The keys in the variables that `key_env` names; none is named: one that is empty."""
        names = self.texts("key_env", header)
        for name in names:
            value = environ(name)
            if not value:
                _refuse(f"{self._place}: key_env names {name}, which is not set")
            try:
                yield ApiKey(api_key(value), "default")
            except ValueError as exc:
                _refuse(f"{self._place}: {name} {exc}")
        if not names:
            yield ApiKey("", "default")

    def _parsed(self, member: str, value: Any, parse: Callable[[str], Any]) -> Any:
        if not isinstance(value, str | int | float) or isinstance(value, bool):
            _refuse(f"{self._place}: {member} must be a text or a number")
        try:
            return parse(str(value))
        except ValueError as exc:
            _refuse(f"{self._place}: {member} {exc}")


def _model_name(raw: str) -> str:
    if not raw.strip() or not raw.isprintable():
        raise ValueError("must not be empty, and printable")
    return raw.strip()


def _tables(document: Mapping[str, Any], member: str) -> Iterator[tuple[str, Any, str]]:
    for name, table in _table(document.get(member, {}), member).items():
        yield name, table, f"[{member}.{name}]"


def _table(value: Any, place: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        _refuse(f"{place} must be a table")
    return value


def _check_members(table: Mapping[str, Any], known: tuple[str, ...], place: str) -> None:
    for name in table:
        if name not in known:
            _refuse(f"{place or 'the file'}: {name} is not one of {', '.join(known)}")


def _refuse(reason: str) -> NoReturn:
    raise ConfigurationException(f"{SETTING} {reason}", SETTING)
