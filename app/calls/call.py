"""Call: the life of one request, from its deadline to whatever ends it early.

A call can end before its answer is there: its deadline passes, its caller leaves, or the worker has to stop. Without
this, a request would hold its slot, and upstream would go on working and billing for a caller who left
(test_cancellation.py). Code that waits on the call's behalf (for a slot, a retry, the upstream socket) is woken
under gevent and under threads alike: the end is a shutdown of the socket and the set of an event, not an exception that
is thrown into another greenlet.
"""

from __future__ import annotations

import math
import random
import socket
import threading
import time
from collections.abc import Callable
from typing import Literal, NamedTuple

from app.calls.receipt import Receipt
from app.calls.sockets import HeldSocket, peek
from app.calls.trace import Trace
from app.errors import ChatServiceException, OpenAIClientException, ServiceException
from app.units import milliseconds

EndReason = Literal["deadline", "caller_gone", "shutting_down", "interrupted"]


class Spent(NamedTuple):
    """Where a request's time went: queue + assemble + upstream + overhead = total.

    `queue` is the time in front of this server, as far as a proxy tells, and the wait for a slot; `overhead` is what is
    left: parsing, key choice, pauses before retries, writing the answer.
    """

    queue: float
    assemble: float
    upstream: float
    total: float
    overhead: float


SERVER_TIMING = ", ".join(f"{name};dur=%.2f" for name in Spent._fields)


class Call:
    """One request: its id, its deadline, its caller's socket, how it ended, and what has to be cut then.

    `timeout` is in seconds from now. A stream that has begun may go on, up to `stream_max` seconds from now, as
    long as upstream is not silent for `stream_idle` seconds. `front_seconds` is how long the request waited in
    front of this server. `trace`: what the caller's systems call what it belongs to. `receipt` is put there by the
    exchange: what happened on the way to upstream. `each_look` is called whenever the watchdog has looked at the
    call, with the time of its next look (`time.monotonic()`); it must not wait or raise.
    """

    def __init__(
        self,
        timeout: float,
        *,
        stream_idle: float = math.inf,
        stream_max: float = 0.0,
        request_id: str = "",
        caller: socket.socket | None = None,
        front_seconds: float = 0.0,
        trace: Trace | None = None,
    ) -> None:
        self.request_id = request_id
        self.caller = caller
        self.front_seconds = front_seconds
        self.trace = trace
        self.started = time.monotonic()
        self.deadline = self.started + timeout
        self.stream_deadline = self.started + max(timeout, stream_max)
        self._idle_seconds: float | None = min(stream_idle, timeout)
        self.ended: EndReason | None = None
        self.lost_patience = False
        self.receipt: Receipt | None = None
        self.each_look: Callable[[float], None] | None = None
        self._patient_until = math.inf
        self._event = threading.Event()
        self._held: HeldSocket | None = None

    @property
    def elapsed_seconds(self) -> float:
        """Time since the request began."""
        return time.monotonic() - self.started

    def spent(self) -> Spent:
        """Where the time went so far, in seconds."""
        total = self.front_seconds + time.monotonic() - self.started
        receipt = self.receipt
        if receipt is None:
            queue, assemble, upstream = self.front_seconds, 0.0, 0.0
        else:
            queue = self.front_seconds + receipt.queue_seconds
            assemble, upstream = receipt.assemble_seconds, receipt.upstream_seconds
        return Spent(queue, assemble, upstream, total, max(0.0, total - queue - assemble - upstream))

    def timings(self) -> dict[str, float]:
        """Where the time went so far, in milliseconds, by the names of Spent."""
        return {name: milliseconds(seconds) for name, seconds in self.spent()._asdict().items()}

    def server_timing(self) -> str:
        """The timings as a value of the header `Server-Timing` (W3C), in milliseconds."""
        return SERVER_TIMING % tuple(1000 * seconds for seconds in self.spent())

    def caller_is_gone(self) -> bool:
        """Tell whether the caller has closed its end; never blocks. False when there is no socket to look at."""
        return self.caller is not None and peek(self.caller) == b""

    def remaining_seconds(self) -> float:
        """Time left until the deadline; raises what ended the call when there is none."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            self.end("deadline")
        self.check()
        return left

    def progressed(self) -> None:
        """Upstream has sent a piece of a stream: from now on its silence and the stream's whole time are bounded."""
        if self._idle_seconds is not None:
            self.deadline = min(time.monotonic() + self._idle_seconds, self.stream_deadline)

    def patience(self, seconds: float | None) -> None:
        """From now on an upstream may be silent for so long, and then only its connection is cut; None: as the call."""
        self.lost_patience = False
        self._patient_until = math.inf if seconds is None else time.monotonic() + seconds

    def lose_patience(self, now: float) -> None:
        """Cut the connection of an upstream that was silent for too long: another one may answer in time."""
        if now >= self._patient_until:
            self.lost_patience, self._patient_until = True, math.inf
            if self._held is not None:
                self._held.cut(self)

    def shorten(self, seconds: float) -> None:
        """Move the deadline to `seconds` from now, unless it is earlier, and let nothing move it back."""
        self._idle_seconds = None
        self.deadline = min(self.deadline, time.monotonic() + seconds)

    def check(self) -> None:
        """Raise what ended the call, if something has."""
        if self.ended:
            raise self.error()

    def error(self) -> ServiceException:
        """The exception that tells what ended the call."""
        if self.ended == "caller_gone":
            return ChatServiceException("The caller closed the connection", "client_closed_request")
        if self.ended == "shutting_down":
            return ChatServiceException("The server is shutting down", "server_shutting_down")
        if self.ended == "interrupted":
            return ChatServiceException("The answer was interrupted", "turn_interrupted")
        return OpenAIClientException("The AI service did not answer in time", "upstream_timeout")

    def wait(self, seconds: float) -> None:
        """Wait until woken, until the call ends, or for `seconds`."""
        began = time.monotonic()
        if self.ended is None:
            self._event.wait(max(0.0, min(seconds, self.deadline - began)))
        if self.ended is None:
            self._event.clear()

    def wake(self) -> None:
        """End the current or next wait."""
        self._event.set()

    def end(self, reason: EndReason) -> None:
        """End the call: wake the code that waits for it, and cut the upstream connection that works for it."""
        if self.ended is None:
            self.ended = reason
            self.wake()
        if self._held is not None:
            self._held.cut(self)

    def hold(self, held: HeldSocket) -> None:
        """From now on this upstream socket works for the call. Raises what ended the call, if something has."""
        held.bind(self)
        self._held = held
        self.check()

    @property
    def holds_connection(self) -> bool:
        """Whether an upstream connection works for the call, so that upstream may have begun to."""
        return self._held is not None

    def let_go(self) -> None:
        """The answer has been read: the end of the call no longer concerns that connection."""
        self._held = None


class Calls:
    """The requests that a worker is answering."""

    def __init__(self) -> None:
        self._calls: set[Call] = set()
        self._over: EndReason | None = None

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, call: Call) -> None:
        """One more; it ends at once when all have been ended."""
        self._calls.add(call)
        if self._over:
            call.end(self._over)

    def discard(self, call: Call) -> None:
        """It has been answered."""
        self._calls.discard(call)

    def end(self, reason: EndReason) -> None:
        """End them all, and whichever comes from now on."""
        self._over = reason
        for call in tuple(self._calls):
            call.end(reason)


def new_request_id() -> str:
    """32 hexadecimal digits, of which the first 12 are the time (ms): ids sort as requests came, as in the ledger.

    The module's generator is seeded anew after a fork; an id need not be hard to guess.
    """
    return f"{time.time_ns() // 1_000_000:012x}{random.getrandbits(80):020x}"
