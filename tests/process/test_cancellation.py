"""The caller leaves: upstream is closed within a second and nothing stays held, in every case and worker class."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Callable
from typing import Any

import pytest

from tests.records import rows
from tests.server import Server
from tests.streams import block_delta, chunk, delta, stream
from tests.upstream import Upstream, echo, pieces, silence

NATIVE = ("/api/v1/chat", {"user_message": "hi", "free_mode": True}, delta("x"))
PASSED = ("/v1/chat/completions", {"model": "m", "messages": []}, chunk("x"))
MESSAGES = ("/v1/messages", {"model": "m", "messages": []}, block_delta(text="x"))
WITHIN_SECONDS = 1.0

CUT_BODY = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"


def send(server: Server, path: str, body: dict[str, Any]) -> socket.socket:
    """Send a request and leave its answer to be read."""
    caller = socket.create_connection(("127.0.0.1", server.port), timeout=10)
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nX-Free-Mode: true\r\n"
    caller.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
    return caller


def leave_after(server: Server, upstream: Upstream, caller: socket.socket, expected: bytes) -> float:
    """Read until `expected` has come, leave, and give the seconds until upstream saw its connection close."""
    seen = b""
    while expected not in seen:
        seen += caller.recv(65536)
    server.wait_for(lambda: bool(upstream.received), 10)
    left = time.monotonic()
    caller.close()
    server.wait_for(lambda: upstream.received[-1].left_early is not None, 10)
    return (upstream.received[-1].left_early or 0) - left


@pytest.fixture(scope="module", params=["gevent", "gthread"])
def shared(request: pytest.FixtureRequest, start_shared: Callable[..., Server]) -> Server:
    return start_shared(WORKER_CLASS=request.param, MAX_CONCURRENT_REQUESTS=1, MAX_QUEUE_SECONDS=0)


@pytest.fixture
def upstream(shared_upstream: Upstream) -> Upstream:
    shared_upstream.default = echo
    shared_upstream.received.clear()
    return shared_upstream


@pytest.fixture
def server(shared: Server, upstream: Upstream) -> Server:
    """Its only slot is free: what a test before this one held is over."""
    shared.wait_for(lambda: shared.chat("free?").status == 200, 10)
    upstream.received.clear()
    return shared


@pytest.mark.parametrize("route", [NATIVE, PASSED, MESSAGES], ids=["native", "passed", "messages"])
@pytest.mark.parametrize("case", ["plain-before", "plain-after", "stream-before", "stream-after"])
def test_upstream_is_closed_and_the_slot_is_free(
    server: Server, upstream: Upstream, route: tuple[str, dict[str, Any], bytes], case: str
) -> None:
    """Plain or streamed, before or after upstream's first byte: counted at upstream, with one slot only."""
    path, body, piece = route
    upstream.default = {
        "plain-before": silence(),
        "plain-after": pieces([CUT_BODY], pause=30),
        "stream-before": silence(),
        "stream-after": stream([piece, piece], pause=30),
    }[case]
    caller = send(server, path, body | ({"stream": True} if case.startswith("stream") else {}))
    expected = piece[-20:] if case == "stream-after" and route is not NATIVE else b""
    expected = b"event: delta" if case == "stream-after" and route is NATIVE else expected
    assert leave_after(server, upstream, caller, expected) <= WITHIN_SECONDS
    upstream.default = pieces([CUT_BODY[:-1].replace(b"1000", b"2") + b"{}"])
    server.wait_for(lambda: server.request("POST", "/v1/embeddings", {}, {"X-Free-Mode": "true"}).status == 200, 5)
    assert len([received for received in upstream.received if received.left_early]) == 1


def test_a_caller_that_leaves_while_queued_never_reaches_upstream(server: Server, upstream: Upstream) -> None:
    """The slot it waited for goes to somebody who is still there."""
    upstream.default = silence()
    holder = send(server, *NATIVE[:2])
    server.wait_for(lambda: len(upstream.received) == 1, 10)
    refused = server.chat("second")
    assert (refused.status, refused.json["code"]) == (503, "server_busy")
    assert leave_after(server, upstream, holder, b"") <= WITHIN_SECONDS
    assert len(upstream.received) == 1


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("worker_class", ["gevent", "gthread"])
def test_a_caller_that_leaves_while_it_waits_for_a_slot(
    start_server: Callable[..., Server], upstream: Upstream, database_url: str, worker_class: str, streamed: bool
) -> None:
    """It gives its place up within a second, and upstream never hears of it when the slot is free."""
    server = start_server(WORKER_CLASS=worker_class, MAX_CONCURRENT_REQUESTS=1, MAX_QUEUE_SECONDS=30)
    upstream.default = silence()
    holder = send(server, *NATIVE[:2])
    server.wait_for(lambda: len(upstream.received) == 1, 10)
    waiting = send(server, NATIVE[0], NATIVE[1] | {"user_message": "gone", "stream": streamed})
    server.wait_for(lambda: len(rows(database_url)) == 2, 10)
    waiting.close()
    left = time.monotonic()
    server.wait_for(lambda: rows(database_url)[1]["status"] == "cancelled", 10)
    assert time.monotonic() - left <= WITHIN_SECONDS
    upstream.default = echo
    holder.close()
    assert server.chat("third").status == 200
    assert [received.json["input"][-1]["content"] for received in upstream.received] == ["hi", "third"]
