"""Real gunicorn, under both worker classes: stops, reloads, lost workers, and what is refused before Flask sees it."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import json
import os
import re
import shlex
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from tests.records import Row, locked, rows
from tests.server import GUNICORN, Answer, Server
from tests.streams import delta, read_events, stream
from tests.upstream import Received, Upstream, echo, silence

WORKER_CLASSES = ("gevent", "gthread")
SCRIPT = str(Path(sys.executable).parent / "gunicorn")
REQUEST_TIMEOUT = 2.0

both = pytest.mark.parametrize("worker_class", WORKER_CLASSES)
Start = Callable[..., Server]


class Gate:
    """An upstream answer that echoes, but only once the gate is open."""

    def __init__(self) -> None:
        self._open = threading.Event()

    def open(self) -> None:
        self._open.set()

    async def __call__(self, received: Received, writer: asyncio.StreamWriter) -> None:
        while not self._open.is_set():
            await asyncio.sleep(0.01)
        await echo(received, writer)


class Callers:
    """Callers in threads of their own; each message is unique, so that a mixed-up answer shows."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._pool = ThreadPoolExecutor(64)
        self._numbers = itertools.count()
        self.sent: list[tuple[str, Future[Answer]]] = []

    def __enter__(self) -> Callers:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def send(self) -> None:
        """Send one chat turn without waiting for its answer."""
        message = f"nonce-{next(self._numbers)}"
        self.sent.append((message, self._pool.submit(self._server.chat, message)))

    def keep_sending(self, callers: int, until: Callable[[], bool]) -> None:
        """Have `callers` send one turn after the other until `until` holds."""
        done = threading.Event()

        def one_caller() -> None:
            while not done.is_set():
                message = f"nonce-{next(self._numbers)}"
                answer: Future[Answer] = Future()
                self.sent.append((message, answer))
                try:
                    answer.set_result(self._server.chat(message))
                except BaseException as exc:
                    answer.set_exception(exc)

        threads = [self._pool.submit(one_caller) for _ in range(callers)]
        try:
            self._server.wait_for(until, 60)
        finally:
            done.set()
        for thread in threads:
            thread.result(60)

    def outcomes(self) -> tuple[int, list[str]]:
        """How many were answered with their own message, and what happened to the others."""
        good, bad = 0, []
        for message, future in self.sent:
            try:
                answer = future.result(60)
            except (OSError, http.client.HTTPException) as exc:
                bad.append(repr(exc))
                continue
            if answer.status == 200 and answer.json["response_text"] == message:
                good += 1
            else:
                bad.append(f"{answer.status} {answer.body[:300]!r}")
        return good, bad


@pytest.fixture(scope="module", params=WORKER_CLASSES)
def shared(request: pytest.FixtureRequest, start_shared: Start) -> Server:
    """One server per worker class for the tests that leave it as they found it: one slot, a short deadline."""
    return start_shared(
        WORKER_CLASS=request.param, REQUEST_TIMEOUT=REQUEST_TIMEOUT, MAX_CONCURRENT_REQUESTS=1, MAX_QUEUE_SECONDS=0.2
    )


def raw(server: Server, request: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send bytes as they are; give status, headers (lower-case names) and everything else until the peer closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(request)
        received = b""
        while piece := connection.recv(65_536):
            received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    status_line, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
    return int(status_line.split()[1]), headers, body


def test_chat_through_gunicorn(shared: Server) -> None:
    """A chat turn is answered and its answer carries the safe headers and no server version."""
    answer = shared.chat("안녕하세요")
    assert answer.status == 200
    assert answer.json["response_text"] == "안녕하세요"
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert not re.search(r"\d", answer.headers.get("Server", ""))


def test_one_line_per_request(shared: Server) -> None:
    """It has the caller's request id and address, and no query string: that may hold a secret."""
    shared.chat("hi", headers={"X-Request-ID": "find.me-1"})
    shared.request("GET", "/api/v1/?token=secret-in-query", headers={"X-Request-ID": "find.me-2"})
    # In any order: a line is written when its answer has been sent.
    shared.wait_for(lambda: all(f"request_id=find.me-{number}" in shared.log() for number in (1, 2)))
    lines = sorted((line for line in shared.log().splitlines() if "find.me" in line), key=lambda line: "me-2" in line)
    assert len(lines) == 2
    assert "request_id=find.me-1 peer=127.0.0.1 method=POST route=/api/v1/chat status=200 " in lines[0]
    assert "secret-in-query" not in shared.log() + shared.output()


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"\x16\x03\x01SECRET\r\n\r\n", 400),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\nSECRET", 400),
        (b"GET /" + b"SECRET" * 1000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
        (b"GET /livez HTTP/1.1\r\nHost: a\r\nX-A: " + b"SECRET" * 2000 + b"\r\n\r\n", 431),
    ],
    ids=["garbage", "smuggling", "long-line", "long-header"],
)
def test_what_the_parser_refuses(shared: Server, request_bytes: bytes, status: int) -> None:
    """A request that is not acceptable HTTP gets a problem document that quotes nothing, and the connection closes."""
    got, headers, body = raw(shared, request_bytes)
    problem = json.loads(body)
    assert (got, problem["status"], problem["code"], problem["origin"]) == (status, status, "bad_request", "client")
    assert headers["content-type"] == "application/problem+json"
    assert headers["connection"] == "close"
    assert headers["x-request-id"] == problem["request_id"]
    assert b"SECRET" not in body
    assert "SECRET" not in shared.log() + shared.output()
    assert shared.status("/livez") == 200


def test_busy(shared: Server, shared_upstream: Upstream) -> None:
    """Above the slots of a worker a request waits, then is told to come back; probes do not wait."""
    gate = Gate()
    shared_upstream.script(gate)
    seen = len(shared_upstream.received)
    with Callers(shared) as callers:
        callers.send()
        shared.wait_for(lambda: len(shared_upstream.received) > seen)
        began = time.monotonic()
        refused = shared.chat("one too many")
        assert time.monotonic() - began >= 0.2
        assert shared.status("/livez") == 200
        gate.open()
        assert callers.outcomes() == (1, [])
    assert (refused.status, refused.json["code"], refused.json["retryable"]) == (503, "server_busy", True)
    assert int(refused.headers["Retry-After"]) >= 1
    assert shared.chat("again").status == 200


def test_deadline(shared: Server, shared_upstream: Upstream) -> None:
    """A silent upstream costs a caller the deadline and not much more, and the slot is free again."""
    shared_upstream.script(silence())
    began = time.monotonic()
    answer = shared.chat("anybody there?")
    seconds = time.monotonic() - began
    assert (answer.status, answer.json["code"]) == (504, "upstream_timeout")
    assert REQUEST_TIMEOUT <= seconds <= REQUEST_TIMEOUT + 1
    assert shared.chat("again").status == 200


@both
def test_sigterm_with_calls_in_flight(start_server: Start, upstream: Upstream, worker_class: str) -> None:
    """Readiness fails first, while requests are still taken; every call is finished; the exit code is 0."""
    server = start_server(WORKER_CLASS=worker_class, DRAIN_SECONDS=1.5)
    gate = Gate()
    upstream.default = gate
    with Callers(server) as callers:
        for _ in range(8):
            callers.send()
        server.wait_for(lambda: len(upstream.received) == 8)
        server.send_signal(signal.SIGTERM)
        server.wait_for(lambda: server.status("/readyz") == 503)
        refused = server.request("GET", "/readyz")
        upstream.script(echo)
        late = server.chat("late")
        # The drain is over when nobody listens any more; the calls are still in flight then.
        server.wait_for(lambda: refuses_connections(server))
        assert not any(future.done() for _, future in callers.sent)
        gate.open()
        assert callers.outcomes() == (8, [])
    assert refused.json["code"] == "server_shutting_down"
    assert int(refused.headers["Retry-After"]) >= 1
    assert (late.status, late.json["response_text"]) == (200, "late")
    assert server.process.wait(30) == 0
    assert "Traceback" not in server.output()


def refuses_connections(server: Server) -> bool:
    """Nobody listens: better for a caller than to be accepted by the kernel and never be answered."""
    try:
        socket.create_connection(("127.0.0.1", server.port), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


@both
def test_sighup_under_load(start_server: Start, worker_class: str) -> None:
    """A reload replaces every worker and loses no request; readiness does not fail for it."""
    server = start_server(WORKER_CLASS=worker_class, WEB_CONCURRENCY=2, DRAIN_SECONDS=60)
    server.wait_for(lambda: len(server.worker_pids) == 2)
    old = set(server.worker_pids)
    probes: list[int] = []

    def reloaded() -> bool:
        probes.append(server.request("GET", "/readyz").status)
        now = set(server.worker_pids)
        return len(callers.sent) > 300 and len(now) == 2 and not now & old

    with Callers(server) as callers:
        server.send_signal(signal.SIGHUP)
        callers.keep_sending(4, reloaded)
        good, bad = callers.outcomes()
    assert server.stop(signal.SIGINT) == 0
    assert not bad
    assert good > 300
    assert set(probes) == {200}


@both
def test_a_reload_while_a_call_lasts(start_server: Start, upstream: Upstream, worker_class: str) -> None:
    """The master goes on: it replaces a worker that is lost meanwhile, and a quick stop is quick."""
    server = start_server(WORKER_CLASS=worker_class)
    upstream.default = silence()
    (old,) = server.worker_pids
    with Callers(server) as callers:
        callers.send()
        server.wait_for(lambda: upstream.received)
        server.send_signal(signal.SIGHUP)
        server.wait_for(lambda: set(server.worker_pids) - {old})
        (new,) = set(server.worker_pids) - {old}
        os.kill(new, signal.SIGKILL)
        began = time.monotonic()
        server.wait_for(lambda: set(server.worker_pids) - {old, new})
        assert time.monotonic() - began < 5
        server.wait_for(lambda: server.status("/livez") == 200)
        began = time.monotonic()
        server.stop(signal.SIGINT, group=True)
        assert time.monotonic() - began < 3


@both
def test_sigkill_of_a_worker(start_server: Start, upstream: Upstream, worker_class: str) -> None:
    """Only the calls of that worker are lost, and another one takes its place."""
    server = start_server(WORKER_CLASS=worker_class, WEB_CONCURRENCY=2)
    server.wait_for(lambda: len(server.worker_pids) == 2)
    victim, survivor = server.worker_pids
    gate = Gate()
    upstream.default = gate
    with Callers(server) as callers:

        def both_work() -> bool:
            callers.send()
            server.wait_for(lambda: len(upstream.received) == len(callers.sent))
            return bool(calls_of(victim, upstream)) and bool(calls_of(survivor, upstream))

        server.wait_for(both_work)
        lost = calls_of(victim, upstream)
        psutil.Process(victim).kill()
        killed = time.monotonic()
        server.wait_for(lambda: set(server.worker_pids) - {victim, survivor})
        gate.open()
        good, bad = callers.outcomes()
    (replacement,) = set(server.worker_pids) - {victim, survivor}
    assert (good, len(bad)) == (len(callers.sent) - lost, lost)
    server.wait_for(lambda: server.status("/api/v1/") == 200 and f"[{replacement}] app.request" in server.log())
    print(f"a replacement served after {time.monotonic() - killed:.2f} s")


@both
def test_more_connections_than_descriptors(start_server: Start, worker_class: str) -> None:
    """They wait, the worker stays, and its answers come again as soon as there are descriptors."""
    command = ["sh", "-c", f"ulimit -n 60; exec {shlex.join(GUNICORN)}"]
    server = start_server(WORKER_CLASS=worker_class, command=command)
    before = server.worker_pids
    with contextlib.ExitStack() as connections:
        for _ in range(100):
            connections.enter_context(socket.create_connection(("127.0.0.1", server.port)))
        server.wait_for(lambda: "Too many open files" in server.output() + server.log())
        time.sleep(0.5)
        assert server.worker_pids == before
    server.wait_for(lambda: server.status("/livez") == 200)
    assert server.worker_pids == before


@pytest.mark.parametrize("command", [GUNICORN, (SCRIPT, "wsgi:app")], ids=["-m gunicorn", "gunicorn"])
def test_a_new_master_beside_the_old_one(start_server: Start, command: Sequence[str]) -> None:
    """SIGUSR2, as gunicorn describes it for a new version of itself: both serve until the old one is told to stop."""
    server = start_server(command=command)
    (worker,) = server.worker_pids
    server.send_signal(signal.SIGUSR2)
    server.wait_for(lambda: any(child.children() for child in psutil.Process(server.pid).children()))
    (new,) = [child for child in psutil.Process(server.pid).children() if child.pid != worker]
    server.stop()
    server.wait_for(lambda: server.status("/readyz") == 200)
    assert server.chat("hi").status == 200
    new.terminate()
    new.wait(20)


@both
@pytest.mark.parametrize("late_seconds", [0, 0.1, 0.4])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
def test_a_stop_while_a_worker_starts(
    start_server: Start, worker_class: str, number: signal.Signals, late_seconds: float
) -> None:
    """It reaches a worker that has not loaded the application yet."""
    server = start_server(WORKER_CLASS=worker_class, ready=None)
    server.wait_for(lambda: server.worker_pids)
    time.sleep(late_seconds)
    assert server.stop(number, group=number == signal.SIGINT, seconds=10) == 0


def calls_of(pid: int, upstream: Upstream) -> int:
    """How many connections to upstream a worker has open: one per call in flight."""
    connections = psutil.Process(pid).net_connections("tcp")
    return sum(
        1 for one in connections if one.raddr and one.raddr.port == upstream.port and one.status == "ESTABLISHED"
    )


@both
def test_a_worker_above_the_memory_limit_is_replaced(
    start_server: Start, upstream: Upstream, worker_class: str
) -> None:
    """It finishes its calls while its replacement serves, and no request fails for it."""
    server = start_server(WORKER_CLASS=worker_class, MEMORY_SOFT_LIMIT_MB=1, MEMORY_LOG_SECONDS=0.5)
    (first,) = server.worker_pids
    gate = Gate()
    upstream.script(gate)

    def others_serve() -> bool:
        pids = set(re.findall(r" \[(\d+)\] app\.request: .* route=/api/v1/chat ", server.log()))
        return len(pids) >= 2

    with Callers(server) as callers, Callers(server) as held:
        held.send()
        server.wait_for(lambda: upstream.received)
        callers.keep_sending(2, others_serve)
        good, bad = callers.outcomes()
        assert first in server.worker_pids
        gate.open()
        assert held.outcomes() == (1, [])
    assert not bad
    assert good
    server.wait_for(lambda: first not in server.worker_pids)
    assert f"[{first}] app.process.memory: memory stays above its limit, replacing this worker" in server.log()


@both
def test_ctrl_c(start_server: Start, upstream: Upstream, worker_class: str) -> None:
    """A Ctrl-C with a call in flight ends every process at once, without a traceback."""
    server = start_server(WORKER_CLASS=worker_class, WEB_CONCURRENCY=2, DRAIN_SECONDS=60)
    upstream.default = silence()
    with Callers(server) as callers:
        callers.send()
        server.wait_for(lambda: upstream.received)
        began = time.monotonic()
        assert server.stop(signal.SIGINT, group=True) == 0
        assert time.monotonic() - began < 8
        assert not server.leftovers()
    assert "Traceback" not in server.output()
    assert "Error" not in server.output()


PATHS = ("/api/v1/chat", "/v1/responses")
QUICK_SECONDS = 3.0
"""A worker takes two at most; the master looks after it every tenth of a second, and the machine is busy."""


def ask(server: Server, path: str, **fields: object) -> http.client.HTTPResponse:
    """Send a request that either route understands; give the answer as soon as its head is there."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    # With it the answer owns the socket, and closes it when it has been read.
    headers = {"Content-Type": "application/json", "X-Free-Mode": "true", "Connection": "close"}
    own = {"user_message": "hi", "free_mode": True} if path == PATHS[0] else {"input": "hi"}
    connection.request("POST", path, json.dumps(own | {"model": "gpt-4o-mini"} | fields), headers)
    return connection.getresponse()


async def begin_and_stall(received: Received, writer: asyncio.StreamWriter) -> None:
    """Begin the streams of one model and say no more; to others, nothing at all."""
    begins = received.json["model"] == "gpt-4o"
    await (stream([delta("half")], pause=3600) if begins else silence())(received, writer)


async def never_stop(received: Received, writer: asyncio.StreamWriter) -> None:
    """An answer without end, as fast as it is read."""
    await stream(itertools.repeat(delta("x" * 1000), 1_000_000))(received, writer)


def send_signals(server: Server, how: str) -> None:
    """One way to ask for a quick end."""
    if how == "after SIGTERM":
        server.send_signal(signal.SIGTERM)
        server.wait_for(lambda: server.status("/readyz") == 503)
    server.send_signal(signal.SIGQUIT if how == "SIGQUIT" else signal.SIGINT, group=how == "Ctrl-C, twice")
    if how == "Ctrl-C, twice":
        time.sleep(0.1)
        server.send_signal(signal.SIGINT, group=True)
        server.send_signal(signal.SIGTERM, group=True)


def assert_told(answer: http.client.HTTPResponse, path: str) -> None:
    """Before anything was sent it is an ordinary answer, afterwards the stream's last event, once."""
    body = answer.read()
    if answer.status == 503:
        document = json.loads(body)
        assert int(answer.headers["Retry-After"]) >= 1
    else:
        assert answer.status == 200
        (name, document) = read_events(body)[-1]
        assert (name, body.count(b"event: error"), body.count(b"half")) == ("error", 1, 1)
    code = document["code"] if path == PATHS[0] else document["error"]["code"]
    assert code == "server_shutting_down"


@both
@pytest.mark.parametrize("how", ["Ctrl-C, twice", "SIGQUIT", "after SIGTERM"])
def test_a_quick_stop_loses_no_bill(
    start_server: Start, upstream: Upstream, database_url: str, worker_class: str, how: str
) -> None:
    """Every caller is told, plain and streamed, before and after the first byte, on both routes; every row is settled;
    it takes about two seconds at most, and a second signal changes nothing.
    """
    server = start_server(WORKER_CLASS=worker_class, DRAIN_SECONDS=30)
    upstream.default = begin_and_stall
    with ThreadPoolExecutor(4) as pool:
        waiting = [(path, pool.submit(ask, server, path, stream=some)) for path in PATHS for some in (True, False)]
        begun = [(path, ask(server, path, stream=True, model="gpt-4o")) for path in PATHS]
        server.wait_for(lambda: len(upstream.received) == 6)
        began = time.monotonic()
        send_signals(server, how)
        assert server.process.wait(30) == 0
        assert time.monotonic() - began < QUICK_SECONDS
        for path, answer in [*begun, *((path, future.result()) for path, future in waiting)]:
            assert answer.status == (200 if (path, answer) in begun else 503)
            assert_told(answer, path)
    assert_settled(rows(database_url), 6)
    assert all(row["output_tokens"] for row in rows(database_url) if row["model"] == "gpt-4o")
    assert "Traceback" not in server.output()
    assert "SIGKILL" not in server.log()


def assert_settled(found: list[Row], number: int) -> None:
    """So many rows, each with what the call may have cost."""
    assert [(row["status"], row["code"], row["estimated"]) for row in found] == (
        [("error", "server_shutting_down", True)] * number
    )
    assert all(row["input_tokens"] for row in found)


@both
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_caller_that_does_not_read(
    start_server: Start, upstream: Upstream, database_url: str, worker_class: str, number: signal.Signals
) -> None:
    """It cannot be told, but its row is settled: at once, or before the master loses patience with a graceful stop."""
    server = start_server(WORKER_CLASS=worker_class, REQUEST_TIMEOUT=1)
    upstream.default = never_stop
    answers = [ask(server, path, stream=True) for path in PATHS]
    # Until all buffers between are full.
    time.sleep(1.5)
    began = time.monotonic()
    assert server.stop(number) == 0
    assert time.monotonic() - began < (QUICK_SECONDS if number == signal.SIGINT else 6)
    for answer in answers:
        answer.close()
    assert_settled(rows(database_url), 2)
    assert "SIGKILL" not in server.log()


@both
def test_a_quick_stop_while_the_database_is_locked(
    start_server: Start, upstream: Upstream, database_url: str, worker_class: str
) -> None:
    """The caller is told and the process ends in time all the same."""
    server = start_server(WORKER_CLASS=worker_class)
    upstream.default = silence()
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(ask, server, PATHS[0])
        server.wait_for(lambda: upstream.received)
        with locked(database_url):
            began = time.monotonic()
            assert server.stop(signal.SIGINT) == 0
            assert time.monotonic() - began < QUICK_SECONDS
        assert_told(waiting.result(), PATHS[0])
    assert [row["status"] for row in rows(database_url)] == ["pending"]


@pytest.mark.parametrize(
    ("name", "value"),
    [("REQUEST_TIMEOUT", "sekrit"), ("SERVER_PORT", "99999"), ("WORKER_CLASS", "sync"), ("OPENAI_API_KEY", "a b c")],
)
def test_bad_setting(start_server: Start, name: str, value: str) -> None:
    """The start ends at once with one line that names the variable and not its value."""
    began = time.monotonic()
    server = start_server(ready=None, **{name: value})
    assert server.process.wait(20) != 0
    assert time.monotonic() - began < 5
    assert server.stdout() == ""
    (line,) = server.stderr().splitlines()
    assert name in line
    assert value not in line
