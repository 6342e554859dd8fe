"""The quick stop inside one process: whom it ends, and that it leaves whatever happens."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.calls.call import Calls
from app.ledger.ledger import Ledger
from app.process.quick_stop import LIMIT_SECONDS, SIGNALS, QuickStop
from app.store.database import Database
from app.web.services import service
from tests.records import rows
from tests.streams import completed, stream
from tests.upstream import Upstream


class StuckDatabase(Database):
    """A database that never comes to an end."""

    def flush(self, seconds: float) -> None:
        threading.Event().wait(LIMIT_SECONDS + 2)


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """What a quick stop does to the signals of the process is undone."""
    numbers = (*SIGNALS, signal.SIGTERM, signal.SIGALRM)
    before = [signal.getsignal(number) for number in numbers]
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in zip(numbers, before, strict=True):
        signal.signal(number, handler)


def seconds_to_leave(app: Flask, database: Database, *numbers: signal.Signals) -> float:
    """Start, raise signals, and give the time until the process would have ended with status 0."""
    left: list[int] = []
    ledger: Ledger = service(Ledger, app)
    QuickStop(service(Calls, app), ledger, database, leave=left.append).start()
    began = time.monotonic()
    for number in numbers:
        signal.raise_signal(number)
    while not left and time.monotonic() < began + LIMIT_SECONDS + 1:
        time.sleep(0.01)
    assert left[:1] == [0]
    return time.monotonic() - began


@pytest.mark.parametrize("number", SIGNALS)
def test_an_idle_worker_leaves_at_once(app: Flask, number: signal.Signals) -> None:
    """There is nothing to wait for."""
    assert seconds_to_leave(app, service(Database, app), number) < 0.5


def test_a_stuck_worker_leaves_in_time(app: Flask, database_url: str) -> None:
    """By the kernel's timer, which no further signal puts off."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGQUIT, signal.SIGINT)
    seconds = seconds_to_leave(app, StuckDatabase(database_url), *numbers)
    assert LIMIT_SECONDS - 0.1 < seconds < LIMIT_SECONDS + 0.5


def test_who_comes_too_late(app: Flask, client: FlaskClient, upstream: Upstream, database_url: str) -> None:
    """Both routes say so; such a request has no row and never reaches upstream. The process is still alive."""
    service(Calls, app).end("shutting_down")
    native = client.post("/api/v1/chat", json={"user_message": "hi", "free_mode": True})
    streamed = client.post("/api/v1/chat", json={"user_message": "hi", "free_mode": True, "stream": True})
    passed = client.post("/v1/responses", json={}, headers={"X-Free-Mode": "true"})
    assert [answer.status_code for answer in (native, streamed, passed)] == [503, 503, 503]
    codes = [native.get_json()["code"], streamed.get_json()["code"], passed.get_json()["error"]["code"]]
    assert codes == ["server_shutting_down"] * 3
    assert not upstream.received
    assert not rows(database_url)
    live = client.get("/livez")
    assert live.status_code == 200
    for answer in (native, streamed, passed, live):
        answer.close()
    assert len(service(Calls, app)) == 0


def test_a_finished_stream_stays_finished(make_app: Callable[..., Flask], upstream: Upstream) -> None:
    """Upstream has said that it is done and only keeps its connection: there is no error to tell."""
    app = make_app()
    upstream.default = stream([completed("x")], pause=30, close=False)
    answer = app.test_client().post("/v1/responses", json={"stream": True}, headers={"X-Free-Mode": "true"})
    pieces = answer.iter_encoded()
    seen = b""
    while b"response.completed" not in seen:
        seen += next(pieces)
    service(Calls, app).end("shutting_down")
    rest = b"".join(pieces)
    assert b"error" not in rest
    assert b"server-timing" in rest
    answer.close()
