"""Config: every setting of the server, read once from an environment mapping and then frozen."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any
from urllib.parse import urlsplit

from app.errors import ConfigurationException
from app.models import API_KEY_PATTERN

Parse = Callable[[str], Any]

PRINTABLE = r"[\x21-\x7e]+"
HOST = r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*\.?|[0-9a-f.]*:[0-9a-f:.]*"


def text(raw: str) -> str:
    """Accept any text that UTF-8 can carry."""
    raw.encode()
    return raw


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
        raise ValueError("must be 8 to 256 printable ASCII characters without spaces")
    return raw.strip()


def header(raw: str) -> str:
    """Accept what can travel in an HTTP header."""
    if not re.fullmatch(PRINTABLE, raw.strip()):
        raise ValueError("must be printable ASCII characters without spaces")
    return raw.strip()


def http_url(raw: str) -> str:
    """Accept an http(s) URL in ASCII with a host and without credentials, query or fragment."""
    url = raw.strip().rstrip("/")
    parts = urlsplit(url)
    plain = parts.scheme in {"http", "https"} and re.fullmatch(HOST, parts.hostname or "") and parts.port != 0
    if not plain or not re.fullmatch(PRINTABLE, url) or "@" in parts.netloc or parts.query or parts.fragment:
        raise ValueError("must be an http(s) URL without credentials, query or fragment")
    return url


def database_url(raw: str) -> str:
    """Accept a URL of SQLite or of PostgreSQL through psycopg."""
    url = raw.strip()
    if not re.match(r"(sqlite:///|postgresql\+psycopg://)\S", url):
        raise ValueError("must be sqlite:///PATH or postgresql+psycopg://…")
    return url


def origins(raw: str) -> tuple[str, ...]:
    """Accept a comma-separated list of web origins."""
    return tuple(http_url(origin) for origin in raw.split(",") if origin.strip())


def setting(default: Any, parse: Parse, meaning: str, *, secret: bool = False, empty: bool = False) -> Any:
    """Declare one setting. `empty`: an empty value is a value; elsewhere it means the default."""
    return field(default=default, repr=not secret, metadata={"parse": parse, "meaning": meaning, "empty": empty})


@dataclass(frozen=True, kw_only=True)
class Config:
    """The settings. A field's name in upper case is its environment variable."""

    server_host: str = setting("127.0.0.1", text, "address gunicorn listens on")
    server_port: int = setting(5601, integer(1, 65535), "port gunicorn listens on")
    web_concurrency: int = setting(os.cpu_count() or 1, integer(1, 512), "gunicorn workers; default: number of cores")
    worker_class: str = setting("gevent", choice("gevent", "gthread"), "gunicorn worker class")
    drain_seconds: float = setting(5.0, number(0, 300), "how long readiness says 503 before a stopping worker closes")

    openai_api_key: str = setting("", api_key, "the server's key", secret=True)
    openai_org_id: str = setting("", header, "organization sent with the server's key, never with a caller's")
    openai_project_id: str = setting("", header, "project sent with the server's key, never with a caller's")
    openai_base_url: str = setting("https://api.openai.com/v1", http_url, "any OpenAI-compatible upstream")
    upstream_api: str = setting(
        "responses", choice("responses", "chat_completions"), "which of upstream's APIs the native route uses"
    )
    openai_door_free_mode: bool = setting(False, flag, "free mode on /v1 when a request has no X-Free-Mode")
    local_model: str = setting("", text, "GGUF file, or `demo`: start a local model and use it as upstream")

    log_level: str = setting(
        "INFO", choice("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL", upper=True), "least severe level logged"
    )
    log_file: str = setting("logs/app.log", text, "log file; empty: standard output only", empty=True)
    log_format: str = setting("text", choice("text", "json"), "log format")

    default_model: str = setting("gpt-4o-mini", text, "model when the request names none")
    default_temperature: float = setting(0.7, number(0, 2), "temperature when the request gives none")
    default_max_tokens: int = setting(1000, integer(1, 10**9), "max_tokens when the request gives none")
    default_system_message: str = setting(
        "당신은 도움이 되는 AI 어시스턴트입니다.", text, "system message when the request gives none"
    )
    prompt_heading_role: str = setting("#역할", text, "heading above the role")
    prompt_heading_memory: str = setting("#기억", text, "heading above the memories")
    prompt_heading_instructions: str = setting("#추가 지시사항", text, "heading above the instructions")

    request_timeout: float = setting(120.0, number(0.1, 3600), "seconds for one request in all, retries included")
    max_concurrent_requests: int = setting(200, integer(1, 100_000), "upstream calls in flight per worker")
    max_queue_seconds: float = setting(5.0, number(0, 3600), "seconds a request may wait for a slot")
    keepalive_seconds: float = setting(5.0, number(0.05, 300), "seconds between two keepalive comments of a stream")
    default_max_context_tokens: int = setting(
        0, integer(0, 10**9), "max_context_tokens when the request gives none; 0: off"
    )
    max_request_bytes: int = setting(1_048_576, integer(1024, 2**31), "largest request body; 413 above it")

    cache_enabled: bool = setting(False, flag, "keep answers to identical requests")
    cache_ttl: float = setting(300.0, number(0.1, 10**7), "seconds an answer is kept")
    cache_max_size: int = setting(1000, integer(1, 10**7), "answers kept per worker")

    memory_log_seconds: float = setting(300.0, number(0.1, 10**7), "seconds between two log lines of the memory in use")
    memory_soft_limit_mb: int = setting(0, integer(0, 10**7), "resident MB above which a worker is replaced; 0: off")

    auth_mode: str = setting(
        "",
        choice("open", "token"),
        "`token`: every caller needs one; `open`: nobody does; default: open on loopback only",
    )
    database_url: str = setting(
        "sqlite:///instance/llm_server.db", database_url, "SQLite or PostgreSQL (`postgresql+psycopg://…`)", secret=True
    )
    database_timeout: float = setting(3.0, number(0.1, 60), "seconds a request waits for the database")
    token_digest_key: str = setting(
        "", api_key, "keys the digests of tokens; default: a key made once beside the SQLite file", secret=True
    )
    ledger_fail_open: bool = setting(False, flag, "in open mode, answer unrecorded while the database is away")
    ledger_retention_days: int = setting(0, integer(0, 36500), "days a settled ledger row is kept; 0: forever")
    prices_file: str = setting("prices.toml", text, "own prices that add to or replace the shipped list")
    system_api_public: bool = setting(False, flag, "answer the system routes to everybody, not only to loopback")
    cors_origins: tuple[str, ...] = setting((), origins, "web origins that may call the API, comma-separated")

    @property
    def token_required(self) -> bool:
        """Whether every caller needs a token."""
        return self.auth_mode == "token"

    @property
    def openai_headers(self) -> dict[str, str]:
        """The headers that go to upstream with the server's key."""
        named = {"OpenAI-Organization": self.openai_org_id, "OpenAI-Project": self.openai_project_id}
        return {name: value for name, value in named.items() if value}

    def check_exposure(self) -> None:
        """Refuse to let the public spend the server's key by mistake; raises ConfigurationException."""
        loopback = self.server_host in {"localhost", "::1"} or self.server_host.startswith("127.")
        if self.openai_api_key and not loopback and not self.auth_mode:
            raise ConfigurationException(
                "AUTH_MODE must be set: SERVER_HOST is public, so anybody who reaches it would spend OPENAI_API_KEY. "
                "Set AUTH_MODE=token (then: flask clients add NAME), or AUTH_MODE=open if that is meant",
                "AUTH_MODE",
            )

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Config:
        """Read the settings from `environ` (default: the process's environment).

        Raises ConfigurationException naming the first bad variable, never its value.
        """
        environ = os.environ if environ is None else environ
        values = {}
        for item in fields(cls):
            raw = environ.get(item.name.upper())
            if raw is not None and (raw.strip() or item.metadata["empty"]):
                values[item.name] = _parsed(item.name.upper(), item.metadata["parse"], raw)
        return cls(**values)

    def get(self, key: str, default: str | None = None) -> str | None:
        """Give a setting as text under its environment name, as the seed does; unknown names give `default`."""
        value = getattr(self, key.lower(), None)
        return default if value is None or callable(value) else str(value)

    def get_int(self, key: str, default: int = 0) -> int:
        """Give a setting as a whole number; `default` when it is unknown, empty or not one."""
        try:
            return int(self.get(key) or default)
        except ValueError:
            return default


def _parsed(name: str, parse: Parse, raw: str) -> Any:
    try:
        return parse(raw)
    except UnicodeError:
        raise ConfigurationException(f"{name} must be valid UTF-8", name) from None
    except ValueError as exc:
        wanted = str(exc) if str(exc).startswith("must") else "has a value that cannot be used"
        raise ConfigurationException(f"{name} {wanted}", name) from None
