"""Connections that are kept: when one is used again, and that no request is lost because upstream closed one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import psutil
import pytest
from flask import Flask

from app.calls.call import Call
from app.upstreams.connection_errors import ConnectionLost
from app.upstreams.transport import Response, Transport
from tests.api.test_transport import chat, outcome
from tests.upstream import Answer, Received, Upstream, delayed, echo, pieces, reply, reset, silence

CLOSES_AFTER_SECONDS = 0.05
PARTIAL = b"HTTP/1.1 200 OK\r\nContent-Le"


@pytest.fixture
def transport(upstream: Upstream) -> Iterator[Transport]:
    made = Transport(upstream.base_url, 100)
    yield made
    made.close()


def ask(transport: Transport, call: Call | None = None) -> int:
    """One request whose answer is read to its end; its status."""
    with transport.send("/embeddings", {}, b"{}", call or Call(5)) as response:
        response.read()
        return response.status


async def then_close(received: Received, writer: asyncio.StreamWriter) -> None:
    """Answer, keep the connection, and close it a moment later, whatever comes meanwhile."""
    await echo(received, writer)
    asyncio.get_running_loop().call_later(CLOSES_AFTER_SECONDS, writer.transport.abort)


def kept(upstream: Upstream) -> list[str]:
    """The states of this process's connections to upstream."""
    return [found.status for found in psutil.Process().net_connections("tcp") if found.raddr[1:] == (upstream.port,)]


def test_no_request_is_lost(transport: Transport, upstream: Upstream) -> None:
    """Upstream closes every connection 50 ms after an answer, and 2,000 requests come about then."""
    upstream.default = then_close

    def ask_again_and_again(number: int) -> list[int]:
        statuses = []
        for turn in range(100):
            statuses.append(ask(transport))
            time.sleep(CLOSES_AFTER_SECONDS - 0.01 + 0.001 * ((number + turn) % 20))
        return statuses

    with ThreadPoolExecutor(20) as threads:
        statuses = [status for found in threads.map(ask_again_and_again, range(20)) for status in found]
    assert statuses == [200] * 2000


@pytest.mark.parametrize("broken", [reset(), pieces([])], ids=["reset", "closed"])
def test_a_request_on_a_used_connection_is_sent_once_more(
    make_app: Callable[..., Flask], upstream: Upstream, broken: Answer
) -> None:
    """Upstream keeps the connection after its answer, and breaks it when the next request comes."""
    app = make_app()
    upstream.script(echo, broken)
    assert [outcome(chat(app, message)) for message in ("first", "second")] == ["first", "second"]
    assert [received.json["input"][-1]["content"] for received in upstream.received] == ["first", "second", "second"]
    assert upstream.connections == 2


@pytest.mark.parametrize("broken", [reset(), pieces([])], ids=["reset", "closed"])
def test_once_only_and_never_on_a_fresh_one(transport: Transport, upstream: Upstream, broken: Answer) -> None:
    """A request that breaks two connections is lost, and so is the first one of a connection."""
    upstream.script(broken, echo, broken, broken)
    with pytest.raises(ConnectionLost):
        ask(transport)
    assert ask(transport) == 200
    with pytest.raises(ConnectionLost):
        ask(transport)
    assert len(upstream.received) == 4


@pytest.mark.parametrize("answer", [pieces([PARTIAL]), pieces([b"no HTTP"]), pieces([b"HTTP/1.1 100 C\r\n\r\n"])])
def test_not_after_a_byte(transport: Transport, upstream: Upstream, answer: Answer) -> None:
    """Who has begun to answer has the request."""
    upstream.script(echo, answer)
    ask(transport)
    with pytest.raises(ConnectionLost):
        ask(transport)
    assert len(upstream.received) == 2


@pytest.mark.parametrize("reason", ["deadline", "caller_gone", "shutting_down"])
def test_not_for_a_call_that_ended(transport: Transport, upstream: Upstream, reason: str) -> None:
    """What cut the connection was the end of the call."""
    upstream.script(echo, silence())
    ask(transport)
    call = Call(30)
    with ThreadPoolExecutor(1) as threads:
        asked = threads.submit(ask, transport, call)
        time.sleep(0.2)
        call.end(reason)  # type: ignore[arg-type]
        with pytest.raises(ConnectionLost):
            asked.result(5)
    assert len(upstream.received) == 2


@pytest.mark.parametrize(("idle_seconds", "pause", "connections"), [(60.0, 0.0, 1), (0.05, 0.1, 2)])
def test_an_old_connection_is_not_used_again(
    upstream: Upstream, idle_seconds: float, pause: float, connections: int
) -> None:
    """A younger one is; test_idle.py has the age by itself."""
    transport = Transport(upstream.base_url, 10, idle_seconds=idle_seconds)
    ask(transport)
    time.sleep(pause)
    ask(transport)
    assert upstream.connections == connections
    transport.close()


@pytest.mark.parametrize("default", [echo, then_close], ids=["open", "closed by upstream"])
def test_idle_connections_are_let_go(upstream: Upstream, default: Answer) -> None:
    """Nobody asks any more after a burst: nothing is left open, and nothing in CLOSE_WAIT."""
    upstream.default = delayed(0.05, default)
    transport = Transport(upstream.base_url, 50, idle_seconds=0.3)
    # The sweep ends when nothing is left, and starts again with the second burst.
    for burst in (50, 2):
        with ThreadPoolExecutor(burst) as threads:
            assert list(threads.map(lambda _: ask(transport), range(burst))) == [200] * burst
        assert kept(upstream)
        give_up = time.monotonic() + 10
        while kept(upstream) and time.monotonic() < give_up:
            time.sleep(0.02)
        assert kept(upstream) == []


def test_a_body_that_was_not_read_to_its_end(transport: Transport, upstream: Upstream) -> None:
    """Its connection is not used again."""
    upstream.script(reply(200, b"x" * 1_000_000))
    unread: Response = transport.send("/embeddings", {}, b"{}", Call(5))
    unread.close()
    assert ask(transport) == 200
    assert upstream.connections == 2
