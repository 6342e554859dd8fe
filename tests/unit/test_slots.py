"""Concurrency slots: a bounded wait, first come first served, and no slot is ever lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from app.calls.call import Call
from app.errors import ChatServiceException, OpenAIClientException, ServiceException
from app.upstreams.slots import Slots


def wait_until(condition: Callable[[], object], seconds: float = 5.0) -> None:
    """Poll until `condition` holds."""
    give_up = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.002)


def outcome(slots: Slots, call: Call) -> str:
    """Try to take a slot; gives what came of it."""
    try:
        slots.acquire(call)
    except ServiceException as exc:
        return exc.error_code
    return "granted"


def queue(slots: Slots, threads: ThreadPoolExecutor, calls: list[Call]) -> list[Future[str]]:
    """Let `calls` wait in this order."""
    futures = []
    for call in calls:
        waiting = len(slots._waiting)
        futures.append(threads.submit(outcome, slots, call))
        wait_until(lambda waiting=waiting: len(slots._waiting) > waiting)
    return futures


def test_slots_are_counted() -> None:
    """As many as there are are given at once; each comes back."""
    slots = Slots(2, 0)
    for in_use in (1, 2):
        slots.acquire(Call(1))
        assert slots.in_use == in_use
    assert outcome(slots, Call(1)) == "server_busy"
    for in_use in (1, 0):
        slots.release()
        assert slots.in_use == in_use


@pytest.mark.parametrize("max_queue_seconds", [0, 0.2])
def test_the_wait_is_bounded(max_queue_seconds: float) -> None:
    """A call waits as long as it may and is refused then."""
    slots, call = Slots(1, max_queue_seconds), Call(10)
    slots.acquire(Call(10))
    began = time.monotonic()
    with pytest.raises(ChatServiceException) as caught:
        slots.acquire(call)
    waited = time.monotonic() - began
    assert (caught.value.error_code, caught.value.status, caught.value.retry_after) == ("server_busy", 503, 1)
    assert max_queue_seconds <= waited < max_queue_seconds + 0.2
    slots.release()
    assert (slots.in_use, outcome(slots, Call(1))) == (0, "granted")


def test_first_come_first_served(threads: ThreadPoolExecutor) -> None:
    """A freed slot goes to the call that has waited longest, and never to a newcomer instead."""
    slots, calls = Slots(1, 5), [Call(10) for _ in range(5)]
    slots.acquire(Call(10))
    waiting = queue(slots, threads, calls)
    for position, future in enumerate(waiting):
        slots.release()
        assert future.result(1) == "granted"
        assert not [later for later in waiting[position + 1 :] if later.done()]
        assert slots.in_use == 1
    slots.release()
    assert slots.in_use == 0


def test_a_newcomer_does_not_overtake(threads: ThreadPoolExecutor) -> None:
    """While somebody waits, a slot that comes free is his already."""
    slots = Slots(1, 5)
    slots.acquire(Call(10))
    (first,) = queue(slots, threads, [Call(10)])
    slots.release()
    newcomer = threads.submit(outcome, slots, Call(0.3))
    assert first.result(1) == "granted"
    assert newcomer.result(1) != "granted"


@pytest.mark.parametrize("reason", ["deadline", "caller_gone"])
def test_a_waiting_call_that_ends_waits_no_longer(threads: ThreadPoolExecutor, reason: str) -> None:
    """What ends a call ends its wait at once, and the slot goes to the next."""
    slots, ended, patient = Slots(1, 5), Call(10), Call(10)
    slots.acquire(Call(10))
    first, second = queue(slots, threads, [ended, patient])
    ended.end(reason)  # type: ignore[arg-type]
    assert first.result(3) == {"deadline": "upstream_timeout", "caller_gone": "client_closed_request"}[reason]
    slots.release()
    assert (second.result(1), slots.in_use) == ("granted", 1)


def test_a_waiting_call_ends_at_its_deadline() -> None:
    """A call never waits past its own deadline, also when nobody else ends it."""
    slots = Slots(1, 5)
    slots.acquire(Call(10))
    began = time.monotonic()
    with pytest.raises(OpenAIClientException) as caught:
        slots.acquire(Call(0.2))
    assert caught.value.error_code == "upstream_timeout"
    # Well before the 5 s that every call may wait.
    assert time.monotonic() - began < 3


def test_no_slot_is_lost_or_doubled_under_load(threads: ThreadPoolExecutor) -> None:
    """Thousands of takes, refusals, ends and releases at once: never more than the size, all free at the end."""
    slots, most, lock, running = Slots(4, 0.01), 0, threading.Lock(), 0

    def take(number: int) -> str:
        nonlocal most, running
        call = Call(0.02 if number % 3 else 10)
        if number % 5 == 0:
            threading.Timer(0.005, call.end, ["caller_gone"]).start()
        if (result := outcome(slots, call)) == "granted":
            with lock:
                running += 1
                most = max(most, running)
            time.sleep(0.001 * (number % 4))
            with lock:
                running -= 1
            slots.release()
        return result

    results = set(threads.map(take, range(2000)))
    assert results >= {"granted", "server_busy"}
    assert (most, slots.in_use, len(slots._waiting)) == (4, 0, 0)
