"""TurnStream: a streamed chat turn, which runs beside the greenlet or thread that writes its answer.

One of them alone could not write a keepalive while upstream says nothing, and a proxy would close the connection
(test_stream.py). So the turn runs in a thread of its own, under gevent a greenlet, and puts what happens into a bounded
queue: a caller that reads slowly slows down the turn, and through it upstream, not the worker's memory.

Each wait for the first event has a timer. From then on the watchdog, which looks at the call anyway, puts the
keepalives into the queue: a timer for each event would take a twentieth of what a stream costs.
"""

from __future__ import annotations

import contextlib
import logging
import math
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from app.calls.call import Call
from app.errors import ChatServiceException, ServiceException
from app.models import ChatResponse
from app.services.completing import Listener

logger = logging.getLogger(__name__)

MAX_WAITING_EVENTS = 256
PUT_SECONDS = 0.2


@dataclass(frozen=True)
class Started:
    """Upstream, or the cache, began to answer."""

    model: str
    api_key_source: str
    cached: bool


@dataclass(frozen=True)
class Keepalive:
    """Nothing happened for a while."""


TurnEvent = Started | str | Keepalive | ChatResponse | ServiceException
"""A `str` is the next piece of text; a ChatResponse or a ServiceException is the last event."""
LAST = (ChatResponse, ServiceException)


class TurnStream:
    """Runs `run` at once; iterating gives what happens, ending with a ChatResponse or a ServiceException."""

    def __init__(self, run: Callable[[Listener], ChatResponse], call: Call, keepalive_seconds: float) -> None:
        self._run = run
        self._call = call
        self._keepalive_seconds = keepalive_seconds
        self._events: queue.Queue[TurnEvent] = queue.Queue(MAX_WAITING_EVENTS)
        self._waited_since = math.inf
        self._closed = False
        self._finished = False
        self._read = 0
        threading.Thread(target=self._work, name="chat-turn", daemon=True).start()

    def started(self, model: str, api_key_source: str, *, cached: bool) -> None:
        """See Listener."""
        self._put(Started(model, api_key_source, cached))
        self._waited_since = time.monotonic()
        self._call.each_look = self._keep_alive

    def text(self, piece: str) -> None:
        """See Listener."""
        self._put(piece)

    def delivered(self) -> int:
        """See Listener: all of it, unless the caller has left."""
        return self._read if self._closed else sys.maxsize

    def __iter__(self) -> Iterator[TurnEvent]:
        while True:
            event = self._next()
            self._finished = isinstance(event, LAST)
            yield event
            self._read += len(event) if isinstance(event, str) else 0
            if self._finished:
                return
            self._waited_since = time.monotonic()

    def close(self) -> None:
        """The caller does not read any more: end the call, and with it the upstream connection, unless it is over."""
        self._closed = True
        if not self._finished:
            self._call.end("caller_gone")

    def _next(self) -> TurnEvent:
        is_watched = self._call.each_look is not None
        try:
            return self._events.get(timeout=None if is_watched else self._keepalive_seconds)
        except queue.Empty:
            return Keepalive()

    def _keep_alive(self, next_look: float) -> None:
        """The watchdog has looked at the call: a keepalive now, if its next look would come too late for it."""
        if next_look > self._waited_since + self._keepalive_seconds and self._events.empty():
            with contextlib.suppress(queue.Full):
                self._events.put_nowait(Keepalive())

    def _work(self) -> None:
        try:
            self._put(self._run(self))
        except ServiceException as exc:
            self._put(exc)
        except Exception:
            logger.exception("unhandled exception in a streamed chat turn")
            self._put(ChatServiceException("The server failed to handle the request", "internal_error"))

    def _put(self, event: TurnEvent) -> None:
        """Hand over an event; wait while the caller reads slowly, but not once it has gone, and with more of the answer
        not once it was interrupted: raises that."""
        while not self._closed:
            try:
                return self._events.put(event, timeout=PUT_SECONDS)
            except queue.Full:
                if self._call.ended == "interrupted" and not isinstance(event, LAST):
                    self._call.check()
