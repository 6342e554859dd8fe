"""Slow callers, with no proxy in front: heads, bodies and answers that stop halfway hold nothing and nobody up."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import itertools
import json
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.callers import message
from tests.prometheus import samples, value
from tests.server import Server
from tests.streams import HEAD, delta
from tests.upstream import Received, Upstream, echo, pieces, text

CALLERS = 40
SECONDS = 3.0
"""HastyWorker's."""
KEEPALIVE_SECONDS = 5.0
COMMAND = (sys.executable, "-m", "gunicorn", "-k", "tests.hasty_worker.HastyWorker", "wsgi:app")
CHAT = message("POST", "/api/v1/chat", {"user_message": "hi", "free_mode": True})
EVENT = delta("x" * 50_000)
UNREAD = [
    message("POST", "/api/v1/chat", {"user_message": "large", "free_mode": True}),
    message("POST", "/api/v1/chat", {"user_message": "endless", "free_mode": True, "stream": True}),
    message("POST", "/v1/responses", {"model": "m", "input": "endless", "stream": True}, {"X-Free-Mode": "true"}),
]


@pytest.fixture
def server(start_server: Callable[..., Server]) -> Server:
    return start_server(command=COMMAND)


@pytest.fixture
def connect(server: Server) -> Iterator[Callable[[bytes], socket.socket]]:
    """Connect, send some bytes, and leave the rest to the test; small buffers, so that answers do not fit in."""
    made = []

    def begin(sent: bytes) -> socket.socket:
        made.append(socket.socket())
        made[-1].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        made[-1].settimeout(20)
        made[-1].connect(("127.0.0.1", server.port))
        made[-1].sendall(sent)
        return made[-1]

    yield begin
    for one in made:
        one.close()


def read_to_end(connection: socket.socket) -> bytes:
    """What comes before the server closes."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def drip(connections: Sequence[socket.socket], until: float) -> None:
    """Send a byte now and then."""
    while time.monotonic() < until:
        for one in connections:
            one.sendall(b"a")
        time.sleep(0.3)


def at_rest(server: Server) -> bool:
    """Whether nothing is in flight but the request that asks."""
    found = samples(server.request("GET", "/metrics").body.decode())
    return [value(found, name) for name in ("requests_in_flight", "slots_in_use")] == [1, 0]


def assert_others_are_served(server: Server) -> None:
    """Well before the slow ones are given up; how quickly is the machine's."""
    began = time.monotonic()
    assert server.chat("hi").status == 200
    assert time.monotonic() - began < SECONDS - 1


def test_half_heads_and_half_bodies(server: Server, connect: Callable[[bytes], socket.socket]) -> None:
    """Closed in time, bodies with 408, also when a byte comes now and then."""
    began = time.monotonic()
    heads = [connect(b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-A: ") for _ in range(CALLERS)]
    bodies = [connect(CHAT[:-20]) for _ in range(CALLERS)]
    assert_others_are_served(server)
    drip(bodies[::2], began + SECONDS - 0.5)
    for one in bodies:
        head, _, body = read_to_end(one).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408 ")
        assert b"Connection: close" in head
        assert (json.loads(body)["code"], json.loads(body)["status"]) == ("bad_request", 408)
    assert SECONDS - 0.5 <= time.monotonic() - began <= SECONDS + 2
    drip(heads[::2], began + KEEPALIVE_SECONDS - 0.5)
    assert {read_to_end(one) for one in heads} == {b""}
    assert KEEPALIVE_SECONDS - 0.5 <= time.monotonic() - began <= KEEPALIVE_SECONDS + 2
    assert at_rest(server)


def test_answers_nobody_reads(server: Server, upstream: Upstream, connect: Callable[[bytes], socket.socket]) -> None:
    """Cut off, whole answers and streams: the call ends, upstream's connection closes, and no slot stays taken."""

    async def answer(received: Received, writer: asyncio.StreamWriter) -> None:
        if b"large" in received.body:
            await text("y" * 8_000_000)(received, writer)
        elif b"endless" in received.body:
            await pieces(itertools.chain([HEAD], itertools.repeat(EVENT)), pause=0.02)(received, writer)
        else:
            await echo(received, writer)

    upstream.default = answer
    slow = [connect(one) for one in UNREAD for _ in range(3)]
    server.wait_for(lambda: len(upstream.received) == len(slow))
    assert_others_are_served(server)
    server.wait_for(lambda: at_rest(server), SECONDS + 8)
    for one in slow:
        with pytest.raises(ConnectionResetError):
            read_to_end(one)


FLOODS = {
    "unknown address": b"POST /nope HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000000\r\n\r\n",
    "too large": b"POST /api/v1/chat HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    b"Content-Length: 100000000000\r\n\r\n",
    "chunked": b"POST /nope HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n",
    "no body is read": b"GET /livez HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000000000\r\n\r\n",
    "not HTTP": b"\x16\x03\x01\x02\x00 \r\n\r\n",
}
PIECE = b"10000\r\n" + b"x" * 65536 + b"\r\n"
TINY = b"1\r\nx\r\n" * 10_000


def flood(port: int, head: bytes, piece: bytes, seconds: float) -> tuple[int, float, bytes]:
    """Send as fast as the server takes it; gives the bytes it took, the seconds until it closed, and its answer."""
    began, sent, answer = time.monotonic(), 0, b""
    with socket.create_connection(("127.0.0.1", port), timeout=seconds) as connection:
        connection.sendall(head)
        try:
            while time.monotonic() - began < seconds:
                sent += connection.send(piece)
                with contextlib.suppress(BlockingIOError):
                    answer += connection.recv(65536, socket.MSG_DONTWAIT)
        except OSError:
            pass
    return sent, time.monotonic() - began, answer


def slowest_probe(server: Server, seconds: float) -> float:
    """The longest time that `/livez` takes within so many seconds, without the first and the slowest two of all.

    Those may be the machine's and not the server's: the tests share it.
    """
    taken, until = [], time.monotonic() + seconds
    while time.monotonic() < until:
        began = time.monotonic()
        assert server.request("GET", "/livez", timeout=30).status == 200
        taken.append(time.monotonic() - began)
        time.sleep(0.01)
    assert len(taken) > 10
    return sorted(taken[1:])[-3]


@pytest.fixture(scope="module")
def flooded(start_shared: Callable[..., Server]) -> Server:
    return start_shared()


@pytest.mark.parametrize("piece", [PIECE, TINY], ids=["large", "tiny"])
@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_holds_nobody_up(flooded: Server, threads: ThreadPoolExecutor, kind: str, piece: bytes) -> None:
    """A body that is refused is let go within a few seconds and megabytes, and others are served meanwhile."""
    floods = [threads.submit(flood, flooded.port, FLOODS[kind], piece, 8.0) for _ in range(4)]
    assert slowest_probe(flooded, 3.0) < 0.25
    for sent, seconds, answer in (one.result() for one in floods):
        assert sent < 20_000_000
        assert seconds < 4
        assert answer == b"" or b"Connection: close" in answer
    assert flooded.chat("hi").status == 200


def test_a_body_that_is_taken_and_never_ends(start_server: Callable[..., Server], threads: ThreadPoolExecutor) -> None:
    """As much as a request may have is read in turns with the others, and then refused."""
    server = start_server(MAX_REQUEST_BYTES=2**25)
    head = FLOODS["chunked"].replace(b"/nope", b"/v1/chat/completions")
    head = head.replace(b"Host", b"Content-Type: application/json\r\nHost")
    floods = [threads.submit(flood, server.port, head, TINY, 6.0) for _ in range(4)]
    assert slowest_probe(server, 3.0) < 0.25
    assert [one.result() for one in floods]
    assert server.chat("hi").status == 200


def test_a_body_that_is_a_little_too_large_is_told_so(start_server: Callable[..., Server]) -> None:
    """A caller that sends all of its body first reads its 413; what was small enough leaves the connection open."""
    server = start_server(MAX_REQUEST_BYTES=100_000)
    answer = server.request("POST", "/api/v1/chat", b"x" * 20_000_000)
    assert (answer.status, answer.json["code"]) == (413, "request_too_large")
    assert answer.headers["Connection"] == "close"
    answer = server.request("POST", "/nope", b"x" * 2000)
    assert (answer.status, answer.headers["Connection"]) == (404, "keep-alive")


def test_a_thousand_connections_that_wait(
    start_server: Callable[..., Server], connect_many: Callable[..., None]
) -> None:
    """With a head and no body, or with half a head: probes are answered at once."""
    server = start_server(MAX_CONCURRENT_REQUESTS=1)
    connect_many(server, 1100, CHAT[:-20])
    connect_many(server, 1100, b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-A: ")
    assert slowest_probe(server, 2.0) < 0.25


@pytest.fixture
def connect_many() -> Iterator[Callable[..., None]]:
    """Open connections that have sent something, and keep them."""
    with contextlib.ExitStack() as opened:

        def connect(server: Server, number: int, sent: bytes) -> None:
            for _ in range(number):
                opened.enter_context(socket.create_connection(("127.0.0.1", server.port), timeout=10)).sendall(sent)

        yield connect


@pytest.mark.parametrize("worker_class", ["gevent", "gthread"])
def test_an_idle_connection_does_not_hold_a_stop(start_server: Callable[..., Server], worker_class: str) -> None:
    """It is kept for longer than gunicorn's 5 s while the server runs, and closed soon when it stops."""
    server = start_server(WORKER_CLASS=worker_class)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    for pause_seconds in (0, 6, 0):
        time.sleep(pause_seconds)
        connection.request("GET", "/livez")
        answer = connection.getresponse()
        assert (answer.status, answer.read() != b"") == (200, True)
        assert connection.sock is not None
    began = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - began < 8
    connection.close()
