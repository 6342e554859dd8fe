"""Limits: what a client may do, how it is told no, and that no crowd, worker or crash gets past them."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from app.config import Config
from app.ledger.accounts import Accounts, Limits, digest_key
from app.store.database import Database
from tests.conftest import CALLER_KEY, DIGEST_KEY
from tests.records import rows, settled, spent
from tests.server import Server
from tests.upstream import Upstream, delayed, echo, silence, text

MODEL = "gpt-4o-mini"
TURN = {"user_message": "hi", "free_mode": True, "model": MODEL, "max_tokens": 100}
CALLERS = 200
MINUTE = 60


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Flask:
    return make_app(auth_mode="token")


def chat(app: Flask, token: str, **fields: Any) -> Any:
    """One chat turn."""
    headers = {"Authorization": f"Bearer {token}"}
    return app.test_client().post("/api/v1/chat", json=TURN | fields, headers=headers)


def assert_limited(answer: Any, code: str, quota: int, window: int) -> int:
    """A 429 that says which limit it was and when to come back; gives those seconds."""
    assert (answer.status_code, answer.get_json()["code"]) == (429, code)
    seconds = int(answer.headers["Retry-After"])
    assert answer.headers["RateLimit-Policy"] == f'"{code}";q={quota};w={window}'
    assert answer.headers["RateLimit"] == f'"{code}";r=0;t={seconds}'
    assert 1 <= seconds <= max(window, 1)
    return seconds


@pytest.mark.parametrize(
    ("patterns", "model", "allowed"),
    [
        ("", "anything", True),
        ("gpt-4o", "gpt-4o", True),
        ("gpt-4o", "gpt-4o-mini", False),
        ("gpt-4o*", "gpt-4o-mini", True),
        ("o1,gpt-4o*", "o1", True),
        ("o1,gpt-4o*", "O1", False),
        ("gpt-4o*", "xgpt-4o", False),
    ],
)
def test_models(app: Flask, upstream: Upstream, patterns: str, model: str, allowed: bool) -> None:
    """By pattern, on both routes; what is not allowed never reaches upstream."""
    token = app.extensions["accounts"].add("web", Limits(models=patterns))
    answer = chat(app, token, model=model)
    door = app.test_client().post(
        "/v1/responses",
        json={"model": model, "input": [{"content": "x"}]},
        headers={"Authorization": f"Bearer {token}", "X-Free-Mode": "true"},
    )
    assert answer.status_code == door.status_code == (200 if allowed else 403)
    assert allowed or answer.get_json()["code"] == door.get_json()["error"]["code"] == "model_not_allowed"
    assert bool(upstream.received) == allowed


def test_a_client_without_free_mode(app: Flask, upstream: Upstream) -> None:
    """It has to bring its own key."""
    token = app.extensions["accounts"].add("web", Limits(free_mode=False))
    refused = chat(app, token)
    assert (refused.status_code, refused.get_json()["code"]) == (403, "free_mode_not_allowed")
    assert chat(app, token, free_mode=False, openai_api_key=CALLER_KEY).status_code == 200
    assert [received.key for received in upstream.received] == [CALLER_KEY]


def test_requests_per_minute(app: Flask, upstream: Upstream, database_url: str) -> None:
    """Each client has its own; refused requests count for nothing."""
    accounts = app.extensions["accounts"]
    web, other = (
        accounts.add("web", Limits(requests_per_minute=3)),
        accounts.add("other", Limits(requests_per_minute=1)),
    )
    assert [chat(app, web).status_code for _ in range(3)] == [200] * 3
    for _ in range(3):
        assert assert_limited(chat(app, web), "rate_limited", 3, MINUTE) > MINUTE - 10
    assert chat(app, other).status_code == 200
    assert len(settled(database_url)) == len(upstream.received) == 4


def test_the_minute_slides(app: Flask, database_url: str) -> None:
    """A request counts for 60 seconds after it came."""
    from app.store.tables import requests
    from tests.records import connected

    token = app.extensions["accounts"].add("web", Limits(requests_per_minute=2))
    assert [chat(app, token).status_code for _ in range(2)] == [200, 200]
    settled(database_url)
    with connected(database_url) as connection:
        connection.execute(requests.update().where(requests.c.id == 1).values(created_at=int((time.time() - 50) * 1e6)))
    assert assert_limited(chat(app, token), "rate_limited", 2, MINUTE) <= 10
    with connected(database_url) as connection:
        connection.execute(requests.update().where(requests.c.id == 1).values(created_at=int((time.time() - 61) * 1e6)))
    assert [chat(app, token).status_code for _ in range(2)] == [200, 429]


def test_a_budget(app: Flask, upstream: Upstream, database_url: str) -> None:
    """The worst case must fit; what is left of it after the answer can be used again."""
    budget = 100 * 600 + 50 * 150
    token = app.extensions["accounts"].add("web", Limits(budget_nano=budget, budget_period="total"))
    upstream.default = text("x")
    assert chat(app, token).status_code == 200
    settled(database_url)
    assert spent(database_url) == (11 * 150 + 7 * 600, 0)
    assert_limited(chat(app, token, max_tokens=101), "budget_exceeded", budget, 86_400)
    assert chat(app, token, max_tokens=10).status_code == 200
    settled(database_url)
    assert spent(database_url) == (2 * (11 * 150 + 7 * 600), 0)
    assert chat(app, token, free_mode=False, openai_api_key=CALLER_KEY).status_code == 200
    unknown = chat(app, token, model="no-such-model")
    assert (unknown.status_code, unknown.get_json()["code"]) == (403, "model_price_unknown")


class CountingUpstream(Upstream):
    """Knows how many of each client's calls were in flight at once. Does not poll for departures."""

    async def _departure(self, reader: asyncio.StreamReader) -> None:
        await asyncio.sleep(3600)


@pytest.fixture
def upstream() -> Any:
    with CountingUpstream() as server:
        yield server


def add_client(database_url: str, limits: Limits, name: str = "web") -> str:
    """A client of a server that runs elsewhere, as `flask clients add` makes it; gives its token."""
    accounts, database = _accounts(database_url)
    token = accounts.add(name, limits)
    database.close()
    return token


def _accounts(url: str) -> tuple[Accounts, Database]:
    shared = {} if url.startswith("sqlite") else {"token_digest_key": DIGEST_KEY}
    database = Database(url)
    return Accounts(database, digest_key(Config(database_url=url, **shared))), database


async def crowd(port: int, token: str, callers: int) -> Counter[str]:
    """That many callers at once: how many got which status and code."""
    body = json.dumps(TURN).encode()
    head = "POST /api/v1/chat HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
    request = f"{head}Authorization: Bearer {token}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body

    async def one() -> str:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(request)
        answer = await reader.read()
        writer.close()
        status = answer.split(b" ", 2)[1].decode()
        code = re.search(rb'"code": ?"(\w+)"', answer)
        return status + (f" {code[1].decode()}" if code and status != "200" else "")

    return Counter(await asyncio.gather(*(one() for _ in range(callers))))


@pytest.mark.process
def test_a_crowd_never_exceeds_the_limits(
    start_server: Callable[..., Server], upstream: Upstream, database_url: str
) -> None:
    """200 callers at once over two workers: exactly as many as allowed get in, and no more at once than allowed."""
    server = start_server(AUTH_MODE="token", WEB_CONCURRENCY=2, DATABASE_TIMEOUT=20)
    upstream.default = delayed(0.5, echo)
    fast = add_client(database_url, Limits(requests_per_minute=50), "fast")
    assert asyncio.run(crowd(server.port, fast, CALLERS)) == {"200": 50, "429 rate_limited": CALLERS - 50}
    assert len(upstream.received) == len(rows(database_url)) == 50
    upstream.received.clear()
    upstream.most_in_flight = 0
    narrow = add_client(database_url, Limits(concurrency=10), "narrow")
    answers = asyncio.run(crowd(server.port, narrow, CALLERS))
    assert set(answers) == {"200", "429 concurrency_limited"}
    assert upstream.most_in_flight <= 10 <= answers["200"] == len(upstream.received)
    upstream.received.clear()
    worst = 100 * 600 + 60 * 150
    poor = add_client(database_url, Limits(budget_nano=20 * worst, budget_period="day"), "poor")
    answers = asyncio.run(crowd(server.port, poor, CALLERS))
    assert set(answers) == {"200", "429 budget_exceeded"}
    assert answers["200"] == len(upstream.received) >= 20
    settled(database_url)
    used, reserved = spent(database_url)
    assert reserved == 0
    assert used == answers["200"] * (11 * 150 + 7 * 600) <= 20 * worst


@pytest.mark.process
def test_a_killed_workers_leases_come_back(
    start_server: Callable[..., Server], upstream: Upstream, database_url: str
) -> None:
    """A client whose places a worker took with it is served again after a sweep, long before the deadline."""
    server = start_server(AUTH_MODE="token", REQUEST_TIMEOUT=120)
    token = add_client(database_url, Limits(concurrency=2))
    upstream.default = silence()
    headers = {"Authorization": f"Bearer {token}"}

    async def held() -> None:
        calls = [asyncio.ensure_future(crowd(server.port, token, 1)) for _ in range(2)]
        while len(upstream.received) < 2:
            await asyncio.sleep(0.02)
        refused = await asyncio.to_thread(server.chat, "x", headers=headers)
        assert (refused.status, refused.json["code"]) == (429, "concurrency_limited")
        os.kill(server.worker_pids[0], signal.SIGKILL)
        await asyncio.gather(*calls, return_exceptions=True)

    asyncio.run(held())
    upstream.default = echo

    def served() -> bool:
        return server.status("/livez") == 200 and server.chat("x", headers=headers).status == 200

    server.wait_for(served, 20)
    assert [row["status"] for row in settled(database_url)] == ["abandoned", "abandoned", "ok"]


@pytest.mark.process
def test_a_revoked_token_is_closed_in_every_worker(
    start_server: Callable[..., Server], upstream: Upstream, database_url: str
) -> None:
    """At once: nothing of a client is remembered between requests."""
    servers = [start_server(AUTH_MODE="token", WEB_CONCURRENCY=2), start_server(AUTH_MODE="token")]
    token = add_client(database_url, Limits())
    headers = {"Authorization": f"Bearer {token}"}
    for server in servers:
        assert {server.chat("x", headers=headers).status for _ in range(8)} == {200}
    accounts, database = _accounts(database_url)
    accounts.revoke("web")
    database.close()
    for server in servers:
        assert {server.chat("x", headers=headers).status for _ in range(8)} == {401}
