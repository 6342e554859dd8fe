"""Settings: what each accepts and refuses, what an error tells, and what gunicorn does with a bad one."""

from __future__ import annotations

import os
from dataclasses import fields
from typing import Any

import pytest

from app.config import Config, is_public
from app.errors import ConfigurationException

GOOD = [
    ("SERVER_HOST", "0.0.0.0", "0.0.0.0"),
    ("SERVER_HOST", "::1", "::1"),
    *[("SERVER_PORT", raw, int(raw)) for raw in ("1", " 8080 ", "65535", "+5601")],
    *[("WEB_CONCURRENCY", raw, int(raw)) for raw in ("1", "512")],
    *[("WORKER_CLASS", raw, raw.strip().lower()) for raw in ("gevent", "gthread", " GThread ")],
    *[("DRAIN_SECONDS", raw, float(raw)) for raw in ("0", "2.5", "300")],
    ("OPENAI_API_KEY", "sk-12345", "sk-12345"),
    ("OPENAI_API_KEY", "  sk-12345\n", "sk-12345"),
    *[("OPENAI_API_KEY", raw, raw) for raw in ("x", "EMPTY", "k" * 1800, "k" * 8000, 'a"b', "it's")],
    ("OPENAI_ORG_ID", "org-1", "org-1"),
    ("OPENAI_PROJECT_ID", "proj-1", "proj-1"),
    ("OPENAI_BASE_URL", "http://127.0.0.1:8080/v1/", "http://127.0.0.1:8080/v1"),
    ("OPENAI_BASE_URL", " https://[::1]:8443/v1 ", "https://[::1]:8443/v1"),
    ("OPENAI_BASE_URL", "http://llm_1.internal.:80", "http://llm_1.internal.:80"),
    ("LOCAL_MODEL", "demo", "demo"),
    *[("UPSTREAM_API", raw, raw.strip().lower()) for raw in ("responses", " Chat_Completions ")],
    *[("OPENAI_DOOR_FREE_MODE", raw, raw == "on") for raw in ("on", "off")],
    *[("UPSTREAM_MESSAGES", raw, raw == "on") for raw in ("on", "off")],
    *[("KEEPALIVE_SECONDS", raw, float(raw)) for raw in ("0.05", "300")],
    *[("DEFAULT_MAX_CONTEXT_TOKENS", raw, int(raw)) for raw in ("0", "128000")],
    *[("LOG_LEVEL", raw, raw.strip().upper()) for raw in ("DEBUG", "info", " Warning ", "ERROR", "critical")],
    ("LOG_FILE", "", ""),
    ("LOG_FILE", "/var/log/llm.log", "/var/log/llm.log"),
    *[("LOG_FORMAT", raw, raw.lower()) for raw in ("text", "JSON")],
    ("DEFAULT_MODEL", "gpt-4o", "gpt-4o"),
    *[("DEFAULT_TEMPERATURE", raw, float(raw)) for raw in ("0", "2", "1e-3")],
    *[("DEFAULT_MAX_TOKENS", raw, int(raw)) for raw in ("1", "1000000000")],
    *[("MAX_OUTPUT_TOKENS", raw, int(raw)) for raw in ("1", "1000000000")],
    ("DEFAULT_SYSTEM_MESSAGE", "너는 교사다", "너는 교사다"),
    ("PROMPT_HEADING_ROLE", "#Role", "#Role"),
    ("PROMPT_HEADING_MEMORY", "#Memory", "#Memory"),
    ("PROMPT_HEADING_INSTRUCTIONS", "#Instructions", "#Instructions"),
    *[("REQUEST_TIMEOUT", raw, float(raw)) for raw in ("0.1", "30", "3600")],
    *[("STREAM_IDLE_SECONDS", raw, float(raw)) for raw in ("0.1", "120", "3600")],
    *[("STREAM_MAX_SECONDS", raw, float(raw)) for raw in ("0.1", "3600", "86400")],
    *[("MAX_CONCURRENT_REQUESTS", raw, int(raw)) for raw in ("1", "100000")],
    *[("MAX_QUEUE_SECONDS", raw, float(raw)) for raw in ("0", "0.5", "3600")],
    *[("MAX_REQUEST_BYTES", raw, int(raw)) for raw in ("1024", "2147483648")],
    *[("CACHE_ENABLED", raw, True) for raw in ("1", "true", "YES", " On ")],
    *[("CACHE_ENABLED", raw, False) for raw in ("0", "false", "No", "off")],
    *[("CACHE_TTL", raw, float(raw)) for raw in ("0.1", "86400")],
    *[("CACHE_MAX_SIZE", raw, int(raw)) for raw in ("1", "10000000")],
    *[("MEMORY_LOG_SECONDS", raw, float(raw)) for raw in ("0.1", "60")],
    *[("MEMORY_SOFT_LIMIT_MB", raw, int(raw)) for raw in ("0", "512")],
    *[("AUTH_MODE", raw, raw.strip().lower()) for raw in ("open", " Token ")],
    ("DATABASE_URL", "sqlite:////var/lib/x.db", "sqlite:////var/lib/x.db"),
    ("DATABASE_URL", " postgresql+psycopg://me:pw@host/db\n", "postgresql+psycopg://me:pw@host/db"),
    *[("DATABASE_TIMEOUT", raw, float(raw)) for raw in ("0.1", "60")],
    ("TOKEN_DIGEST_KEY", "k" * 32, "k" * 32),
    *[("LEDGER_FAIL_OPEN", raw, raw == "on") for raw in ("on", "off")],
    *[("LEDGER_RETENTION_DAYS", raw, int(raw)) for raw in ("0", "400")],
    ("PRICES_FILE", "/etc/prices.toml", "/etc/prices.toml"),
    ("SYSTEM_API_PUBLIC", "true", True),
    ("ALLOWED_HOSTS", "llm.example, GPU-Box.,::1", ("llm.example", "gpu-box", "::1")),
    ("CORS_ORIGINS", "https://a.example, http://localhost:3000/", ("https://a.example", "http://localhost:3000")),
    *[
        ("CORS_ORIGINS", raw, (raw,))
        for raw in (
            *("app://obsidian.md", "tauri://localhost", "chrome-extension://abc", "vscode-webview://1f-2e"),
            *("http://[::1]:3000", "capacitor://localhost", "moz-extension://3f0a"),
        )
    ],
]

NOT_WHOLE = ["x", "1.5", "1e3", "0x10", "1 2", "NaN", "-1", "9" * 20, "１２3x"]
NOT_NUMBERS = ["x", "NaN", "inf", "-inf", "1e999", "-1", "1,5", "9" * 20]
BAD = [
    *[("SERVER_PORT", raw) for raw in (*NOT_WHOLE, "0", "65536")],
    *[("WEB_CONCURRENCY", raw) for raw in (*NOT_WHOLE, "0", "513")],
    *[("WORKER_CLASS", raw) for raw in ("sync", "uvicorn.workers.UvicornWorker")],
    *[("DRAIN_SECONDS", raw) for raw in (*NOT_NUMBERS, "301")],
    *[("OPENAI_API_KEY", raw) for raw in ("with space", "열쇠열쇠열쇠열쇠", "k" * 8001, "key\nkey-key")],
    *[("OPENAI_BASE_URL", raw) for raw in ("api.openai.com", "ftp://x-host", "http://", "https://me:pw@x-host/v1")],
    *[
        ("OPENAI_BASE_URL", raw)
        for raw in ("http://x-host:port", "http://x-host:0", "http://x-host/?a=b", "http://[::1")
    ],
    *[
        ("OPENAI_BASE_URL", raw)
        for raw in ("http://x host/v1", "http://x-host/v 1", "http://한국.kr", "http://a\tb", "http://a..b")
    ],
    *[(name, raw) for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID") for raw in ("한국", "org 1", "org\r\nX: y")],
    ("UPSTREAM_API", "assistants"),
    *[("KEEPALIVE_SECONDS", raw) for raw in (*NOT_NUMBERS, "0", "301")],
    *[("DEFAULT_MAX_CONTEXT_TOKENS", raw) for raw in NOT_WHOLE],
    *[("LOG_LEVEL", raw) for raw in ("LOUD", "10")],
    ("LOG_FORMAT", "xml"),
    *[("DEFAULT_TEMPERATURE", raw) for raw in (*NOT_NUMBERS, "2.1")],
    *[("DEFAULT_MAX_TOKENS", raw) for raw in (*NOT_WHOLE, "0", "1000000001")],
    *[("MAX_OUTPUT_TOKENS", raw) for raw in (*NOT_WHOLE, "0", "1000000001")],
    *[("REQUEST_TIMEOUT", raw) for raw in (*NOT_NUMBERS, "0", "3601")],
    *[("STREAM_IDLE_SECONDS", raw) for raw in (*NOT_NUMBERS, "0", "3601")],
    *[("STREAM_MAX_SECONDS", raw) for raw in (*NOT_NUMBERS, "0", "86401")],
    *[("MAX_CONCURRENT_REQUESTS", raw) for raw in (*NOT_WHOLE, "0", "100001")],
    *[("MAX_QUEUE_SECONDS", raw) for raw in (*NOT_NUMBERS, "3601")],
    *[("MAX_REQUEST_BYTES", raw) for raw in (*NOT_WHOLE, "1023")],
    *[("CACHE_TTL", raw) for raw in (*NOT_NUMBERS, "0")],
    *[("CACHE_MAX_SIZE", raw) for raw in (*NOT_WHOLE, "0")],
    *[("MEMORY_LOG_SECONDS", raw) for raw in (*NOT_NUMBERS, "0")],
    *[("MEMORY_SOFT_LIMIT_MB", raw) for raw in NOT_WHOLE],
    *[("AUTH_MODE", raw) for raw in ("closed", "tokens", "0")],
    *[("DATABASE_URL", raw) for raw in ("mysql://x/y", "instance/x.db", "postgresql://x/y")],
    *[("DATABASE_TIMEOUT", raw) for raw in (*NOT_NUMBERS, "0", "61")],
    *[("TOKEN_DIGEST_KEY", raw) for raw in ("short-7", "with space")],
    *[("LEDGER_RETENTION_DAYS", raw) for raw in (*NOT_WHOLE, "36501")],
    *[
        (name, raw)
        for name in (
            "CACHE_ENABLED",
            "SYSTEM_API_PUBLIC",
            "OPENAI_DOOR_FREE_MODE",
            "LEDGER_FAIL_OPEN",
            "UPSTREAM_MESSAGES",
        )
        for raw in ("maybe", "2", "truee")
    ],
    *[("CORS_ORIGINS", raw) for raw in ("*", "a.example", "https://a.example, b.example", "null", "a://")],
    *[("ALLOWED_HOSTS", raw) for raw in ("http://a.example", "a.example:80", "*", "a b", "a.example/x")],
    *[("CORS_ORIGINS", raw) for raw in ("https://*.example.com", "https://u@a.example", "https://a.example/x?y")],
]

TEXTS = [item.name.upper() for item in fields(Config) if item.type == "str"]


@pytest.mark.parametrize(("name", "raw", "value"), GOOD)
def test_a_good_value(name: str, raw: str, value: Any) -> None:
    """A value is read as its type, with white space around it ignored."""
    assert getattr(Config.from_env({name: raw}), name.lower()) == value


@pytest.mark.parametrize(("name", "raw"), BAD)
def test_a_bad_value(name: str, raw: str) -> None:
    """The error names the variable and says what is wanted, on one line, without the value."""
    with pytest.raises(ConfigurationException) as raised:
        Config.from_env({name: raw})
    message = raised.value.message
    assert raised.value.config_key == name
    assert message.startswith(f"{name} ")
    assert "\n" not in message
    assert raised.value.__cause__ is None
    told = message.removeprefix(name)
    assert raw not in told.split()
    assert len(raw) < 4 or raw not in told


@pytest.mark.parametrize("quote", ["'", '"'])
@pytest.mark.parametrize("name", [item.name.upper() for item in fields(Config)])
def test_a_setting_in_quotes(name: str, quote: str) -> None:
    """`docker run --env-file` keeps them: refused with one line that says so, whatever the setting."""
    with pytest.raises(ConfigurationException) as raised:
        Config.from_env({name: f" {quote}sk-abcdefgh{quote}\n"})
    assert raised.value.message == f"{name} must not be in quotes: they would be part of the value"


@pytest.mark.parametrize("name", TEXTS)
def test_text_that_utf8_cannot_carry(name: str) -> None:
    """Bytes of the environment that are not UTF-8 would crash a log or a header later."""
    with pytest.raises(ConfigurationException, match=name):
        Config.from_env({name: "value-\udcff"})


def test_every_setting_is_tried() -> None:
    """A new setting needs a row above."""
    assert {name for name, *_ in GOOD} == {item.name.upper() for item in fields(Config)}
    assert {name for name, _ in BAD} | set(TEXTS) == {item.name.upper() for item in fields(Config)}


def test_defaults() -> None:
    """Without any variable the settings are the documented ones."""
    values = {item.name.upper(): getattr(Config.from_env({}), item.name) for item in fields(Config)}
    assert values == {
        "SERVER_HOST": "127.0.0.1",
        "SERVER_PORT": 5601,
        "WEB_CONCURRENCY": os.cpu_count(),
        "WORKER_CLASS": "gevent",
        "DRAIN_SECONDS": 5.0,
        "OPENAI_API_KEY": "",
        "OPENAI_ORG_ID": "",
        "OPENAI_PROJECT_ID": "",
        "OPENAI_BASE_URL": "https://api.openai.com/v1",
        "UPSTREAM_API": "responses",
        "OPENAI_DOOR_FREE_MODE": False,
        "UPSTREAM_MESSAGES": True,
        "KEEPALIVE_SECONDS": 5.0,
        "DEFAULT_MAX_CONTEXT_TOKENS": 0,
        "LOCAL_MODEL": "",
        "LOG_LEVEL": "INFO",
        "LOG_FILE": "logs/app.log",
        "LOG_FORMAT": "text",
        "DEFAULT_MODEL": "gpt-4o-mini",
        "DEFAULT_TEMPERATURE": 0.7,
        "DEFAULT_MAX_TOKENS": 1000,
        "MAX_OUTPUT_TOKENS": 16384,
        "DEFAULT_SYSTEM_MESSAGE": "당신은 도움이 되는 AI 어시스턴트입니다.",
        "PROMPT_HEADING_ROLE": "#역할",
        "PROMPT_HEADING_MEMORY": "#기억",
        "PROMPT_HEADING_INSTRUCTIONS": "#추가 지시사항",
        "REQUEST_TIMEOUT": 600.0,
        "STREAM_IDLE_SECONDS": 120.0,
        "STREAM_MAX_SECONDS": 3600.0,
        "MAX_CONCURRENT_REQUESTS": 200,
        "MAX_QUEUE_SECONDS": 5.0,
        "MAX_REQUEST_BYTES": 33_554_432,
        "CACHE_ENABLED": False,
        "CACHE_TTL": 300.0,
        "CACHE_MAX_SIZE": 1000,
        "MEMORY_LOG_SECONDS": 300.0,
        "MEMORY_SOFT_LIMIT_MB": 0,
        "AUTH_MODE": "",
        "DATABASE_URL": "sqlite:///instance/llm_server.db",
        "DATABASE_TIMEOUT": 3.0,
        "TOKEN_DIGEST_KEY": "",
        "LEDGER_FAIL_OPEN": False,
        "LEDGER_RETENTION_DAYS": 0,
        "PRICES_FILE": "prices.toml",
        "SYSTEM_API_PUBLIC": False,
        "CORS_ORIGINS": (),
        "ALLOWED_HOSTS": (),
    }


@pytest.mark.parametrize("empty", ["", "  ", "\n"])
def test_empty_means_default(empty: str) -> None:
    """`NAME=` in a .env file sets nothing, but for LOG_FILE, where it means: no file."""
    environ = {item.name.upper(): empty for item in fields(Config)} | {"LOG_FILE": "logs/app.log"}
    assert Config.from_env(environ) == Config.from_env({})
    assert Config.from_env({"LOG_FILE": ""}).log_file == ""


def test_the_process_environment_is_the_default_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a mapping, the environment is read, and read again each time."""
    monkeypatch.setenv("SERVER_PORT", "7000")
    assert Config.from_env().server_port == 7000
    monkeypatch.setenv("SERVER_PORT", "7001")
    assert Config.from_env().server_port == 7001


@pytest.mark.parametrize("name", ["openai_api_key", "token_digest_key", "database_url"])
def test_secrets_do_not_show(name: str) -> None:
    """A printed configuration holds no key and no password."""
    assert "sk-12345678" not in repr(Config(**{name: "sk-12345678"}))


@pytest.mark.parametrize(
    ("key", "text", "number"),
    [
        ("SERVER_PORT", "5601", 5601),
        ("server_port", "5601", 5601),
        ("DEFAULT_MODEL", "gpt-4o-mini", 7),
        ("DEFAULT_TEMPERATURE", "0.7", 7),
        ("OPENAI_API_KEY", "", 7),
        ("NOT_A_SETTING", "fallback", 7),
        ("FROM_ENV", "fallback", 7),
    ],
)
def test_the_seeds_getters(key: str, text: str, number: int) -> None:
    """`get` gives text and `get_int` whole numbers, else their defaults."""
    assert Config().get(key, "fallback") == text
    assert Config().get_int(key, 7) == number


@pytest.mark.parametrize(
    ("address", "public"),
    [
        *[((host, 5601), False) for host in ("127.0.0.1", "127.9.9.9", "localhost", "::ffff:127.0.0.1")],
        *[((host, 5601, 0, 0), False) for host in ("::1", "::1%lo")],
        *[((host, 5601), True) for host in ("0.0.0.0", "192.0.2.1", "127.evil.example", "127.0.0.1.example", "gpubox")],
        *[((host, 5601, 0, 0), True) for host in ("::", "fe80::1%eth0")],
        *[((host, 5601), True) for host in ("", "127.1.example")],
        ("/run/llm.sock", False),
        (b"", False),
    ],
)
def test_a_public_address(address: Any, public: bool) -> None:
    """Only addresses of this machine are not; names are not told by how they begin. A Unix socket is a file."""
    assert is_public(address) is public


@pytest.mark.parametrize(
    ("settings", "exposed"),
    [
        ({}, False),
        ({"openai_api_key": "sk-server-0123456789"}, True),
        ({"openai_base_url": "http://127.0.0.1:8080/v1"}, True),
        ({"local_model": "demo"}, True),
        ({"local_model": "demo", "auth_mode": "token"}, False),
        ({"openai_api_key": "sk-server-0123456789", "auth_mode": "open"}, False),
    ],
)
def test_what_must_not_be_public_by_mistake(settings: dict[str, str], exposed: bool) -> None:
    """A key, and also a model that needs none."""
    Config(**settings).check_exposure(("127.0.0.1", 1), "/run/llm.sock")
    if not exposed:
        Config(**settings).check_exposure(("0.0.0.0", 1))
        return
    with pytest.raises(ConfigurationException) as raised:
        Config(**settings).check_exposure(("127.0.0.1", 1), ("0.0.0.0", 1))
    assert raised.value.config_key == "AUTH_MODE"
