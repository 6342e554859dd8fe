"""Call: the life of one request, from its deadline to whatever ends it early, and the watchdog that ends it.

A call can end before its answer is there: its deadline passes, its caller leaves, or the worker has to stop. Whoever
waits on its behalf (for a slot, before a retry, on the upstream socket) is woken then, under gevent and under threads
alike, because the end is a shutdown of the socket and the set of an event, not an exception thrown into another
greenlet.

The caller's departure shows only to who looks: the watchdog peeks at the caller's socket, which is free and harmless.
"""

from __future__ import annotations

import socket
import threading
import time
from typing import Literal

from app.calls.sockets import Connection, peek
from app.errors import ChatServiceException, OpenAIClientException, ServiceException
from app.models import ApiKey, Usage

EndReason = Literal["deadline", "caller_gone", "shutting_down"]


class Call:
    """One request: when it began, when it must be over, what it waits on, where its time went (seconds)."""

    def __init__(
        self, timeout: float, *, request_id: str = "", token: str = "", caller: socket.socket | None = None
    ) -> None:
        self.request_id = request_id
        self.caller = caller
        self.front_seconds = 0.0
        self.assemble_seconds = 0.0
        self.started = time.monotonic()
        self.deadline = self.started + timeout
        self.queue_seconds = 0.0
        self.upstream_seconds = 0.0
        self.upstream_request_id: str | None = None
        self.api_key_source: str | None = None
        self.error_code: str | None = None
        self.token = token
        self.token_checked = False
        self.paid_with: ApiKey | None = None
        self.usage: Usage | None = None
        self.model_answered: str | None = None
        self.first_token_seconds: float | None = None
        self.cache_hit: bool | None = None
        self._heard: list[str] = []
        self.sent = False
        self.ended: EndReason | None = None
        self._event = threading.Event()
        self._connection: Connection | None = None

    @property
    def elapsed_seconds(self) -> float:
        """Time since the request began."""
        return time.monotonic() - self.started

    def timings(self) -> dict[str, float]:
        """Where the time went so far, in milliseconds: queue + assemble + upstream + overhead = total.

        `queue` is the time in front of the handler, as far as a proxy tells, and the wait for a slot; `overhead` is
        what is left: parsing, key choice, pauses before retries, writing the answer.
        """
        total = self.front_seconds + self.elapsed_seconds
        parts = {
            "queue": self.front_seconds + self.queue_seconds,
            "assemble": self.assemble_seconds,
            "upstream": self.upstream_seconds,
            "total": total,
        }
        parts["overhead"] = max(0.0, total - parts["queue"] - parts["assemble"] - parts["upstream"])
        return {name: round(seconds * 1000, 2) for name, seconds in parts.items()}

    def server_timing(self) -> str:
        """The timings as a value of the header `Server-Timing` (W3C), in milliseconds."""
        return ", ".join(f"{name};dur={value}" for name, value in self.timings().items())

    def caller_is_gone(self) -> bool:
        """Tell whether the caller has closed its end; never blocks. False when there is no socket to look at."""
        return self.caller is not None and peek(self.caller) == b""

    def hear(self, text: str) -> None:
        """Note a piece of a streamed answer: if upstream never counts it, we have to."""
        if self.first_token_seconds is None:
            self.first_token_seconds = self.elapsed_seconds
        self._heard.append(text)

    @property
    def text_seen(self) -> str:
        """What came of a streamed answer so far."""
        return "".join(self._heard)

    def remaining_seconds(self) -> float:
        """Time left until the deadline; raises what ended the call when there is none."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            self.end("deadline")
        self.check()
        return left

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
        """End the call: wake whoever waits for it and cut the upstream connection it holds."""
        if self.ended is None:
            self.ended = reason
            self.wake()
        if self._connection is not None:
            self._connection.cut(self)

    def hold(self, connection: Connection) -> None:
        """Say which upstream connection works for this call from now on."""
        connection.bind(self)
        self._connection = connection
        self.check()
        self.sent = True

    def let_go(self) -> None:
        """The answer has been read: whatever ends the call from now on is no business of that connection."""
        self._connection = None


class Calls:
    """The requests that a worker is answering."""

    def __init__(self) -> None:
        self._calls: set[Call] = set()
        self._over: EndReason | None = None

    def __len__(self) -> int:
        return len(self._calls)

    def add(self, call: Call) -> None:
        """One more; when all have been ended, it has, too."""
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
