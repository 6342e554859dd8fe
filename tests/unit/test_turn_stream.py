"""The background turn: its events, its bug, its slow reader."""

from __future__ import annotations

import threading
import time

from app.calls.call import Call
from app.errors import ServiceException
from app.models import ChatResponse
from app.process.readiness import Readiness
from app.services.completing import Listener
from app.services.turn_stream import MAX_WAITING_EVENTS, Keepalive, Started, TurnStream


def test_a_bug_is_an_internal_error() -> None:
    """The reader gets an exception of ours; the log has the bug."""

    def run(listener: Listener) -> ChatResponse:
        raise ZeroDivisionError("secret")

    (event,) = TurnStream(run, Call(5), 1.0)
    assert isinstance(event, ServiceException)
    assert (event.error_code, "secret" in event.message) == ("internal_error", False)


def test_a_reader_that_leaves_ends_a_turn_that_says_too_much() -> None:
    """More events than may wait block the turn only as long as somebody reads."""
    call, said = Call(5), []

    def run(listener: Listener) -> ChatResponse:
        for number in range(2 * MAX_WAITING_EVENTS):
            listener.text(str(number))
            said.append(number)
        raise ZeroDivisionError

    turn = TurnStream(run, call, 5.0)
    events = iter(turn)
    assert isinstance(next(events), str)
    turn.close()
    give_up = time.monotonic() + 5
    while len(said) < 2 * MAX_WAITING_EVENTS and time.monotonic() < give_up:
        time.sleep(0.01)
    assert (len(said), call.ended) == (2 * MAX_WAITING_EVENTS, "caller_gone")


def test_silence_is_a_keepalive() -> None:
    """At the interval, until something happens."""

    def run(listener: Listener) -> ChatResponse:
        time.sleep(0.15)
        raise ServiceException("over", "internal_error")

    *waiting, last = TurnStream(run, Call(5), 0.02)
    assert waiting
    assert all(isinstance(event, Keepalive) for event in waiting)
    assert isinstance(last, ServiceException)


def test_a_stream_gets_its_keepalives_where_the_watchdog_looks() -> None:
    """In time: when its next look would be too late. Waiting events are output enough."""
    call, over = Call(60), threading.Event()

    def run(listener: Listener) -> ChatResponse:
        listener.started("m", "default", cached=False)
        over.wait(5)
        listener.text("a")
        raise ServiceException("over", "internal_error")

    events = iter(TurnStream(run, call, 30.0))
    assert isinstance(next(events), Started)
    while call.each_look is None:
        time.sleep(0.001)
    for seconds in (29.0, 30.1, 30.1):
        call.each_look(time.monotonic() + seconds)
    assert isinstance(next(events), Keepalive)
    over.set()
    assert next(events) == "a"
    assert isinstance(next(events), ServiceException)


def test_readiness() -> None:
    """Ready while all that is needed is there; draining is the end of it."""
    there = [True]
    readiness = Readiness(lambda: there[0])
    readiness.check()
    codes = []
    for change in (lambda: there.clear() or there.append(False), readiness.drain):
        change()
        try:
            readiness.check()
        except ServiceException as exc:
            codes.append((exc.status, exc.error_code))
    assert codes == [(503, "not_ready"), (503, "server_shutting_down")]
