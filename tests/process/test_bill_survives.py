"""The bill survives: callers, workers and upstream connections are killed at random, and no row is missing or open."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable

from app.ledger.accounts import Limits
from tests.conftest import EVERY_STORE
from tests.records import add_client, rows, spent
from tests.server import Server
from tests.streams import delta, response_events, stream
from tests.upstream import Answer, Received, Upstream, delayed, echo, error_document, pieces, reply, reset

SECONDS = float(os.environ.get("BILL_SECONDS", "12"))
CALLERS = 20
WORKERS = 2
MOST_PAUSE_SECONDS = 0.06
"""Before a caller's next request: most of them are still under way when a worker is killed, at a third of the cost."""
SWEPT_SECONDS = 30.0
"""Housekeeping sweeps every 5 s; a lease ends with REQUEST_TIMEOUT and its grace of 5 s."""


pytestmark = EVERY_STORE


class NumberedUpstream(Upstream):
    """Answers, stalls, breaks off, refuses and resets at random. Each request carries its number in its text."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__()
        self._chance = chance
        self.default = self._anything

    async def _anything(self, received: Received, writer: asyncio.StreamWriter) -> None:
        pause = self._chance.random() * 0.2
        streamed = [stream(response_events("a", "b"), pause=pause / 4), stream([delta("half")], pause=pause)]
        plain: list[Answer] = [delayed(pause, echo), delayed(pause, reset()), reply(400, error_document()), pieces([])]
        answers = streamed if received.json.get("stream") else plain
        await self._chance.choice([*answers, answers[0], answers[0]])(received, writer)

    def asked(self) -> set[str]:
        """The request ids of all that was ever asked."""
        return {received.json["input"][-1]["content"] for received in self.received}


async def call(port: int, token: str, name: str, chance: random.Random) -> int | None:
    """One request, abandoned at a random moment or read to its end: its status, None when there was none."""
    fields = {"user_message": name, "free_mode": True, "stream": chance.random() < 0.5}
    body = json.dumps(fields).encode()
    head = (
        "POST /api/v1/chat HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
        f"Authorization: Bearer {token}\r\nX-Request-ID: {name}\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    patience = chance.choice([0.0, 0.05, 0.15, 5.0, 5.0, 5.0])
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        await asyncio.sleep(0.05)
        return None
    try:
        writer.write(head.encode() + body)
        answer = await asyncio.wait_for(reader.read(), patience)
        return int(answer.split(b" ", 2)[1]) if answer.startswith(b"HTTP/") else None
    except (OSError, TimeoutError):
        return None
    finally:
        writer.transport.abort()


async def storm(server: Server, token: str, seconds: float, chance: random.Random) -> tuple[dict[str, int | None], int]:
    """Callers that go on and on and a killer of workers.

    Gives the status of every request by its id, None if unknown, and the number of workers killed.
    """
    statuses: dict[str, int | None] = {}
    kills = 0
    end = time.monotonic() + seconds

    async def caller(number: int) -> None:
        turn = 0
        while time.monotonic() < end:
            turn += 1
            name = f"r-{number}-{turn}"
            statuses[name] = await call(server.port, token, name, chance)
            await asyncio.sleep(chance.random() * MOST_PAUSE_SECONDS)

    async def killer() -> None:
        nonlocal kills
        while time.monotonic() < end - 1:
            await asyncio.sleep(chance.uniform(0.8, 1.8))
            if pids := server.worker_pids:
                os.kill(chance.choice(pids), signal.SIGKILL)
                kills += 1

    await asyncio.gather(killer(), *(caller(number) for number in range(CALLERS)))
    return statuses, kills


def is_at_rest(database_url: str) -> bool:
    """No row is open, and none comes within a second: a busy machine admits requests whose callers have long left."""
    before = rows(database_url)
    if any(row["status"] == "pending" for row in before):
        return False
    time.sleep(1)
    after = rows(database_url)
    return len(after) == len(before) and all(row["status"] != "pending" for row in after)


def test_rows_are_accepted_requests(start_server: Callable[..., Server], database_url: str) -> None:
    """Every request that upstream saw or that was answered has exactly one row; a row has a request; none stays open.

    A row whose request upstream never saw belongs to a request that was accepted and then lost its caller, its worker
    or its upstream connection: its caller has been answered by no refusal.
    """
    chance = random.Random(4)
    with NumberedUpstream(chance) as upstream:
        server = start_server(
            OPENAI_BASE_URL=upstream.base_url, AUTH_MODE="token", WEB_CONCURRENCY=WORKERS, REQUEST_TIMEOUT=5
        )
        token = add_client(database_url, Limits(budget_nano=10**15, budget_period="total", concurrency=15))
        statuses, kills = asyncio.run(storm(server, token, SECONDS, chance))
        server.wait_for(lambda: is_at_rest(database_url), SWEPT_SECONDS)
        found = rows(database_url)
        per_request = Counter(row["request_id"] for row in found)
        refused = {name for name, status in statuses.items() if status in {401, 403, 429, 503}}
        answered = {name for name, status in statuses.items() if status in {200, 400, 502, 504}}
        asked = upstream.asked()
        assert set(per_request.values()) == {1}
        assert asked <= set(per_request)
        assert answered <= set(per_request)
        assert set(per_request) <= set(statuses)
        assert not refused & set(per_request)
        assert not refused & asked
        endings = Counter(row["status"] for row in found)
        assert {"ok", "error", "cancelled", "abandoned"} <= set(endings)
        assert spent(database_url)[1] == 0
        assert all(row["settled_at"] for row in found)
        accepted = {name for name in statuses if name in asked or name in answered}
        lost = {row["request_id"] for row in found} - accepted
        assert len(found) == len(accepted) + len(lost)
        assert all(statuses[name] is None for name in lost)
        counts = f"{len(statuses)} sent, {len(accepted)} accepted, {len(lost)} lost, {len(found)} rows"
        print(f"{counts}, {kills} workers killed: {dict(endings)}")
