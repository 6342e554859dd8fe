"""Waiting for a system thread, as a greenlet and as a thread."""

from __future__ import annotations

import time
from collections.abc import Callable

import gevent
import gevent.event
import pytest

from app.store import threads
from app.store.threads import Bell, Done, start_thread

KINDS = [threads._ThreadDone, threads._GreenletDone]


@pytest.mark.parametrize("make", KINDS)
@pytest.mark.parametrize("pause", [0.0, 0.1])
def test_done_in_another_thread(make: Callable[[], Done], pause: float) -> None:
    """Who waits is woken by another thread, whether it was done before or while waiting."""
    done = make()
    start_thread(lambda: (threads.pause(pause), done.set()))  # type: ignore[func-returns-value]
    time.sleep(0.05)
    assert done.wait(5)


@pytest.mark.parametrize("make", KINDS)
def test_not_done_in_time(make: Callable[[], Done]) -> None:
    """What comes later harms nobody."""
    done = make()
    assert not done.wait(0.01)
    done.set()


def test_other_greenlets_go_on_meanwhile() -> None:
    """A greenlet that waits does not hold up those beside it."""
    done, seen = threads._GreenletDone(), list[str]()
    gevent.spawn(seen.append, "another")
    assert not done.wait(0.01)
    assert seen == ["another"]


class EventDone:
    """What gevent offers for the same purpose."""

    def __init__(self) -> None:
        self._event = gevent.event.Event()

    def wait(self, seconds: float) -> bool:
        return bool(self._event.wait(seconds))

    def set(self) -> None:
        self._event.set()


def begun_before_it_goes_on(make: Callable[[], Done]) -> int:
    """How many of 200 requests that came at once begin between the commit and the answer of the one that waits."""
    done, begun, begun_before = make(), list[float](), list[int]()
    committed = 0.0

    def request() -> None:
        begun.append(time.monotonic())
        while time.monotonic() < begun[-1] + 0.001:
            pass

    def waiting() -> None:
        assert done.wait(5)
        begun_before.append(sum(1 for when in begun if when > committed))

    def commit() -> None:
        nonlocal committed
        threads.pause(0.02)
        committed = time.monotonic()
        done.set()

    waiter = gevent.spawn(waiting)
    gevent.sleep(0.01)
    start_thread(commit)
    gevent.joinall([waiter, *(gevent.spawn(request) for _ in range(200))])
    return begun_before[0]


def test_a_greenlet_goes_on_before_new_requests_begin() -> None:
    """An Event of gevent's lets all of them begin first."""
    assert begun_before_it_goes_on(threads._GreenletDone) * 2 < begun_before_it_goes_on(EventDone)


def test_a_bell_is_not_lost() -> None:
    """A bell that rings before anybody waits is heard once, however often it rang."""
    bell = Bell()
    bell.ring()
    bell.ring()
    assert bell.wait(0)
    assert not bell.wait(0.01)
