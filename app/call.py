"""Call: the life of one request, from its deadline to whatever ends it early, and the watchdog that ends it.

A call can end before its answer is there: its deadline passes or its caller leaves. Whoever waits on its behalf (for a
slot, before a retry, on the upstream socket) is woken then, under gevent and under threads alike, because the end is
a shutdown of the socket and the set of an event, not an exception thrown into another greenlet.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Literal

from app.errors import ChatServiceException, OpenAIClientException, ServiceException

WATCH_INTERVAL_SECONDS = 0.2

EndReason = Literal["deadline", "caller_gone"]


class Call:
    """One request: when it began, when it must be over, what it waits on, where its time went (seconds)."""

    def __init__(self, timeout: float, *, request_id: str = "") -> None:
        self.request_id = request_id
        self.started = time.monotonic()
        self.deadline = self.started + timeout
        self.queue_seconds = 0.0
        self.upstream_seconds = 0.0
        self.upstream_request_id: str | None = None
        self.api_key_source: str | None = None
        self.input_tokens = 0
        self.output_tokens = 0
        self.ended: EndReason | None = None
        self._event = threading.Event()
        self._connection: Connection | None = None

    @property
    def elapsed_seconds(self) -> float:
        """Time since the request began."""
        return time.monotonic() - self.started

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
        connection.owner = self
        self._connection = connection
        self.check()


class Connection:
    """An upstream socket as calls see it: it works for one call at a time and is cut only on that one's behalf."""

    def __init__(self) -> None:
        self.owner: Call | None = None
        self.socket: socket.socket | None = None
        self._lock = threading.Lock()

    def release(self) -> None:
        """Nobody's any more: called before the socket is closed or serves the next call."""
        with self._lock:
            self.owner = None

    def cut(self, call: Call) -> None:
        """Shut the socket down for both directions if it still works for `call`; a blocked read ends at once."""
        with self._lock:
            if self.owner is not call or self.socket is None:
                return
            with contextlib.suppress(OSError), _duplicate(self.socket) as duplicate:
                duplicate.shutdown(socket.SHUT_RDWR)


class Watchdog:
    """One thread per worker that ends the calls whose deadline has passed."""

    def __init__(self, interval_seconds: float = WATCH_INTERVAL_SECONDS) -> None:
        self._interval_seconds = interval_seconds
        self._calls: set[Call] = set()
        self._busy = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def watching(self, call: Call) -> Iterator[None]:
        """Watch over `call` for the length of a with block."""
        self.add(call)
        try:
            yield
        finally:
            self.discard(call)

    def add(self, call: Call) -> None:
        """Watch over `call` until it is discarded. The thread starts here, so after any fork."""
        self._calls.add(call)
        self._busy.set()
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
                    self._thread.start()

    def discard(self, call: Call) -> None:
        """Stop watching over `call`."""
        self._calls.discard(call)

    def _run(self) -> None:
        while True:
            self._busy.wait()
            time.sleep(self._interval_seconds)
            now = time.monotonic()
            for call in tuple(self._calls):
                if now >= call.deadline:
                    call.end("deadline")
            if not self._calls:
                self._busy.clear()
                if self._calls:
                    self._busy.set()


def _duplicate(original: socket.socket) -> socket.socket:
    """A second handle on the same connection; SSL sockets are cut below TLS, which is safe from another thread."""
    return socket.fromfd(original.fileno(), original.family, original.type)


current_call: ContextVar[Call | None] = ContextVar("current_call", default=None)
"""The call on whose behalf this greenlet or thread talks to upstream."""
