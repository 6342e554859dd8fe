"""Limits over real workers: crowds, crashes and revoked tokens."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from app.ledger.accounts import Limits
from app.store.tables import user_spending
from tests.conftest import EVERY_STORE
from tests.records import accounts_of, add_client, connected, rows, settled, spent
from tests.server import Server
from tests.upstream import Upstream, delayed, echo, silence

TURN = {"user_message": "hi", "free_mode": True, "model": "gpt-4o-mini", "max_tokens": 100}
CALLERS = 200
COST = 11 * 150 + 7 * 600

pytestmark = EVERY_STORE


class CountingUpstream(Upstream):
    """Knows how many of each client's calls were in flight at once. Does not poll for departures."""

    async def _departure(self, reader: asyncio.StreamReader) -> None:
        await asyncio.sleep(3600)


@pytest.fixture
def upstream() -> Any:
    with CountingUpstream() as server:
        yield server


async def crowd(port: int, token: str, callers: int, **members: str) -> Counter[str]:
    """That many callers at once: how many got which status and code."""
    body = json.dumps(TURN | members).encode()
    head = "POST /api/v1/chat HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
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
    assert used == answers["200"] * COST <= 20 * worst


def test_a_crowd_never_exceeds_the_limits_of_its_user(
    start_server: Callable[..., Server], upstream: Upstream, database_url: str
) -> None:
    """100 callers for one user over two workers: exactly as many as allowed get in, and another user after them."""
    server = start_server(AUTH_MODE="token", WEB_CONCURRENCY=2, DATABASE_TIMEOUT=20)
    upstream.default = delayed(0.5, echo)
    fast = add_client(database_url, Limits(per_user_rpm=25), "fast")
    assert asyncio.run(crowd(server.port, fast, 100, user="ann")) == {"200": 25, "429 user_rate_limited": 75}
    worst = 100 * 600 + 60 * 150
    limits = Limits(per_user_budget_nano=20 * worst, per_user_budget_period="day")
    poor = add_client(database_url, limits, "poor")
    answers = asyncio.run(crowd(server.port, poor, 100, user="ann"))
    assert set(answers) == {"200", "429 user_budget_exceeded"}
    assert asyncio.run(crowd(server.port, poor, 1, user="bob")) == {"200": 1}
    settled(database_url)
    with connected(database_url) as connection:
        found = connection.execute(user_spending.select().order_by(user_spending.c.end_user)).all()
    assert [(row.spent_nano, row.reserved_nano) for row in found] == [(answers["200"] * COST, 0), (COST, 0)]
    assert 20 <= answers["200"] <= 20 * worst / COST


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


def test_a_revoked_token_is_closed_in_every_worker(
    start_server: Callable[..., Server], upstream: Upstream, database_url: str
) -> None:
    """At once: nothing of a client is remembered between requests."""
    servers = [start_server(AUTH_MODE="token", WEB_CONCURRENCY=2), start_server(AUTH_MODE="token")]
    token = add_client(database_url, Limits())
    headers = {"Authorization": f"Bearer {token}"}
    for server in servers:
        assert {server.chat("x", headers=headers).status for _ in range(8)} == {200}
    accounts, database = accounts_of(database_url)
    accounts.revoke("web")
    database.close()
    for server in servers:
        assert {server.chat("x", headers=headers).status for _ in range(8)} == {401}
