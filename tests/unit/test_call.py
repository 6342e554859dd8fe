"""A call's end: by its deadline, by its caller's departure, and what that does to its connection and its waits."""

from __future__ import annotations

import socket
import threading
import time

import pytest

from app.calls.call import Call
from app.calls.receipt import Receipt
from app.calls.sockets import HeldSocket
from app.calls.watchdog import Watchdog
from app.errors import ChatServiceException, OpenAIClientException


def test_the_callers_departure_shows() -> None:
    """An open socket, with or without bytes waiting, is a caller; one that was closed is none."""
    here, there = socket.socketpair()
    call = Call(5, caller=here)
    assert not call.caller_is_gone()
    there.sendall(b"the next request, sent early")
    assert not call.caller_is_gone()
    assert here.recv(100) == b"the next request, sent early"
    there.close()
    assert call.caller_is_gone()
    here.close()
    assert call.caller_is_gone()
    assert not Call(5).caller_is_gone()


def test_the_watchdog_ends_calls() -> None:
    """By deadline and by departure, and only those it still watches."""
    here, there = socket.socketpair()
    late, left, fine = Call(0.05), Call(5, caller=here), Call(5)
    watchdog = Watchdog(interval_seconds=0.01)
    discarded = Call(0.05)
    with here:
        for call in (late, left, fine, discarded):
            watchdog.add(call)
        watchdog.discard(discarded)
        there.close()
        give_up = time.monotonic() + 5
        while not (late.ended and left.ended) and time.monotonic() < give_up:
            time.sleep(0.01)
    assert (late.ended, left.ended, fine.ended, discarded.ended) == ("deadline", "caller_gone", None, None)
    with pytest.raises(OpenAIClientException):
        late.check()
    with pytest.raises(ChatServiceException):
        left.remaining_seconds()


def test_an_end_wakes_and_cuts() -> None:
    """Whoever waits for the call goes on, and a read on its connection ends."""
    here, there = socket.socketpair()
    with here, there:
        call, held = Call(5), HeldSocket(here)
        call.hold(held)
        reads: list[bytes] = []
        reader = threading.Thread(target=lambda: reads.append(here.recv(1)))
        reader.start()
        waiter = threading.Thread(target=call.wait, args=(5,))
        waiter.start()
        call.end("deadline")
        reader.join(2)
        waiter.join(2)
        assert reads == [b""]
        assert not waiter.is_alive()


def test_a_socket_is_cut_for_its_holder_only() -> None:
    """A call that ends late must not hurt the next one on the same connection, nor one that let go."""
    here, there = socket.socketpair()
    with here, there:
        held, first, second = HeldSocket(here), Call(5), Call(5)
        first.hold(held)
        second.hold(held)
        first.end("caller_gone")
        second.let_go()
        second.end("caller_gone")
        there.sendall(b"still open")
        assert here.recv(100) == b"still open"


def test_a_call_that_has_ended_takes_no_held() -> None:
    """Nothing is sent on behalf of nobody."""
    call = Call(5)
    call.end("caller_gone")
    with socket.socket() as sock, pytest.raises(ChatServiceException):
        call.hold(HeldSocket(sock))


def test_timings_add_up() -> None:
    """Queue, assembly, upstream and overhead are the total."""
    call = Call(5, front_seconds=1.0)
    call.receipt = Receipt()
    parts = call.timings()
    total = parts.pop("total")
    assert abs(sum(parts.values()) - total) < 0.1
    assert total >= 1000


def left(call: Call) -> int:
    return round(call.deadline - call.started)


def test_a_stream_that_makes_progress_goes_on() -> None:
    """Each piece moves the deadline to the end of the silence that may follow, and never beyond the whole time."""
    call = Call(60, stream_idle=20, stream_max=300)
    assert (left(call), round(call.stream_deadline - call.started)) == (60, 300)
    call.progressed()
    assert left(call) == 20
    call = Call(60, stream_idle=900, stream_max=300)
    call.progressed()
    assert left(call) == 60
    call.stream_deadline = call.started + 30
    call.progressed()
    assert left(call) == 30


def test_a_stream_that_has_ended_does_not_go_on() -> None:
    """What comes behind its end does not move the deadline back."""
    call = Call(60, stream_idle=20, stream_max=300)
    call.shorten(1)
    call.progressed()
    assert left(call) == 1


def test_without_limits_for_streams_the_timeout_holds() -> None:
    """As in plain Python."""
    call = Call(60)
    call.progressed()
    assert (left(call), round(call.stream_deadline - call.started)) == (60, 60)
