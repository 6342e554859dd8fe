"""Parsers: what the text of a setting may be. Each gives the value; it raises ValueError with what the text must be."""

from __future__ import annotations

import ipaddress
import math
import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from app.models import API_KEY_PATTERN

Parse = Callable[[str], Any]

PRICE_MAX = 1_000_000

PRINTABLE = r"[\x21-\x7e]+"
SEALING_KEY = r"[\x21-\x2b\x2d-\x7e]{32,256}"
SEALING_KEY_CHARACTERS = 8
SEALING_KEY_WORDS = "32 to 256 random printable ASCII characters without spaces and commas"
ORIGIN = r"(?i:[a-z][a-z0-9+.-]*)://([A-Za-z0-9._-]+|\[[0-9a-fA-F:.]+\])(:\d{1,5})?"
HOST = r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?|[0-9a-f.]*:[0-9a-f:.]*"


def text(raw: str) -> str:
    """Accept any text that UTF-8 can carry."""
    raw.encode()
    return raw


def text_or_none(raw: str) -> str:
    """Accept any text that UTF-8 can carry; `none` stands for an empty one, since an empty value sets nothing."""
    return "" if raw.strip().lower() == "none" else text(raw)


def integer(low: int, high: int) -> Parse:
    """Accept a whole number from `low` to `high`."""

    def parse(raw: str) -> int:
        if not re.fullmatch(r"[+-]?\d{1,15}", raw.strip()) or not low <= int(raw) <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return int(raw)

    return parse


def number(low: float, high: float) -> Parse:
    """Accept a finite number from `low` to `high`."""

    def parse(raw: str) -> float:
        wanted = f"must be a number from {low:g} to {high:g}"
        try:
            value = float(raw)
        except ValueError:
            raise ValueError(wanted) from None
        if not math.isfinite(value) or not low <= value <= high:
            raise ValueError(wanted)
        return value

    return parse


def price(raw: str) -> Decimal:
    """Accept US dollars per million tokens, exactly."""
    try:
        value = Decimal(raw)
    except InvalidOperation:
        value = Decimal("NaN")
    if not value.is_finite() or not 0 <= value <= PRICE_MAX:
        raise ValueError(f"must be a number of dollars from 0 to {PRICE_MAX}")
    return value


def flag(raw: str) -> bool:
    """Accept the usual words for on and off."""
    word = raw.strip().lower()
    if word in {"1", "true", "yes", "on"}:
        return True
    if word in {"0", "false", "no", "off"}:
        return False
    raise ValueError("must be true or false")


def choice(*allowed: str, upper: bool = False) -> Parse:
    """Accept one of the words `allowed`, in any case."""

    def parse(raw: str) -> str:
        word = raw.strip().upper() if upper else raw.strip().lower()
        if word not in allowed:
            raise ValueError("must be one of " + ", ".join(allowed))
        return word

    return parse


def api_key(raw: str) -> str:
    """Accept a key that can travel in an HTTP header."""
    if not API_KEY_PATTERN.fullmatch(raw.strip()):
        raise ValueError("must be 1 to 8000 printable ASCII characters without spaces")
    return raw.strip()


def digest_key(raw: str) -> str:
    """Accept a key that nobody guesses."""
    if not re.fullmatch(r"[\x21-\x7e]{8,256}", raw.strip()):
        raise ValueError("must be 8 to 256 printable ASCII characters without spaces")
    return raw.strip()


def sealing_key(raw: str) -> str:
    """Accept a random key, as text. What is plainly not random, as one letter over and over, is refused."""
    key = raw.strip()
    if not re.fullmatch(SEALING_KEY, key) or len(set(key)) < SEALING_KEY_CHARACTERS:
        raise ValueError(f"must be {SEALING_KEY_WORDS}")
    return key


def sealing_keys(raw: str) -> tuple[str, ...]:
    """Accept a comma-separated list of such keys."""
    try:
        return tuple(sealing_key(key) for key in raw.split(",") if key.strip())
    except ValueError:
        raise ValueError(f"must be keys separated by commas, each {SEALING_KEY_WORDS}") from None


def header(raw: str) -> str:
    """Accept what can travel in an HTTP header."""
    if not re.fullmatch(PRINTABLE, raw.strip()):
        raise ValueError("must be printable ASCII characters without spaces")
    return raw.strip()


def base_url(raw: str) -> str:
    """Accept an http(s) URL in ASCII with a host and without credentials, query, fragment or a route of the API."""
    url = raw.strip().rstrip("/")
    parts = urlsplit(url)
    if not _is_plain(url) or parts.query or parts.fragment:
        raise ValueError("must be an http(s) URL without credentials, query or fragment")
    if re.search(r"/(completions|responses|embeddings)$", parts.path, re.IGNORECASE):
        raise ValueError("must end before the route, as in https://api.openai.com/v1")
    return url


def hook_url(raw: str) -> str:
    """Accept an http(s) URL in ASCII with a host, and with a path and a query if need be, without credentials."""
    url = raw.strip()
    if not _is_plain(url) or "#" in url:
        raise ValueError("must be an http(s) URL without credentials or fragment")
    return url


def _is_plain(url: str) -> bool:
    """Whether it is an http(s) URL in ASCII with a host and without credentials; raises ValueError for a bad port."""
    parts = urlsplit(url)
    has_host = re.fullmatch(HOST, parts.hostname or "") is not None and parts.port != 0
    is_printable = re.fullmatch(PRINTABLE, url) is not None
    return parts.scheme in {"http", "https"} and has_host and is_printable and "@" not in parts.netloc


def proxy_url(raw: str) -> str:
    """Accept the URL of an HTTP proxy, also without its scheme, or the word `direct`."""
    url = raw.strip() if "://" in raw else f"http://{raw.strip()}"
    if raw.strip().lower() == "direct":
        return "direct"
    try:
        parts = urlsplit(url)
        sound = parts.scheme == "http" and re.fullmatch(HOST, parts.hostname or "") and parts.port != 0
    except ValueError:
        sound = False
    if not sound or not re.fullmatch(PRINTABLE, url) or parts.path not in {"", "/"} or parts.query or parts.fragment:
        raise ValueError("must be http://[user:password@]host:port or direct")
    return url


def pem_file(raw: str) -> str:
    """Accept the path of a file with certificates in PEM."""
    try:
        has_certificates = "BEGIN CERTIFICATE" in Path(raw.strip()).read_text()
    except (OSError, ValueError):
        has_certificates = False
    if not has_certificates:
        raise ValueError("must be a file with certificates in PEM")
    return raw.strip()


def database_url(raw: str) -> str:
    """Accept a URL of SQLite or of PostgreSQL, which is reached through psycopg whatever the URL's first word."""
    url = re.sub(r"^postgres(ql)?://", "postgresql+psycopg://", raw.strip())
    if not re.match(r"(sqlite:///|postgresql\+psycopg://)\S", url):
        raise ValueError("must be sqlite:///PATH or postgresql://…")
    return url


def origins(raw: str) -> tuple[str, ...]:
    """Accept a comma-separated list of origins: of web pages, and of desktop applications and browser extensions."""
    found = tuple(origin.strip().rstrip("/") for origin in raw.split(",") if origin.strip())
    if not all(re.fullmatch(ORIGIN, origin) for origin in found):
        raise ValueError("must be origins such as https://app.example or app://obsidian.md, without wildcards")
    return found


def hosts(raw: str) -> tuple[str, ...]:
    """Accept a comma-separated list of host names, without ports."""
    found = tuple(name.strip().lower().rstrip(".") for name in raw.split(",") if name.strip())
    if not all(re.fullmatch(HOST, name) for name in found):
        raise ValueError("must be host names without scheme and port")
    return found


def networks(raw: str) -> tuple[str, ...]:
    """Accept a comma-separated list of addresses and networks, or `*` for all, as gunicorn does."""
    found = tuple(name.strip() for name in raw.split(",") if name.strip())
    try:
        for name in found:
            if name != "*":
                ipaddress.ip_network(name)
    except ValueError:
        raise ValueError("must be addresses or networks such as 10.0.0.0/8, or *") from None
    return found
