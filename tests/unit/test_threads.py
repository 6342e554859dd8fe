"""Waiting for a system thread, as a greenlet and as a thread."""

from __future__ import annotations

import time
from collections.abc import Callable

import gevent
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


def test_a_bell_is_not_lost() -> None:
    """A bell that rings before anybody waits is heard once, however often it rang."""
    bell = Bell()
    bell.ring()
    bell.ring()
    assert bell.wait(0)
    assert not bell.wait(0.01)
