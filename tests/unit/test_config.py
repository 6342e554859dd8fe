"""Settings: what each accepts and refuses, what an error tells, and what gunicorn does with a bad one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from app.config import SUMMARY_PROMPT, Config, is_public, misspelled, usable_cores
from app.errors import ConfigurationException
from tests.server import ROOT

SESSION_KEYS = ("GYdceDzzzwZjX7GLztvQb7xrsvR0VGqM8QRqHks6hLI=", "d4350d3a495e3c479890a0dec0d3ccff")
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
    *[("LOCAL_MODEL_THREADS", raw, int(raw)) for raw in ("0", "1024")],
    ("UPSTREAMS_FILE", "upstreams.toml", "upstreams.toml"),
    ("UPSTREAM_PROXY", "http://me:pw@proxy.test:3128", "http://me:pw@proxy.test:3128"),
    ("UPSTREAM_PROXY", " proxy.test:3128 ", "http://proxy.test:3128"),
    ("UPSTREAM_PROXY", " Direct", "direct"),
    ("HTTPS_PROXY", "http://proxy.test:3128", "http://proxy.test:3128"),
    ("NO_PROXY", "localhost, .internal", "localhost, .internal"),
    ("UPSTREAM_CA_FILE", __file__, __file__),  # A "BEGIN CERTIFICATE" is enough here; app/upstreams/connect.py reads it
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
    *[("DEFAULT_SYSTEM_MESSAGE", raw, "") for raw in ("none", " None ")],
    ("PROMPT_HEADING_ROLE", "#Role", "#Role"),
    ("PROMPT_HEADING_DESCRIPTION", "#Who", "#Who"),
    ("PROMPT_HEADING_SPEECH_STYLE", "#Speech", "#Speech"),
    ("PROMPT_HEADING_LORE", "#Lore", "#Lore"),
    ("PROMPT_HEADING_MEMORY", "#Memory", "#Memory"),
    ("PROMPT_HEADING_INSTRUCTIONS", "#Instructions", "#Instructions"),
    *[(name, raw, wanted) for name in ("AI_NOTICE", "AI_NOTICE_EN") for raw, wanted in (("AI", "AI"), (" None ", ""))],
    ("PROMPT_USER_NAME", "User", "User"),
    *[("REQUEST_TIMEOUT", raw, float(raw)) for raw in ("0.1", "30", "3600")],
    *[("STREAM_IDLE_SECONDS", raw, float(raw)) for raw in ("0.1", "120", "3600")],
    *[("STREAM_MAX_SECONDS", raw, float(raw)) for raw in ("0.1", "3600", "86400")],
    *[("MAX_CONCURRENT_REQUESTS", raw, int(raw)) for raw in ("1", "100000")],
    *[("MAX_QUEUE_SECONDS", raw, float(raw)) for raw in ("0", "0.5", "3600")],
    *[("MAX_REQUEST_BYTES", raw, int(raw)) for raw in ("1024", "2147483648")],
    *[("MAX_HELD_BYTES", raw, int(raw)) for raw in ("1024", "1099511627776")],
    *[("CACHE_ENABLED", raw, True) for raw in ("1", "true", "YES", " On ")],
    *[("CACHE_ENABLED", raw, False) for raw in ("0", "false", "No", "off")],
    *[("CACHE_TTL", raw, float(raw)) for raw in ("0.1", "86400")],
    *[("CACHE_MAX_SIZE", raw, int(raw)) for raw in ("1", "10000000")],
    (
        "MEMORY_URL",
        " http://memory:8000/v1/recall/?tenant=a%20b&key=k ",
        "http://memory:8000/v1/recall/?tenant=a%20b&key=k",
    ),
    *[("MEMORY_URL", raw, raw) for raw in ("https://memory.example", "http://[::1]:8443/", "http://10.0.0.7?a=b@c")],
    ("MEMORY_TOKEN", " t-1\n", "t-1"),
    *[("MEMORY_MAX_TOKENS", raw, int(raw)) for raw in ("1", "1000000000")],
    *[("MEMORY_LOG_SECONDS", raw, float(raw)) for raw in ("0.1", "60")],
    *[("MEMORY_SOFT_LIMIT_MB", raw, int(raw)) for raw in ("0", "512")],
    *[("AUTH_MODE", raw, raw.strip().lower()) for raw in ("open", " Token ")],
    ("DATABASE_URL", "sqlite:////var/lib/x.db", "sqlite:////var/lib/x.db"),
    ("DATABASE_URL", " postgresql+psycopg://me:pw@host/db\n", "postgresql+psycopg://me:pw@host/db"),
    *[("DATABASE_TIMEOUT", raw, float(raw)) for raw in ("0.1", "60")],
    ("TOKEN_DIGEST_KEY", "k" * 32, "k" * 32),
    *[("LEDGER_FAIL_OPEN", raw, raw == "on") for raw in ("on", "off")],
    *[("LEDGER_RETENTION_DAYS", raw, int(raw)) for raw in ("0", "400")],
    *[("SESSION_RETENTION_DAYS", raw, int(raw)) for raw in ("0", "400")],
    ("SESSIONS", "false", False),
    ("SESSION_KEY", f" {SESSION_KEYS[0]}\n", SESSION_KEYS[0]),
    ("SESSION_KEY_OLD", f"{SESSION_KEYS[0]}, {SESSION_KEYS[1]},", SESSION_KEYS),
    ("PROMPT_HEADING_SUMMARY", "## Summary", "## Summary"),
    *[("SUMMARY_MODEL", raw, raw) for raw in ("gpt-4o-mini", "none")],
    ("SUMMARY_PROMPT", "Summarise.", "Summarise."),
    *[("SUMMARY_MAX_TOKENS", raw, int(raw)) for raw in ("1", "2000")],
    ("TOKEN_DIGEST_KEY_OLD", "hex:0123", "hex:0123"),
    *[("HTTP_KEEPALIVE_SECONDS", raw, int(raw)) for raw in ("1", "620")],
    *[("DATABASE_PREPARED_STATEMENTS", raw, raw == "on") for raw in ("on", "off")],
    *[("DATABASE_URL", f"{raw}://u@h/d", "postgresql+psycopg://u@h/d") for raw in ("postgres", "postgresql")],
    ("PRICES_FILE", "/etc/prices.toml", "/etc/prices.toml"),
    ("SYSTEM_API_PUBLIC", "true", True),
    ("FORWARDED_ALLOW_IPS", "10.0.0.0/8, ::1,*", ("10.0.0.0/8", "::1", "*")),
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
BAD_SESSION_KEYS = [
    *("r9Qx" * 7, "a" * 64, "0101" * 16, "r9Qx/ 1+" * 8, "R7마w" * 16, SESSION_KEYS[0] * 8),
]
BAD = [
    *[("SERVER_PORT", raw) for raw in (*NOT_WHOLE, "0", "65536")],
    *[("WEB_CONCURRENCY", raw) for raw in (*NOT_WHOLE, "0", "513")],
    *[("LOCAL_MODEL_THREADS", raw) for raw in (*NOT_WHOLE, "-1", "1025")],
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
    *[
        ("OPENAI_BASE_URL", f"http://x-host/v1{route}")
        for route in ("/chat/completions", "/chat/completions/", "/responses", "/embeddings", "/Completions")
    ],
    *[(name, raw) for name in ("OPENAI_ORG_ID", "OPENAI_PROJECT_ID") for raw in ("한국", "org 1", "org\r\nX: y")],
    ("UPSTREAM_API", "assistants"),
    *[("FORWARDED_ALLOW_IPS", raw) for raw in ("proxy.example", "10.0.0.1/8", "10.0.0.0/33")],
    *[
        ("UPSTREAM_PROXY", raw)
        for raw in ("socks5://x-host:1", "https://x-host:1", "http://x-host:0", "http://x-host/a")
    ],
    *[("UPSTREAM_PROXY", raw) for raw in ("http://x host", "http://x-host:port", "http:///x", "http://x-host?a")],
    *[("HTTPS_PROXY", raw) for raw in ("socks5://x-host:1", "http://x host")],
    *[("UPSTREAM_CA_FILE", raw) for raw in ("/no/such/file", "/dev/null", "/etc")],
    *[("KEEPALIVE_SECONDS", raw) for raw in (*NOT_NUMBERS, "0", "301")],
    *[("MAX_OUTPUT_TOKENS", raw) for raw in (*NOT_WHOLE, "0", "1000000001")],
    *[("HTTP_KEEPALIVE_SECONDS", raw) for raw in (*NOT_WHOLE, "0", "3601")],
    *[(name, raw) for name in ("OPENAI_API_KEY", "SERVER_HOST", "LOG_LEVEL") for raw in ('"secret-value"', "'secret'")],
    *[("DEFAULT_MAX_CONTEXT_TOKENS", raw) for raw in NOT_WHOLE],
    *[("LOG_LEVEL", raw) for raw in ("LOUD", "10")],
    ("LOG_FORMAT", "xml"),
    *[("DEFAULT_TEMPERATURE", raw) for raw in (*NOT_NUMBERS, "2.1")],
    *[("DEFAULT_MAX_TOKENS", raw) for raw in (*NOT_WHOLE, "0", "1000000001")],
    *[("REQUEST_TIMEOUT", raw) for raw in (*NOT_NUMBERS, "0", "3601")],
    *[("STREAM_IDLE_SECONDS", raw) for raw in (*NOT_NUMBERS, "0", "3601")],
    *[("STREAM_MAX_SECONDS", raw) for raw in (*NOT_NUMBERS, "0", "86401")],
    *[("MAX_CONCURRENT_REQUESTS", raw) for raw in (*NOT_WHOLE, "0", "100001")],
    *[("MAX_QUEUE_SECONDS", raw) for raw in (*NOT_NUMBERS, "3601")],
    *[(name, raw) for name in ("MAX_REQUEST_BYTES", "MAX_HELD_BYTES") for raw in (*NOT_WHOLE, "1023")],
    *[("CACHE_TTL", raw) for raw in (*NOT_NUMBERS, "0")],
    *[("CACHE_MAX_SIZE", raw) for raw in (*NOT_WHOLE, "0")],
    *[
        ("MEMORY_URL", raw)
        for raw in ("memory:8000", "ftp://x-host", "http://", "http://me:pw@x-host/", "http://@x-host")
    ],
    *[
        ("MEMORY_URL", raw)
        for raw in ("http://x-host/#a", "http://x-host#", "http://x host", "http://x-host:0", "http://[::1")
    ],
    *[("MEMORY_URL", raw) for raw in ("http://한국.kr/", "http://x-host:port", "http://x-host/a\r\nX: y")],
    *[("MEMORY_TOKEN", raw) for raw in ("with space", "t\r\nX: y", "k" * 8001)],
    *[("MEMORY_MAX_TOKENS", raw) for raw in (*NOT_WHOLE, "0")],
    *[("MEMORY_LOG_SECONDS", raw) for raw in (*NOT_NUMBERS, "0")],
    *[("MEMORY_SOFT_LIMIT_MB", raw) for raw in NOT_WHOLE],
    *[("AUTH_MODE", raw) for raw in ("closed", "tokens", "0")],
    *[("DATABASE_URL", raw) for raw in ("mysql://x/y", "instance/x.db", "postgresqlx://x/y", "postgres:/x")],
    *[("DATABASE_TIMEOUT", raw) for raw in (*NOT_NUMBERS, "0", "61")],
    *[(name, raw) for name in ("TOKEN_DIGEST_KEY", "TOKEN_DIGEST_KEY_OLD") for raw in ("short-7", "with space")],
    *[(name, raw) for name in ("SESSION_KEY", "SESSION_KEY_OLD") for raw in BAD_SESSION_KEYS],
    ("SESSION_KEY", ",".join(SESSION_KEYS)),
    ("SESSION_KEY_OLD", f"{SESSION_KEYS[0]},short"),
    *[("LEDGER_RETENTION_DAYS", raw) for raw in (*NOT_WHOLE, "36501")],
    *[("SESSION_RETENTION_DAYS", raw) for raw in (*NOT_WHOLE, "36501")],
    *[("SUMMARY_MAX_TOKENS", raw) for raw in (*NOT_WHOLE, "0")],
    *[
        (name, raw)
        for name in (
            "DATABASE_PREPARED_STATEMENTS",
            "CACHE_ENABLED",
            "SYSTEM_API_PUBLIC",
            "OPENAI_DOOR_FREE_MODE",
            "LEDGER_FAIL_OPEN",
            "SESSIONS",
            "UPSTREAM_MESSAGES",
        )
        for raw in ("maybe", "2", "truee")
    ],
    ("DATABASE_PREPARED_STATEMENTS", "maybe"),
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
        "WEB_CONCURRENCY": usable_cores(),
        "HTTP_KEEPALIVE_SECONDS": 75,
        "FORWARDED_ALLOW_IPS": ("127.0.0.1", "::1"),
        "WORKER_CLASS": "gevent",
        "DRAIN_SECONDS": 5.0,
        "OPENAI_API_KEY": "",
        "OPENAI_ORG_ID": "",
        "OPENAI_PROJECT_ID": "",
        "OPENAI_BASE_URL": "https://api.openai.com/v1",
        "UPSTREAM_PROXY": "",
        "HTTPS_PROXY": "",
        "NO_PROXY": "",
        "UPSTREAM_CA_FILE": "",
        "UPSTREAM_API": "responses",
        "UPSTREAMS_FILE": "",
        "OPENAI_DOOR_FREE_MODE": False,
        "UPSTREAM_MESSAGES": True,
        "KEEPALIVE_SECONDS": 5.0,
        "DEFAULT_MAX_CONTEXT_TOKENS": 0,
        "LOCAL_MODEL": "",
        "LOCAL_MODEL_THREADS": 0,
        "LOG_LEVEL": "INFO",
        "LOG_FILE": "logs/app.log",
        "LOG_FORMAT": "text",
        "DEFAULT_MODEL": "gpt-4o-mini",
        "DEFAULT_TEMPERATURE": 0.7,
        "DEFAULT_MAX_TOKENS": 1000,
        "MAX_OUTPUT_TOKENS": 16384,
        "DEFAULT_SYSTEM_MESSAGE": "당신은 도움이 되는 AI 어시스턴트입니다.",
        "PROMPT_HEADING_ROLE": "#역할",
        "PROMPT_HEADING_DESCRIPTION": "#인물 설명",
        "PROMPT_HEADING_SPEECH_STYLE": "#말투",
        "PROMPT_HEADING_LORE": "#배경 지식",
        "PROMPT_HEADING_MEMORY": "#기억",
        "PROMPT_HEADING_INSTRUCTIONS": "#추가 지시사항",
        "AI_NOTICE": "이 서비스의 답변은 인공지능(AI)이 생성합니다. 사실과 다를 수 있으니 중요한 내용은 확인해 주세요.",
        "AI_NOTICE_EN": (
            "The answers of this service are generated by artificial intelligence (AI). They may be wrong, so please "
            "check what matters."
        ),
        "PROMPT_USER_NAME": "사용자",
        "REQUEST_TIMEOUT": 600.0,
        "STREAM_IDLE_SECONDS": 120.0,
        "STREAM_MAX_SECONDS": 3600.0,
        "MAX_CONCURRENT_REQUESTS": 200,
        "MAX_QUEUE_SECONDS": 5.0,
        "MAX_REQUEST_BYTES": 33_554_432,
        "MAX_HELD_BYTES": 268_435_456,
        "CACHE_ENABLED": False,
        "CACHE_TTL": 300.0,
        "CACHE_MAX_SIZE": 1000,
        "MEMORY_URL": "",
        "MEMORY_TOKEN": "",
        "MEMORY_MAX_TOKENS": 1000,
        "MEMORY_LOG_SECONDS": 300.0,
        "MEMORY_SOFT_LIMIT_MB": 0,
        "AUTH_MODE": "",
        "DATABASE_URL": "sqlite:///instance/llm_server.db",
        "DATABASE_TIMEOUT": 3.0,
        "DATABASE_PREPARED_STATEMENTS": True,
        "TOKEN_DIGEST_KEY": "",
        "TOKEN_DIGEST_KEY_OLD": "",
        "LEDGER_FAIL_OPEN": False,
        "LEDGER_RETENTION_DAYS": 0,
        "SESSIONS": True,
        "SESSION_RETENTION_DAYS": 0,
        "SESSION_KEY": "",
        "SESSION_KEY_OLD": (),
        "PROMPT_HEADING_SUMMARY": "#지난 대화 요약",
        "SUMMARY_MODEL": "",
        "SUMMARY_PROMPT": SUMMARY_PROMPT,
        "SUMMARY_MAX_TOKENS": 500,
        "PRICES_FILE": "prices.toml",
        "SYSTEM_API_PUBLIC": False,
        "CORS_ORIGINS": (),
        "ALLOWED_HOSTS": (),
    }


@pytest.mark.parametrize("name", ["https_proxy", "no_proxy"])
def test_variables_of_the_machine_in_lower_case(name: str) -> None:
    """curl's spelling; ours stands before it."""
    assert getattr(Config.from_env({name: "a.test"}), name) == "a.test"
    assert getattr(Config.from_env({name: "a.test", name.upper(): "b.test"}), name) == "b.test"


@pytest.mark.parametrize(
    "environ",
    [{"OPENAI_BASE_URL": "http://a.test"}, {"UPSTREAM_PROXY": "direct"}, {"UPSTREAM_PROXY": "http://b.test:1"}],
)
def test_a_proxy_of_the_machine_that_is_not_used(environ: dict[str, str]) -> None:
    """It prevents no start, whatever it is."""
    assert Config.from_env({"HTTPS_PROXY": "socks5://a.test:1", **environ})


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


@pytest.mark.parametrize(
    "name", ["openai_api_key", "token_digest_key", "database_url", "upstream_proxy", "https_proxy"]
)
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
    ("files", "cores"),
    [
        ({}, None),
        ({"cpu.max": "max 100000"}, None),
        ({"cpu.max": "50000 100000"}, 1),
        ({"cpu.max": "100000 100000"}, 1),
        ({"cpu.max": "10000000 100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        ({"cpu/cpu.cfs_quota_us": "90000", "cpu/cpu.cfs_period_us": "100000"}, 1),
        ({"cpu.max": "nonsense"}, None),
    ],
)
def test_cores_that_may_be_used(tmp_path: Path, files: dict[str, str], cores: int | None) -> None:
    """A container's quota bounds the number of workers, and so does the affinity."""
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text + "\n")
    assert usable_cores(tmp_path) == (cores or len(os.sched_getaffinity(0)))


def test_an_affinity_bounds_the_workers() -> None:
    """As `taskset` sets it."""
    code = "from app.config import Config; print(Config.from_env({}).web_concurrency)"
    command = ["taskset", "-c", str(min(os.sched_getaffinity(0))), sys.executable, "-c", code]
    assert subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout == "1\n"


ENV_FILE = """
import os, sys
from app.config import load_env_file
from app.errors import ConfigurationException
try:
    load_env_file()
    print(ascii(os.environ.get("DEFAULT_MODEL")), ascii(os.environ.get("DATABASE_URL")))
except ConfigurationException as exc:
    print(exc.message)
"""


@pytest.mark.parametrize(
    ("content", "printed"),
    [
        (b"DEFAULT_MODEL=mine\n", "'mine' None"),
        ("# 한국어\r\nDEFAULT_MODEL='모델'\r\n".encode("utf-8-sig"), r"'\ubaa8\ub378' None"),
        (b"DATABASE_URL='postgres://u:p${x}w@h/d'\n", "None 'postgres://u:p${x}w@h/d'"),
        ("DEFAULT_MODEL=mine\n".encode("utf-16"), None),
        ("DEFAULT_MODEL=mine\n".encode("utf-16-le"), None),
        ("# 한국어\nDEFAULT_MODEL=mine\n".encode("cp949"), None),
    ],
)
def test_the_env_file(tmp_path: Path, content: bytes, printed: str | None) -> None:
    """It is read as UTF-8 and literally, only in its own place; another encoding is refused with one line."""
    shutil.copytree(ROOT / "app", tmp_path / "here" / "app", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "here" / "gunicorn.conf.py").touch()
    (tmp_path / ".env").write_bytes(b"DEFAULT_MODEL=a-stranger\n")
    place = tmp_path / "here" / "deeper"
    place.mkdir()
    environ = {"PATH": os.environ["PATH"], "PYTHONPATH": str(tmp_path / "here")}

    def run() -> str:
        command = [sys.executable, "-c", ENV_FILE]
        return subprocess.run(command, cwd=place, env=environ, check=True, capture_output=True, text=True).stdout

    assert run() == "None None\n"
    (tmp_path / "here" / ".env").write_bytes(content)
    assert run() == (f"{printed}\n" if printed else f"{tmp_path}/here/.env must be a text file in UTF-8\n")


def test_names_that_are_almost_settings() -> None:
    """They are told; settings, and variables of other programs, are not."""
    ours = [item.name.upper() for item in fields(Config)]
    others = ["PATH", "HOME", "LANG", "HTTP_PROXY", "PYTHONPATH", "PGHOST", "OPENAI_LOG", "KUBERNETES_SERVICE_HOST"]
    assert misspelled([*ours, *others]) == {}
    meant = {"OPENAI_APIKEY": "OPENAI_API_KEY", "AUTHMODE": "AUTH_MODE", "DATABASE_URLS": "DATABASE_URL"}
    assert misspelled([*ours, *others, *meant]) == meant


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
