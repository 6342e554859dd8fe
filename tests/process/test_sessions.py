"""Sessions over two real workers: turns come in order, whoever is killed; and an interruption finds its turn."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa

from app.store.tables import sessions, turns
from tests.callers import LOST, Caller, message
from tests.conftest import EVERY_STORE
from tests.process.test_bill_survives import SWEPT_SECONDS, is_at_rest
from tests.records import connected, rows
from tests.server import Server
from tests.streams import endless, response_events, stream
from tests.upstream import Answer, Received, Upstream, delayed, echo

SECONDS = float(os.environ.get("SESSIONS_SECONDS", "6"))
"""How long workers are killed; `SESSIONS_SECONDS=300` for a long look."""
TURNS = 100
NAMES = 12
WORKERS = 2
WITHIN_SECONDS = 1.0

pytestmark = EVERY_STORE


def body(text: str, session: str, **members: Any) -> dict[str, Any]:
    return {"user_message": text, "session_id": session, "remember": True, "free_mode": True} | members


def kept(url: str) -> dict[str, list[dict[str, Any]]]:
    """The turns of each session by its name, in order."""
    query = sa.select(sessions.c.name, turns).join(turns, turns.c.session == sessions.c.id).order_by(turns.c.number)
    found: dict[str, list[dict[str, Any]]] = {}
    with connected(url) as connection:
        for row in connection.execute(query):
            found.setdefault(row.name, []).append(dict(row._mapping))
    return found


def heard_by(received: Received) -> list[str]:
    """What users have said, as the upstream was told it, the last of it now."""
    said = [message["content"] for message in received.json["input"] if message["role"] == "user"]
    return [part for text in said for part in text.split("\n\n")]


def test_turns_of_one_session_come_in_order(
    start_server: Callable[..., Server], upstream: Upstream, database_url: str
) -> None:
    """A hundred at once over two workers: each is made of all that are stored before it; none is lost or doubled."""
    server = start_server(WEB_CONCURRENCY=WORKERS, MAX_QUEUE_SECONDS=60, DEFAULT_MAX_CONTEXT_TOKENS=100_000)
    upstream.default = delayed(0.02, echo)

    def say(number: int) -> Any:
        return server.request("POST", "/api/v1/chat", body(f"word{number}", "s-1"))

    with ThreadPoolExecutor(TURNS) as threads:
        asked = []
        for place, other in enumerate(reversed(server.worker_pids)):
            # A worker that has just woken up may take all connections: half of them come while the other one sleeps.
            os.kill(other, signal.SIGSTOP)
            server.wait_ready("/livez")
            asked += [threads.submit(say, number) for number in range(place, TURNS, WORKERS)]
            time.sleep(0.5)
            os.kill(other, signal.SIGCONT)
        answers = [one.result() for one in asked]
    assert {answer.status for answer in answers} == {200}
    assert sorted(answer.json["turn"] for answer in answers) == list(range(1, TURNS + 1))
    stored = kept(database_url)["s-1"]
    said = [turn["user_text"] for turn in stored]
    assert [turn["number"] for turn in stored] == list(range(1, TURNS + 1))
    assert sorted(said) == sorted(f"word{number}" for number in range(TURNS))
    assert all(stored[answer.json["turn"] - 1]["answer_text"] == answer.json["response_text"] for answer in answers)
    assert len({row["owner"] for row in rows(database_url)}) == WORKERS
    assert len(upstream.received) == TURNS
    for place, received in enumerate(upstream.received):
        assert heard_by(received) == said[: place + 1]


async def talk(port: int, name: str, end: float, chance: random.Random, told: dict[tuple[str, int], str]) -> None:
    """One caller of a session, plain or streamed, that leaves at random; `told` gets what it was told is kept."""
    caller, number = Caller(port), 0
    while time.monotonic() < end:
        number += 1
        said = f"{name}-{number}-{chance.getrandbits(32):08x}"
        request = message("POST", "/api/v1/chat", body(said, name, stream=chance.random() < 0.4))
        try:
            answer = await caller.ask_for(request, chance.choice([0.05, 5.0, 5.0, 5.0]))
        except LOST:
            await asyncio.sleep(0.05)
            continue
        if answer is not None and answer.status == 200 and (turn := turn_of(answer.body)) is not None:
            assert (name, turn) not in told
            told[name, turn] = said
    caller.leave()


def turn_of(answer: bytes) -> int | None:
    """The turn that an answer says it is, plain or streamed."""
    for line in answer.decode().split("\n"):
        line = line.removeprefix("data: ")
        if line.startswith("{") and "turn" in (document := json.loads(line)):
            return int(document["turn"])
    return None


async def interrupter(port: int, end: float, chance: random.Random) -> None:
    """Interrupts sessions at random."""
    caller = Caller(port)
    while time.monotonic() < end:
        await asyncio.sleep(chance.uniform(0.05, 0.2))
        path = f"/api/v1/sessions/s-{chance.randrange(NAMES)}/interrupt"
        try:
            await caller.ask_for(message("POST", path, {"heard_characters": chance.choice([0, 4, 1000])}), 5)
        except LOST:
            continue
    caller.leave()


async def storm(server: Server, chance: random.Random) -> tuple[dict[tuple[str, int], str], int]:
    """Callers, two of each session, an interrupter and a killer of workers: the turns that callers were told of by
    session and number, and the number of workers killed."""
    told: dict[tuple[str, int], str] = {}
    kills, end = 0, time.monotonic() + SECONDS

    async def killer() -> None:
        nonlocal kills
        while time.monotonic() < end - 1:
            await asyncio.sleep(chance.uniform(1, 2.5))
            if pids := server.worker_pids:
                os.kill(chance.choice(pids), signal.SIGKILL)
                kills += 1

    callers = (talk(server.port, f"s-{number % NAMES}", end, chance, told) for number in range(2 * NAMES))
    await asyncio.gather(killer(), interrupter(server.port, end, chance), *callers)
    return told, kills


def test_sessions_survive(start_server: Callable[..., Server], upstream: Upstream, database_url: str) -> None:
    """Workers are killed at random while many sessions talk: no turn is there by half or twice, every turn whose number
    was told is stored, and ledger and turns agree."""
    chance = random.Random(7)
    texts = ["Once upon ", "a time."]
    upstream.default = delayed(0.02, _either(stream(response_events(*texts), pause=0.02), echo))
    server = start_server(WEB_CONCURRENCY=WORKERS, MAX_QUEUE_SECONDS=5, REQUEST_TIMEOUT=5)
    told, kills = asyncio.run(storm(server, chance))
    server.wait_for(lambda: is_at_rest(database_url), SWEPT_SECONDS)
    stored, booked = kept(database_url), rows(database_url)
    assert kills
    for name, of_session in stored.items():
        assert [turn["number"] for turn in of_session] == list(range(1, len(of_session) + 1)), name
        assert all(turn["user_text"].startswith(f"{name}-") for turn in of_session)
        assert all(turn["answer_text"] or turn["interrupted"] for turn in of_session)
    assert all(stored[name][turn - 1]["user_text"] == said for (name, turn), said in told.items())
    every = [turn for of_session in stored.values() for turn in of_session]
    assert set(Counter(turn["user_text"] for turn in every).values()) == {1}
    per_request = Counter(row["request_id"] for row in booked)
    assert set(per_request.values()) == {1}
    leaves_a_turn = {row["request_id"] for row in booked if row["status"] in {"ok", "cancelled", "timeout"}}
    assert {turn["request_id"] for turn in every} == leaves_a_turn
    with connected(database_url) as connection:
        counted = {row.name: row.turns for row in connection.execute(sessions.select()) if row.turns}
    assert counted == {name: len(of_session) for name, of_session in stored.items()}
    endings = Counter(row["status"] for row in booked)
    print(f"{len(every)} turns, {len(told)} told, {kills} workers killed: {dict(endings)}")


def _either(streamed: Answer, plain: Answer) -> Answer:
    async def answer(received: Received, writer: asyncio.StreamWriter) -> None:
        await (streamed if received.json.get("stream") else plain)(received, writer)

    return answer


@pytest.fixture(params=["gevent", "gthread"])
def pair(request: pytest.FixtureRequest, start_server: Callable[..., Server]) -> Server:
    """Two workers of each class."""
    return start_server(WORKER_CLASS=request.param, WEB_CONCURRENCY=WORKERS, MAX_QUEUE_SECONDS=30)


def begun(server: Server, upstream: Upstream, session: str) -> Iterator[bytes]:
    """A streamed turn that has brought all its text; gives the rest of its answer piece by piece."""
    upstream.script(endless("Once upon ", "a time."))
    content = json.dumps(body("Tell me.", session, stream=True)).encode()
    caller = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    head = "POST /api/v1/chat HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
    caller.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    seen = b""
    while b"a time." not in seen:
        seen += caller.recv(65536)

    def rest() -> Iterator[bytes]:
        with caller:
            while piece := caller.recv(65536):
                yield piece

    return rest()


def interrupt(server: Server, session: str, characters: int) -> Any:
    return server.request("POST", f"/api/v1/sessions/{session}/interrupt", {"heard_characters": characters})


def is_marked(url: str) -> bool:
    """Whether a session's running turn has been interrupted."""
    with connected(url) as connection:
        return any(row.interrupted_request for row in connection.execute(sessions.select()))


def test_whichever_worker_is_asked_cuts_the_turn(pair: Server, upstream: Upstream) -> None:
    """Eight times, so that it is now the worker that answers and now the other: upstream is closed within a second."""
    for number in range(8):
        rest = begun(pair, upstream, f"s-{number}")
        began = time.monotonic()
        answer = interrupt(pair, f"s-{number}", 4)
        assert answer.json == {"turn": 1, "answer_text": "Once", "interrupted": True, "was_running": True}
        pair.wait_for(lambda: upstream.received[-1].left_early is not None, 5)
        assert (upstream.received[-1].left_early or 0) - began < WITHIN_SECONDS
        assert b"turn_interrupted" in b"".join(rest)


def test_the_worker_of_the_turn_is_killed(
    start_server: Callable[..., Server], upstream: Upstream, database_url: str
) -> None:
    """While it is interrupted: the turn has left nothing, its row says so, and the session goes on."""
    server = start_server(WEB_CONCURRENCY=WORKERS, MAX_QUEUE_SECONDS=30)
    server.chat("Hello.", session_id="s-1", remember=True)
    rest = begun(server, upstream, "s-1")
    owner = next(row["owner"] for row in rows(database_url) if row["status"] == "pending")
    pid = int(owner.split(":")[1])
    os.kill(pid, signal.SIGSTOP)
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(interrupt, server, "s-1", 4)
        server.wait_for(lambda: is_marked(database_url))
        os.kill(pid, signal.SIGKILL)
        answer = asked.result(60)
    with contextlib.suppress(OSError):
        assert b"turn_interrupted" not in b"".join(rest)
    server.wait_for(lambda: is_at_rest(database_url), SWEPT_SECONDS)
    if answer.status == 200:
        assert answer.json == {"turn": None, "answer_text": None, "interrupted": False, "was_running": True}
    else:
        assert (answer.status, answer.json["code"]) == (409, "session_busy")
    assert [row["status"] for row in rows(database_url)] == ["ok", "abandoned"]
    assert [turn["user_text"] for turn in kept(database_url)["s-1"]] == ["Hello."]
    assert interrupt(server, "s-1", 2).json["answer_text"] == "He"
    assert server.chat("Go on.", session_id="s-1", remember=True).json["turn"] == 2
