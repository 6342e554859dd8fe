"""Slow callers, with no proxy in front: heads, bodies and answers that stop halfway hold nothing and nobody up."""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence

import pytest

from tests.callers import message
from tests.prometheus import samples, value
from tests.server import Server
from tests.streams import HEAD, delta
from tests.upstream import Received, Upstream, echo, pieces, text

CALLERS = 40
SECONDS = 2.0
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
    began = time.monotonic()
    assert server.chat("hi").status == 200
    assert time.monotonic() - began < 1


def test_half_heads_and_half_bodies(server: Server, connect: Callable[[bytes], socket.socket]) -> None:
    """Closed in time, bodies with 408, also when a byte comes now and then."""
    began = time.monotonic()
    heads = [connect(b"GET /livez HTTP/1.1\r\nHost: x\r\nX-A: ") for _ in range(CALLERS)]
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
