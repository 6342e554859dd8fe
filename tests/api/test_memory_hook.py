"""The memory hook on the wire: what is asked and told, and a server that is slow, broken or hostile."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import pytest
import trustme
from flask import Flask

from app.calls.call import Call
from app.config import Config
from app.errors import ServiceException
from app.services.chat import ChatService
from app.services.memory_hook import FAILURES, RECALL_SECONDS, MemoryHook, ToldTurn
from app.upstreams.memory_server import MemoryFailed, MemoryServer
from app.web.services import service
from tests.api.test_transport import tls_upstream
from tests.prometheus import samples, value
from tests.server import ROOT
from tests.unit.test_lifecycle import FakeArbiter, FakeWorker, make_hooks
from tests.upstream import Answer, Received, Upstream, delayed, pieces, reply, reset, silence

Counts = Counter[tuple[str, str]]

TURN = ToldTurn(
    client="web", session="s-1", user="mina", turn=3, user_message="안녕", response_text="네", interrupted=True
)
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
BOMB = gzip.compress(b'["' + b"a" * 50_000_000 + b'"]')


def hook_to(memory: Upstream, path: str = "/v1", **options: Any) -> tuple[MemoryHook, Counts]:
    """A hook that asks this server, and what it counts."""
    counts: Counts = Counter()
    server = MemoryServer(f"http://127.0.0.1:{memory.port}{path}", **options)
    return MemoryHook(server, failed=lambda step, reason: counts.update([(step, reason)])), counts


@pytest.fixture
def memory() -> Iterator[Upstream]:
    """The memory server."""
    with Upstream() as server:
        server.default = reply(200, ["a"])
        yield server


def endless(piece: bytes, head: bytes = CHUNKED) -> Answer:
    """A body without end, as fast as it goes."""

    async def answer(received: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(head)
        while True:
            writer.write(piece)
            await writer.drain()

    return answer


def test_what_is_asked(memory: Upstream) -> None:
    """One GET with the turn's beginning; the URL's own path and query stay, and of ours go a token and no more."""
    memory.default = reply(200, {"memories": ["미나는 차를 좋아한다", "b"]})
    hook, counts = hook_to(memory, "/a%20b/recall/?tenant=x&k=1", token="t-1")
    assert hook.recall("차 & 커피?", "s/1", "미나+1", Call(5), client="web 1") == ("미나는 차를 좋아한다", "b")
    (asked,) = memory.received
    url = urlsplit(asked.path)
    assert (asked.method, url.path) == ("GET", "/a%20b/recall/")
    assert parse_qsl(url.query) == [
        *(("tenant", "x"), ("k", "1")),
        *(("query", "차 & 커피?"), ("session", "s/1"), ("user", "미나+1"), ("client", "web 1")),
    ]
    assert "+" not in url.query
    assert asked.headers == {
        "host": f"127.0.0.1:{memory.port}",
        "user-agent": "llm-server",
        "accept": "application/json",
        "accept-encoding": "identity",
        "authorization": "Bearer t-1",
    }
    assert not counts


def test_without_a_path_or_a_token(memory: Upstream) -> None:
    """The root is asked, what is empty is said to be, and no credential goes along."""
    hook, _ = hook_to(memory, "")
    assert hook.recall("q", "s", "", Call(5)) == ("a",)
    assert memory.received[0].path == "/?query=q&session=s&user=&client="
    assert "authorization" not in memory.received[0].headers


def test_what_no_url_can_carry_is_asked_all_the_same(memory: Upstream) -> None:
    """A plain Python program may say anything."""
    hook, counts = hook_to(memory)
    assert hook.recall("a\ud800\r\nX: y", "s\x00", "u", Call(5)) == ("a",)
    assert memory.received[0].path.startswith("/v1?query=a%3F%0D%0AX%3A%20y&session=s%00&")
    assert not counts


def test_connections_are_used_again(memory: Upstream) -> None:
    """A handshake for each turn would take of the little time there is; nothing remembered is an answer, too."""
    hook, counts = hook_to(memory)
    memory.script(reply(200, b"[]"), reply(204, b""), reply(200, ["b"]))
    assert [hook.recall("q", "s", "u", Call(5)) for _ in range(3)] == [(), (), ("b",)]
    assert (memory.connections, counts) == (1, {})


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (reply(200, b"<html>login</html>", {"Content-Type": "text/html"}), "bad_answer"),
        (reply(200, [1]), "bad_answer"),
        (reply(200, ["a\x00"]), "bad_answer"),
        (reply(200, b'["\\udc00"]'), "bad_answer"),
        (reply(200, ["a"] * 101), "bad_answer"),
        (reply(200, ["a" * 65_536]), "bad_answer"),
        (reply(200, BOMB, {"Content-Encoding": "gzip"}), "bad_answer"),
        (reply(200, gzip.compress(b'["a"]'), {"Content-Encoding": "gzip"}), "bad_answer"),
        (endless(b"10000\r\n" + b"a" * 65_536 + b"\r\n"), "bad_answer"),
        (endless(b"a" * 65_536, HEAD + b"\r\n"), "bad_answer"),
        (endless(b"1;" + b"x" * 50_000 + b"\r\n[\r\n"), "bad_answer"),
        (endless(b"1;" + b"x" * 100_000), "connection_lost"),
        (endless(b"X: y\r\n", HEAD), "connection_lost"),
        (endless(b"HTTP/1.1 100 Continue\r\n\r\n", b""), "connection_lost"),
        (reply(302, b"", {"Location": "/elsewhere"}), "bad_status"),
        (reply(404, ["a"]), "bad_status"),
        (reply(500, ["a"]), "bad_status"),
        (reset(), "connection_lost"),
        (pieces([b""]), "connection_lost"),
        (pieces([b"not HTTP\r\n\r\n"]), "connection_lost"),
        (pieces([HEAD + b'Content-Length: 99\r\n\r\n["a"]']), "connection_lost"),
    ],
)
def test_a_server_that_is_of_no_use(memory: Upstream, answer: Answer, reason: str) -> None:
    """The turn goes on without it, in time, and the reason is counted; the next answer is used again."""
    memory.script(answer)
    hook, counts = hook_to(memory)
    began = time.monotonic()
    assert hook.recall("q", "s", "u", Call(5)) == ()
    assert time.monotonic() - began < RECALL_SECONDS + 0.7
    # On a busy machine what comes without end may be cut by the clock first.
    assert list(counts) in ([("recall", reason)], [("recall", "timed_out")])
    assert hook.recall("q", "s", "u", Call(5)) == ("a",)
    assert [asked.path for asked in memory.received] == ["/v1?query=q&session=s&user=u&client="] * 2


@pytest.mark.parametrize(
    "answer",
    [
        silence(),
        delayed(0.6, reply(200, ["late"])),
        pieces([b"HTTP/1.1 200 OK\r\n", *[b"x"] * 200], pause=0.05),
        pieces([CHUNKED, *[b"1\r\n \r\n"] * 200], pause=0.05),
    ],
)
def test_recall_takes_no_longer(memory: Upstream, answer: Answer) -> None:
    """A silent server, a late one and those that drip are left behind at 300 ms, and their connection is closed."""
    memory.script(answer)
    hook, counts = hook_to(memory)
    call = Call(5)
    began = time.monotonic()
    assert hook.recall("q", "s", "u", call) == ()
    assert 0.25 < time.monotonic() - began < 0.8
    assert counts == {("recall", "timed_out"): 1}
    call.check()
    assert hook.recall("q", "s", "u", call) == ("a",)
    assert memory.connections == 2


def test_nobody_listens() -> None:
    """The way to it is counted as what it is."""
    with Upstream() as gone:
        hook, counts = hook_to(gone)
    assert hook.recall("q", "s", "u", Call(5)) == ()
    assert counts == {("recall", "not_connected"): 1}


def ends(call: Call, hook: MemoryHook) -> str:
    """How a recall of a call that has ended ends."""
    with pytest.raises(ServiceException) as raised:
        hook.recall("q", "s", "u", call)
    return raised.value.error_code


def test_the_end_of_the_call_is_the_end(memory: Upstream) -> None:
    """The caller leaves, the server stops, the deadline passes: that is raised at once, and counted as no failure."""
    memory.default = silence()
    hook, counts = hook_to(memory)
    near, far = socket.socketpair()
    with near, far:
        threading.Timer(0.05, far.close).start()
        assert ends(call := Call(5, caller=near), hook) == "client_closed_request"
        assert call.ended == "caller_gone"
    stopped = Call(5)
    threading.Timer(0.05, stopped.end, ["shutting_down"]).start()
    assert ends(stopped, hook) == "server_shutting_down"
    assert ends(Call(0.05), hook) == "upstream_timeout"
    assert ends(stopped, hook) == "server_shutting_down"
    assert len(memory.received) == 3
    deadline = time.monotonic() + 5
    while not all(asked.left_early for asked in memory.received) and time.monotonic() < deadline:
        time.sleep(0.01)
    for asked in memory.received:
        assert asked.left_early is not None
        assert asked.left_early - asked.came < RECALL_SECONDS
    assert not counts


def test_what_is_told(memory: Upstream) -> None:
    """One POST of the turn, to the same address."""
    hook, counts = hook_to(memory, "/turns?tenant=x", token="t-1")
    hook.tell(TURN)
    hook.flush(10)
    (told,) = memory.received
    assert (told.method, told.path) == ("POST", "/turns?tenant=x")
    assert (told.headers["content-type"], told.headers["authorization"]) == ("application/json", "Bearer t-1")
    assert told.json == {
        "client": "web",
        "session": "s-1",
        "user": "mina",
        "turn": 3,
        "user_message": "안녕",
        "response_text": "네",
        "interrupted": True,
    }
    assert not counts


def test_a_turn_is_told_twice_at_most(memory: Upstream) -> None:
    """A failure that passes costs nothing; one that stays is counted once for a turn."""
    hook, counts = hook_to(memory)
    memory.script(reply(503), reply(204, b""))
    hook.tell(TURN)
    hook.flush(10)
    assert (len(memory.received), counts) == (2, {})
    memory.default = reply(500)
    hook.tell(TURN)
    hook.flush(10)
    assert (len(memory.received), counts) == (4, {("tell", "bad_status"): 1})


def test_telling_ends_in_time(memory: Upstream) -> None:
    """Neither silence nor a body that drips without end holds a teller, nor who reads nothing of a long turn."""
    server = MemoryServer(f"http://127.0.0.1:{memory.port}/")
    memory.script(silence(), pieces([CHUNKED, *[b"1\r\n \r\n"] * 400], pause=0.003))
    with pytest.raises(MemoryFailed) as raised:
        server.post(b"{}", 0.2)
    assert raised.value.reason == "timed_out"
    with pytest.raises(MemoryFailed) as raised:
        server.post(b"{}", 30)
    assert (raised.value.reason, raised.value.detail) == ("bad_answer", "more than 65536 bytes or 256 pieces")
    with socket.create_server(("127.0.0.1", 0)) as deaf, pytest.raises(MemoryFailed) as raised:
        MemoryServer(f"http://127.0.0.1:{deaf.getsockname()[1]}/").post(b"a" * 30_000_000, 0.3)
    assert raised.value.reason == "timed_out"


def test_tls(tmp_path: Path) -> None:
    """UPSTREAM_CA_FILE holds for it as well; without it, nothing is said to a server that nobody vouches for."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with tls_upstream(authority) as memory:
        memory.default = reply(200, ["a"])
        url = f"https://localhost:{memory.port}/m"
        trusting = MemoryServer.of(Config(memory_url=url, memory_token="t", upstream_ca_file=str(tmp_path / "ca.pem")))
        assert trusting is not None
        assert json.loads(trusting.get({}, 5, Call(5))) == ["a"]
        assert memory.received[0].headers["authorization"] == "Bearer t"
        doubting = MemoryServer.of(Config(memory_url=url))
        assert doubting is not None
        with pytest.raises(MemoryFailed) as raised:
            doubting.get({}, 5, Call(5))
        assert (raised.value.reason, raised.value.detail) == ("not_connected", "certificate unknown authority")
        assert len(memory.received) == 1


def test_the_app_has_one_hook(make_app: Callable[..., Flask], memory: Upstream) -> None:
    """The settings join it, and its failures are in the metrics; a series is there before its first failure."""
    app = make_app(memory_url=f"http://127.0.0.1:{memory.port}/?a=b", memory_token="t-1", memory_max_tokens=3)
    hook = service(MemoryHook, app)
    assert service(ChatService, app)._remembering._hook is hook

    def failures(**labels: str) -> float:
        with app.test_client().get("/metrics") as answer:
            found = samples(answer.get_data(as_text=True))
        there = {labels for name, labels in found if name == "memory_hook_failures_total"}
        assert there == {frozenset({("step", step), ("reason", reason)}) for step, reason in FAILURES}
        return value(found, "memory_hook_failures_total", **labels)

    assert failures() == 0
    memory.script(reply(200, ["a" * 12, "b"]), reply(500))
    assert hook.recall("q", "s", "u", Call(5)) == ("a" * 12,)
    assert memory.received[0].headers["authorization"] == "Bearer t-1"
    assert hook.recall("q", "s", "u", Call(5)) == ()
    assert failures(step="recall", reason="bad_status") == failures() == 1


def test_a_worker_that_ends_tells_what_waits(make_app: Callable[..., Flask], memory: Upstream) -> None:
    """A turn that was answered just before a graceful stop is told; a server that is slow holds it up for 2 s."""
    app = make_app(memory_url=f"http://127.0.0.1:{memory.port}/")
    worker = FakeWorker()
    worker.wsgi = app
    memory.script(delayed(0.2, reply(204, b"")), delayed(2.5, reply(204, b"")))
    for seconds in (1.5, 3.5):
        service(MemoryHook, app).tell(TURN)
        began = time.monotonic()
        make_hooks().worker_exit(FakeArbiter(), worker)
        assert seconds - 1.5 < time.monotonic() - began < seconds
    service(MemoryHook, app).flush(10)
    assert len(memory.received) == 2


UNDER_GEVENT = """
from gevent import monkey
monkey.patch_all()
import sys, time
import gevent
from app.calls.call import Call
from app.services.memory_hook import MemoryHook
from app.upstreams.memory_server import MemoryServer

hook = MemoryHook(MemoryServer(sys.argv[1]))
slept = []

def others():
    while True:
        began = time.monotonic()
        gevent.sleep(0.01)
        slept.append(time.monotonic() - began)

gevent.spawn(others)
for _ in range(4):
    began = time.monotonic()
    found = hook.recall("q", "s", "u", Call(5))
    print(found, round(time.monotonic() - began, 2), round(max(slept, default=0), 2))
"""


def test_under_gevent(memory: Upstream) -> None:
    """The same in a gevent worker, whose other greenlets go on, also beside a server that never pauses."""
    flood = endless(b"1;" + b"x" * 60_000 + b"\r\n[\r\n")
    memory.script(reply(200, ["a"]), silence(), flood, pieces([CHUNKED, *[b"1\r\n \r\n"] * 200], pause=0.05))
    command = [sys.executable, "-c", UNDER_GEVENT, f"http://127.0.0.1:{memory.port}/"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=True)
    found = [line.rsplit(" ", 2) for line in ran.stdout.splitlines()]
    assert [memories for memories, _, _ in found] == ["('a',)", "()", "()", "()"]
    assert all(float(seconds) < RECALL_SECONDS + 0.7 for _, seconds, _ in found)
    assert float(found[-1][2]) < 0.5
