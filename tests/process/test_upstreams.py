"""Several upstreams behind real gunicorn, which fail in turn: nobody is mixed up, nothing is lost, all is counted."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import sqlalchemy as sa

from app.store.tables import attempts, requests, rests
from tests.conftest import EVERY_STORE
from tests.records import connected, locked, settled
from tests.server import GUNICORN, ROOT, Server
from tests.upstream import Answer, Received, Upstream, delayed, echo, error_document, pieces, reply, reset, silence

REQUESTS = int(os.environ.get("CHAOS_REQUESTS", "800"))
CALLERS = 16
FIRST_BYTE_SECONDS = 0.5
SPELL_SECONDS = 2.5 * FIRST_BYTE_SECONDS
"""Longer than two upstreams that say nothing: who waits for both of them would else meet the third one's spell."""
resets: list[str] = []


async def counted_reset(received: Received, writer: asyncio.StreamWriter) -> None:
    resets.append(received.path)
    await reset()(received, writer)


FAULTS: list[Answer] = [
    reply(500, error_document()),
    reply(503, error_document()),
    reply(429, error_document(), {"Retry-After": "1"}),
    counted_reset,
    silence(),
    pieces([b"HTTP/1.1 200 X\r\nContent-Length: 99\r\n\r\n{"]),
]
Start = Callable[..., Server]


def faulty_in_turn(number: int, chance: random.Random) -> Answer:
    """The answers of one of three upstreams: every third spell it fails, each time in another way."""

    async def answer(received: Received, writer: asyncio.StreamWriter) -> None:
        spell = int(time.monotonic() / SPELL_SECONDS)
        fails = spell % 3 == number
        await (chance.choice(FAULTS) if fails else delayed(0.005, echo))(received, writer)

    return answer


@pytest.fixture
def three() -> Iterator[list[Upstream]]:
    with Upstream() as first, Upstream() as second, Upstream() as third:
        for number, one in enumerate((first, second, third)):
            one.default = faulty_in_turn(number, random.Random(number))
        yield [first, second, third]


@pytest.fixture
def server(three: list[Upstream], start_server: Start, tmp_path: Path) -> Server:
    """Two workers over the three, any of which may answer."""
    file = tmp_path / "upstreams.toml"
    tables = [
        f'[upstreams.u{number}]\nbase_url = "{one.base_url}"\ndialects = "responses"\n'
        f"first_byte_seconds = {FIRST_BYTE_SECONDS}\n"
        for number, one in enumerate(three)
    ]
    targets = ", ".join(f'{{upstream = "u{number}"}}' for number in range(len(three)))
    file.write_text("\n".join([*tables, f'[models."gpt-4o-mini"]\ntargets = [{targets}]\n']))
    return start_server(UPSTREAMS_FILE=file, WEB_CONCURRENCY=2)


def ask(server: Server, nonce: str) -> str:
    """`ok`, what went wrong, or `lost` where the worker took the connection with it."""
    try:
        answer = server.chat(nonce, free_mode=True)
    except (OSError, http.client.HTTPException):
        return "lost"
    told = json.loads(answer.body)
    if answer.status == 200:
        return "ok" if told["response_text"] == nonce else "mixed"
    return str(told["code"])


def tried(url: str) -> int:
    """How many attempts the ledger has: those with rows of their own, and those in the rows of their requests."""
    with connected(url) as connection:
        counts = (sa.select(sa.func.count()).select_from(attempts), sa.select(sa.func.count(requests.c.upstream)))
        return sum(int(connection.execute(count).scalar_one()) for count in counts)


@pytest.mark.alone
def test_upstreams_that_fail_in_turn(server: Server, three: list[Upstream], database_url: str) -> None:
    """Whenever one target is well, it answers; one of the workers is killed meanwhile."""
    server.wait_for(lambda: len(server.worker_pids) == 2)
    killing = threading.Timer(1.5, lambda: psutil.Process(server.worker_pids[0]).send_signal(signal.SIGKILL))
    killing.start()
    with ThreadPoolExecutor(CALLERS) as pool:
        outcomes = Counter(pool.map(lambda number: ask(server, f"nonce-{number}"), range(REQUESTS)))
    killing.join()
    lost = outcomes.pop("lost", 0)
    assert lost <= CALLERS
    assert outcomes["mixed"] == 0
    assert outcomes["ok"] >= 0.999 * (REQUESTS - lost), outcomes
    rows = settled(database_url, 30)
    assert REQUESTS - lost <= len(rows) <= REQUESTS
    asked = sum(len(one.received) for one in three)
    # What a killed worker had asked for and not written down yet is closed by a sweep, which knows of no attempts. A
    # reset of a connection that was used before is taken for the end of an idle one: its request is sent once more.
    unknown = sum(row["status"] == "abandoned" for row in rows)
    assert unknown <= 2 * CALLERS
    assert 0 <= asked - tried(database_url) <= 5 * unknown + len(resets)
    assert not [row for row in rows if row["status"] == "pending"]


def test_an_upstream_that_is_switched_off(server: Server, three: list[Upstream]) -> None:
    """In mid-load, for good: no request fails for it."""
    for one in three:
        one.default = delayed(0.02, echo)

    def switch_off() -> None:
        three[0].default = reset()

    off = threading.Timer(0.4, switch_off)
    off.start()
    with ThreadPoolExecutor(CALLERS) as pool:
        outcomes = Counter(pool.map(lambda number: ask(server, f"nonce-{number}"), range(500)))
    off.join()
    assert outcomes == {"ok": 500}


@pytest.mark.parametrize(("callers", "requests"), [(1, 100), (8, 300)])
@pytest.mark.parametrize("is_listed", [False, True])
def test_who_fails_always_is_hardly_asked_more_often_than_there_are_requests(
    upstream: Upstream, start_server: Start, tmp_path: Path, is_listed: bool, callers: int, requests: int
) -> None:
    """1.2 times per request, and three times more: by however many callers, with a file and without."""
    upstream.default = reply(500, error_document())
    file = tmp_path / "upstreams.toml"
    file.write_text(f'[upstreams.a]\nbase_url = "{upstream.base_url}"\ndialects = "responses"\n')
    server = start_server(**{"UPSTREAMS_FILE": file} if is_listed else {})
    with ThreadPoolExecutor(callers) as pool:
        outcomes = Counter(pool.map(lambda number: ask(server, f"nonce-{number}"), range(requests)))
    assert outcomes == {"upstream_error": requests}
    assert len(upstream.received) <= 1.2 * requests + 3


def test_the_file_is_read_once(server: Server, tmp_path: Path, three: list[Upstream]) -> None:
    """At the start: what is changed in it later stops no worker that takes another's place."""
    for one in three:
        one.default = echo
    before = set(server.worker_pids)
    (tmp_path / "upstreams.toml").write_text("[upstreams")
    server.send_signal(signal.SIGHUP)
    server.wait_for(lambda: len(server.worker_pids) == 2 and not before & set(server.worker_pids))
    assert {ask(server, f"nonce-{number}") for number in range(20)} == {"ok"}


@pytest.fixture
def first_choice(upstream: Upstream, tmp_path: Path) -> Iterator[tuple[Path, Upstream]]:
    """A file by which `b` is asked only when `a`, the fixture `upstream`, has failed; and `b`."""
    file = tmp_path / "upstreams.toml"
    with Upstream() as second:
        tables = [
            f'[upstreams.{name}]\nbase_url = "{one.base_url}"\ndialects = "responses"\nkey_env = "KEY_{name.upper()}"\n'
            for name, one in {"a": upstream, "b": second}.items()
        ]
        route = '[models."gpt-4o-mini"]\ntargets = [{upstream = "a"}]\non_failure = [{upstream = "b"}]\n'
        file.write_text("\n".join([*tables, route]))
        second.default = echo
        yield file, second


def answer(connection: http.client.HTTPConnection, path: str) -> Any:
    connection.request("GET", path)
    return json.loads(connection.getresponse().read())


def states(server: Server) -> dict[int, tuple[str, str]]:
    """How the first upstream and its key do, by the worker that says so. A connection stays with its worker."""
    found = {}
    with contextlib.ExitStack() as opened:
        connections = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=30) for _ in range(16)]
        for one in connections:
            opened.callback(one.close)
            one.connect()
        for one in connections:
            first = answer(one, "/api/v1/upstreams")["upstreams"][0]
            found[answer(one, "/api/v1/system/info")["process"]["pid"]] = (first["state"], first["keys"][0]["state"])
    return found


def seen(server: Server, state: tuple[str, str]) -> bool:
    """Whether it is so for both workers."""
    return list(states(server).values()) == [state] * 2


@EVERY_STORE
def test_health_is_shared_and_survives_a_restart(
    first_choice: tuple[Path, Upstream], upstream: Upstream, start_server: Start, database_url: str
) -> None:
    """What one worker has learned keeps the other from asking, and after a restart both, until somebody is answered."""
    file, second = first_choice
    settings = {"UPSTREAMS_FILE": file, "WEB_CONCURRENCY": 2, "KEY_A": "sk-a-1", "KEY_B": "sk-b-1"}
    upstream.default = reply(429, error_document(), {"Retry-After": "120"})
    server = start_server(**settings)
    assert ask(server, "nonce") == "ok"
    server.wait_for(lambda: seen(server, ("rests", "well")))
    assert {ask(server, f"nonce-{number}") for number in range(20)} == {"ok"}
    server.stop()
    again = start_server(**settings)
    assert ask(again, "the first request") == "ok"
    again.wait_for(lambda: seen(again, ("rests", "well")))
    assert len(upstream.received) == 1
    # Who rests is asked last and not never.
    upstream.default, second.default = echo, reply(429, error_document(), {"Retry-After": "60"})
    assert ask(again, "nonce") == "ok"
    again.wait_for(lambda: seen(again, ("well", "well")))
    with connected(database_url) as connection:
        assert {row.upstream for row in connection.execute(rests.select())} == {"b"}


@EVERY_STORE
def test_a_key_rests_everywhere(
    first_choice: tuple[Path, Upstream], upstream: Upstream, start_server: Start, database_url: str
) -> None:
    """Its row has the fingerprint of the ledger, and no key."""
    file, _ = first_choice
    server = start_server(UPSTREAMS_FILE=file, WEB_CONCURRENCY=2, KEY_A="sk-a-1", KEY_B="sk-b-1")
    upstream.default = reply(401, error_document())
    assert ask(server, "nonce") == "ok"
    server.wait_for(lambda: seen(server, ("well", "rests")))
    assert {ask(server, f"nonce-{number}") for number in range(20)} == {"ok"}
    assert len(upstream.received) == 1
    settled(database_url)
    with connected(database_url) as connection:
        (row,) = connection.execute(rests.select())
        first = connection.execute(sa.select(attempts).where(attempts.c.upstream == "a")).one()
    assert (row.key_fingerprint, row.reason) == (first.api_key_fingerprint, "server_credentials_rejected")
    assert "sk-a" not in repr(row)


def test_health_while_the_database_is_locked(
    first_choice: tuple[Path, Upstream], start_server: Start, database_url: str, upstream: Upstream
) -> None:
    """A worker goes by what it has learned itself, and says so in one line. Routes that need no row answer at once."""
    file, _ = first_choice
    settings = {"UPSTREAMS_FILE": file, "KEY_A": "sk-a-1", "KEY_B": "sk-b-1"}
    server = start_server(**settings, DATABASE_TIMEOUT=1, LEDGER_FAIL_OPEN="true")
    upstream.default = reply(401, error_document())
    with locked(database_url):
        assert ask(server, "nonce") == "ok"
        began = time.monotonic()
        while time.monotonic() < began + 4:
            asked = time.monotonic()
            told = server.request("GET", "/api/v1/upstreams").json["upstreams"][0]
            assert time.monotonic() - asked < 1
            assert told["keys"][0]["state"] == "rests"
            time.sleep(0.1)
    assert server.log().count("which upstreams rest is known to each worker alone") == 1


BEGUN = '[upstreams.a]\nbase_url = "http://a.test"\ndialects = '


@pytest.mark.parametrize("text", ["[upstreams", BEGUN + '"telnet"\n', BEGUN + '"responses"\nprovider = "azur"\n'])
def test_a_file_that_cannot_be_used_stops_the_start(tmp_path: Path, text: str) -> None:
    """With one line, for gunicorn and for commands."""
    (tmp_path / "upstreams.toml").write_text(text)
    environ = Server(tmp_path, UPSTREAMS_FILE=tmp_path / "upstreams.toml").environ
    for command in (GUNICORN, (sys.executable, "-m", "flask", "--app", "wsgi", "upstreams", "check")):
        ended = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=20, check=False)
        assert ended.returncode != 0
        (line,) = ended.stderr.splitlines()
        assert "UPSTREAMS_FILE" in line


def test_variables_that_hold_keys_are_no_slips(upstream: Upstream, start_server: Start, tmp_path: Path) -> None:
    """Their names look like settings of ours; what is in them is in no line of the log, whatever it looks like."""
    file = tmp_path / "upstreams.toml"
    file.write_text(
        f'[upstreams.a]\nbase_url = "{upstream.base_url}"\ndialects = "responses"\nkey_env = "OPENAI_API_KEY_2"\n'
    )
    server = start_server(UPSTREAMS_FILE=file, OPENAI_API_KEY=None, OPENAI_API_KEY_2="a-key-like-no-other")
    assert server.chat("hi", model="a-key-like-no-other").status == 200
    assert server.request("GET", "/nope?a-key-like-no-other").status == 404
    assert upstream.received[0].key == "a-key-like-no-other"
    assert "is not a setting" not in server.output()
    assert "a-key-like-no-other" not in server.output() + server.log()
