"""The canary sweep: keys, prompts and answers go everywhere they can go, and come out nowhere but in the answer."""

from __future__ import annotations

import itertools
import logging.config
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.config import Config
from app.ledger.accounts import Accounts, Limits
from app.logging import log_config
from app.models import ChatRequest
from app.services.chat import ChatService
from app.web.services import KEY, service
from tests.sweep import (
    ANSWER,
    CALLER_KEY,
    CHAT,
    PROMPT,
    PROMPTS,
    ROUTES,
    SERVER_KEY,
    hits,
)
from tests.upstream import Upstream, error_document, reply, response_document


class FakeBug:
    """A chat service with a bug whose exception holds all there is."""

    def process_chat_request(self, request: ChatRequest, *_: Any, **__: Any) -> None:
        try:
            raise ValueError(f"{request} {request.openai_api_key} {SERVER_KEY} {ANSWER}")
        except ValueError as exc:
            exc.add_note(CALLER_KEY)
            raise RuntimeError(*PROMPTS.values()) from exc


@pytest.mark.usefixtures("_logging_restored")
@pytest.mark.parametrize("log_format", ["text", "json"])
def test_a_bug_shows_its_place_and_not_its_text(
    make_app: Callable[..., Flask], tmp_path: Path, capfd: pytest.CaptureFixture[str], log_format: str
) -> None:
    """An exception nobody expected is logged by type and place: its text may hold a key or a prompt."""
    settings = {"log_level": "DEBUG", "log_format": log_format, "log_file": str(tmp_path / "app.log")}
    logging.config.dictConfig(log_config(Config(openai_api_key=SERVER_KEY, **settings)))
    app = make_app(**settings)
    app.extensions[KEY][ChatService] = FakeBug()
    answer = app.test_client().post(CHAT, json=PROMPT | {"openai_api_key": CALLER_KEY})
    assert (answer.status_code, answer.get_json()["code"]) == (500, "internal_error")
    logged = (tmp_path / "app.log").read_text()
    assert "RuntimeError" in logged
    assert "process_chat_request" in logged
    assert hits(logged + "".join(capfd.readouterr()) + answer.get_data(as_text=True)) == []


SAFE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
}


@pytest.mark.parametrize("route", [*ROUTES, "/docs/swagger-ui-bundle.js", "/docs/favicon-32x32.png", "/api/v1"])
def test_every_answer_has_safe_headers(client: FlaskClient, route: str) -> None:
    """Good, bad or redirected: no sniffing, no storing, no framing, no sign of the software's version."""
    for method in ("GET", "POST", "HEAD", "OPTIONS", "DELETE"):
        with client.open(route, method=method) as answer:
            assert {name: answer.headers[name] for name in SAFE_HEADERS} == SAFE_HEADERS
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
            assert "frame-ancestors 'none'" in answer.headers["Content-Security-Policy"]
            assert answer.headers["X-Request-ID"]
            assert not [
                name
                for name, _ in answer.headers
                if name == "Server" or name.startswith(("Access-Control", "Set-Cookie"))
            ]


ORIGIN = "https://app.example"


@pytest.mark.parametrize("origin", [ORIGIN, "null", "http://localhost:5601"])
def test_cors_is_closed(client: FlaskClient, origin: str) -> None:
    """Without CORS_ORIGINS no page of another origin may read an answer or send a JSON request."""
    asked = {
        "Origin": origin,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type",
    }
    for method, route in itertools.product(("GET", "POST", "OPTIONS"), ROUTES):
        answer = client.open(route, method=method, headers=asked)
        assert not [name for name, _ in answer.headers if name.startswith("Access-Control")]


def test_cors_opens_for_the_configured_origins_only(make_app: Callable[..., Flask]) -> None:
    """A listed origin may call and read, problems included; another may not."""
    client = make_app(cors_origins=(ORIGIN,)).test_client()
    asked = {
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "content-type, x-openai-api-key",
    }
    preflight = client.options(CHAT, headers=asked | {"Origin": ORIGIN})
    assert preflight.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert preflight.headers["Access-Control-Allow-Headers"] == "content-type, x-openai-api-key"
    for answer in (client.get("/livez", headers={"Origin": ORIGIN}), client.post(CHAT, headers={"Origin": ORIGIN})):
        assert answer.headers["Access-Control-Allow-Origin"] == ORIGIN
        assert "X-Request-ID" in answer.headers["Access-Control-Expose-Headers"]
        assert "Access-Control-Allow-Credentials" not in answer.headers
    for origin in (
        "https://evil.example",
        ORIGIN + ".evil.example",
        "https://appxexample",
        "http://app.example",
        "null",
    ):
        assert "Access-Control-Allow-Origin" not in client.options(CHAT, headers=asked | {"Origin": origin}).headers
        assert "Access-Control-Allow-Origin" not in client.get("/livez", headers={"Origin": origin}).headers


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *[("POST", path) for path in (CHAT, "/v1/chat/completions", "/v1/responses", "/v1/embeddings")],
        *[
            ("GET", path)
            for path in ("/v1/models", "/v1/models/a/b", "/api/v1/usage", "/api/v1/system/info", "/metrics")
        ],
    ],
)
def test_a_preflight_needs_no_token(make_app: Callable[..., Flask], method: str, path: str) -> None:
    """A browser sends it without one. The request itself is 401 without a token, and the page can read that."""
    client = make_app(auth_mode="token", cors_origins=(ORIGIN,)).test_client()
    asked = {
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    preflight = client.options(path, headers=asked | {"Origin": ORIGIN})
    assert preflight.status_code == 200
    assert preflight.headers["Access-Control-Allow-Origin"] == ORIGIN
    assert method in preflight.headers["Access-Control-Allow-Methods"]
    assert "authorization" in preflight.headers["Access-Control-Allow-Headers"]
    assert preflight.headers["Access-Control-Max-Age"] == "7200"
    refused = client.open(path, method=method, headers={"Origin": ORIGIN})
    assert refused.status_code == 401
    assert refused.headers["Access-Control-Allow-Origin"] == ORIGIN
    for answer in (
        client.options(path, headers=asked | {"Origin": "https://other.example"}),
        client.open(path, method=method, headers={"Origin": "https://other.example"}),
    ):
        assert "Access-Control-Allow-Origin" not in answer.headers


@pytest.mark.parametrize(
    "name",
    [
        *("X-Cost-USD", "Server-Timing", "X-Upstream-Request-ID", "X-Request-ID", "X-Cache", "Retry-After"),
        *("RateLimit", "RateLimit-Policy", "x-ratelimit-remaining-requests", "x-ratelimit-reset-tokens"),
    ],
)
def test_what_a_script_can_read(make_app: Callable[..., Flask], name: str) -> None:
    """On good answers and on errors, those of unknown addresses included."""
    client = make_app(cors_origins=(ORIGIN,)).test_client()
    for path in ("/livez", "/nope", "/v1/nope"):
        exposed = client.get(path, headers={"Origin": ORIGIN}).headers["Access-Control-Expose-Headers"]
        assert name.lower() in exposed.lower().split(", ")


FOR_BROWSERS = {
    *("cache-control", "content-length", "content-type", "vary", "referrer-policy"),
    *("content-security-policy", "x-content-type-options"),
}
"""Headers that every script can read, and those on which the browser acts itself."""
FIGURES = [f"x-ratelimit-{figure}-{of}" for figure in ("limit", "remaining", "reset") for of in ("requests", "tokens")]


def test_whatever_answers_tell_can_be_read(make_app: Callable[..., Flask], upstream: Upstream) -> None:
    """Every header of real answers, with what upstream tells of its limits, and of refusals."""
    app = make_app(cors_origins=(ORIGIN,), auth_mode="token")
    token = service(Accounts, app).add("page", Limits(requests_per_minute=4))
    told = {**dict.fromkeys(FIGURES, "1"), "x-request-id": "up-1", "openai-version": "1", "openai-processing-ms": "9"}
    refused = reply(429, error_document(), told | {"retry-after": "60"})
    good = reply(200, response_document("x"), told)
    upstream.script(good, good, refused, refused)
    headers = {"Origin": ORIGIN, "Authorization": f"Bearer {token}", "X-Free-Mode": "true"}
    client = app.test_client()
    answers = [
        # The limits of an account are told where it is the caller's own.
        client.post("/v1/responses", json={"model": "gpt-4o-mini"}, headers=headers | {"X-OpenAI-Api-Key": CALLER_KEY}),
        *(client.post("/v1/responses", json={"model": "gpt-4o-mini"}, headers=headers) for _ in range(2)),
        *(client.post(CHAT, json={"user_message": "hi", "free_mode": True}, headers=headers) for _ in range(2)),
        client.post(CHAT, data=b"x", headers=headers),
        client.post(CHAT, headers={"Origin": ORIGIN}),
        client.post("/v1/messages", json={"model": "gpt-4o-mini"}, headers=headers),
    ]
    assert [answer.status_code for answer in answers] == [200, 200, 429, 429, 429, 415, 401, 429]
    names = {name.lower() for answer in answers for name, _ in answer.headers if not name.startswith("Access-Control-")}
    exposed = set(answers[0].headers["Access-Control-Expose-Headers"].lower().split(", "))
    assert {"retry-after", "ratelimit", "www-authenticate", "accept-encoding", "x-cost-usd", *FIGURES} <= names
    assert names - FOR_BROWSERS - exposed == set()


@pytest.mark.parametrize(
    ("listed", "others"),
    [
        ("http://[::1]:3000", ["http://1:30000", "http://::1:3000", "http://[::1]:30001", "http://[::1]"]),
        ("app://obsidian.md", ["app://obsidianxmd", "app://obsidian.md.evil", "https://obsidian.md"]),
        ("chrome-extension://abc", ["chrome-extension://abcd", "xchrome-extension://abc"]),
    ],
)
def test_an_origin_is_compared_as_a_whole(make_app: Callable[..., Flask], listed: str, others: list[str]) -> None:
    """Nothing in it is a pattern."""
    client = make_app(cors_origins=(listed,)).test_client()
    assert client.get("/livez", headers={"Origin": listed}).headers["Access-Control-Allow-Origin"] == listed
    for origin in others:
        assert "Access-Control-Allow-Origin" not in client.get("/livez", headers={"Origin": origin}).headers
