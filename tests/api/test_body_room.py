"""Large bodies have a room of their own: what does not fit is told to come again, and small bodies need none."""

from __future__ import annotations

import gzip
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from app.errors import ChatServiceException
from app.ledger.accounts import Accounts, Limits
from app.web.body_room import BodyRoom, HeldBody
from app.web.services import service
from tests.conftest import CALLER_KEY
from tests.streams import response_events, stream
from tests.unit.test_slots import wait_until
from tests.upstream import Received, Upstream, echo

MB = 1_000_000
ROOM = 4 * MB
OWN = {"X-OpenAI-Api-Key": CALLER_KEY}


class Gate:
    """An upstream that answers when it is opened."""

    def __init__(self, upstream: Upstream) -> None:
        self.opened = threading.Event()
        upstream.default = self

    async def __call__(self, received: Received, writer: object) -> None:
        import asyncio

        while not self.opened.is_set():
            await asyncio.sleep(0.01)
        await echo(received, writer)  # type: ignore[arg-type]


@pytest.fixture
def gate(upstream: Upstream, threads: ThreadPoolExecutor) -> Iterator[Gate]:
    made = Gate(upstream)  # Opened before the threads are waited for.
    yield made
    made.opened.set()


def send(app: Flask, size: int, address: str = "192.0.2.1", **headers: str) -> TestResponse:
    """A chat turn whose body has about `size` bytes, from an address."""
    body = {"model": "m", "input": "x" * size}
    return app.test_client().post(
        "/v1/responses",
        json=body,
        headers=OWN | headers,
        environ_overrides={"REMOTE_ADDR": address},
        buffered=True,
    )


def test_what_does_not_fit(
    make_app: Callable[..., Flask], upstream: Upstream, gate: Gate, threads: ThreadPoolExecutor
) -> None:
    """Refused with `Retry-After` and without a row or a call; small bodies pass; in the end nothing is held."""
    app = make_app(max_held_bytes=ROOM, max_request_bytes=MB + 1000)
    room = service(BodyRoom, app)
    held = [threads.submit(send, app, MB, f"192.0.2.{number}") for number in range(3)]
    wait_until(lambda: room.held_bytes > 3 * MB)
    refused = send(app, MB, "192.0.2.9")
    assert (refused.status_code, refused.get_json()["error"]["code"]) == (503, "server_busy")
    assert (refused.headers["Retry-After"], refused.headers["X-Should-Retry"]) == ("1", "true")
    small = threads.submit(send, app, 60_000, "192.0.2.9")
    wait_until(lambda: len(upstream.received) == 4)
    gate.opened.set()
    assert [answer.result().status_code for answer in (*held, small)] == [200] * 4
    assert room.held_bytes == 0
    assert send(app, MB, "192.0.2.9").status_code == 200


@pytest.mark.parametrize("by", ["address", "token"])
def test_one_caller_does_not_fill_it(
    make_app: Callable[..., Flask], gate: Gate, threads: ThreadPoolExecutor, by: str
) -> None:
    """It gets half. A client is told by its token, wherever it calls from."""
    app = make_app(max_held_bytes=ROOM, max_request_bytes=MB + 1000, auth_mode="token" if by == "token" else "open")
    greedy, other = {}, {}
    if by == "token":
        accounts = service(Accounts, app)
        greedy, other = ({"Authorization": f"Bearer {accounts.add(name, Limits())}"} for name in ("a", "b"))
    their, our = ("192.0.2.1", "192.0.2.1" if by == "token" else "192.0.2.2")
    first = threads.submit(send, app, MB, their, **greedy)
    wait_until(lambda: service(BodyRoom, app).held_bytes > MB)
    assert send(app, MB, their, **greedy).status_code == 503
    second = threads.submit(send, app, MB, our, **other)
    wait_until(lambda: service(BodyRoom, app).held_bytes > 2 * MB)
    gate.opened.set()
    assert [answer.result().status_code for answer in (first, second)] == [200, 200]


@pytest.mark.parametrize("kind", ["plain", "refused", "streamed", "too large", "not JSON"])
def test_it_is_given_back(make_app: Callable[..., Flask], upstream: Upstream, kind: str) -> None:
    """However a request ends; a body is held as long as its stream lasts."""
    app = make_app(max_held_bytes=ROOM, max_request_bytes=2 * MB)
    room = service(BodyRoom, app)
    if kind == "streamed":
        upstream.default = stream(response_events("x"))
        answer = app.test_client().post("/v1/responses", json={"input": "x" * MB, "stream": True}, headers=OWN)
        assert room.held_bytes > MB
        assert b"response.completed" in answer.data
        answer.close()
    elif kind == "not JSON":
        content: dict[str, Any] = {"data": b"x" * MB, "content_type": "application/json"}
        assert app.test_client().post("/v1/responses", headers=OWN, buffered=True, **content).status_code == 400
    else:
        statuses = {"plain": (200, MB), "refused": (422, MB), "too large": (413, 3 * MB)}
        status, size = statuses[kind]
        headers = {"X-Free-Mode": "perhaps"} if kind == "refused" else {}
        assert send(app, size, **headers).status_code == status
    assert room.held_bytes == 0


def test_a_coded_body_counts_decoded(make_app: Callable[..., Flask]) -> None:
    """A small one that becomes large needs room, too."""
    app = make_app(max_held_bytes=2000, max_request_bytes=3 * MB)
    room = service(BodyRoom, app)
    room.take("192.0.2.7", 2 * MB)
    body = gzip.compress(b'{"input": "' + b"x" * 2 * MB + b'"}')
    content: dict[str, Any] = {"data": body, "content_type": "application/json", "buffered": True}
    content["headers"] = OWN | {"Content-Encoding": "gzip"}
    assert app.test_client().post("/v1/responses", **content).status_code == 503
    room.give_back("192.0.2.7", 2 * MB)
    assert app.test_client().post("/v1/responses", **content).status_code == 200


def test_one_request_always_fits() -> None:
    """However small the room is; and what is given back twice is given back once."""
    room = BodyRoom(10, 100)
    held = HeldBody(room, "a")
    held.check(100)
    held.grow_to(60)
    held.grow_to(100)
    with pytest.raises(ChatServiceException):
        held.grow_to(101)
    with pytest.raises(ChatServiceException):
        HeldBody(room, "b").check(1)
    assert room.held_bytes == 100
    held.give_back()
    held.give_back()
    assert room.held_bytes == 0
