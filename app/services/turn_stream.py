"""TurnStream: a streamed chat turn, which runs beside the greenlet or thread that writes its answer.

One of them alone could not write a keepalive while upstream says nothing, and a proxy would close the connection
(test_stream.py). So the turn runs in a thread of its own, under gevent a greenlet, and puts what happens into a bounded
queue: a caller that reads slowly slows down the turn, and through it upstream, not the worker's memory.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from app.calls.call import Call
from app.errors import ChatServiceException, ServiceException
from app.models import ChatResponse
from app.services.chat import Listener

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
class Text:
    """The next piece of text."""

    piece: str


@dataclass(frozen=True)
class Keepalive:
    """Nothing happened for a while."""


TurnEvent = Started | Text | Keepalive | ChatResponse | ServiceException


class TurnStream:
    """Runs `run` at once; iterating gives what happens, ending with a ChatResponse or a ServiceException."""

    def __init__(self, run: Callable[[Listener], ChatResponse], call: Call, keepalive_seconds: float) -> None:
        self._run = run
        self._call = call
        self._keepalive_seconds = keepalive_seconds
        self._events: queue.Queue[TurnEvent] = queue.Queue(MAX_WAITING_EVENTS)
        self._closed = False
        self._finished = False
        threading.Thread(target=self._work, name="chat-turn", daemon=True).start()

    def started(self, model: str, api_key_source: str, *, cached: bool) -> None:
        """See Listener."""
        self._put(Started(model, api_key_source, cached))

    def text(self, piece: str) -> None:
        """See Listener."""
        self._put(Text(piece))

    def __iter__(self) -> Iterator[TurnEvent]:
        while True:
            try:
                event = self._events.get(timeout=self._keepalive_seconds)
            except queue.Empty:
                event = Keepalive()
            self._finished = isinstance(event, ChatResponse | ServiceException)
            yield event
            if self._finished:
                return

    def close(self) -> None:
        """The caller does not read any more: end the call, and with it the upstream connection, unless it is over."""
        self._closed = True
        if not self._finished:
            self._call.end("caller_gone")

    def _work(self) -> None:
        try:
            self._put(self._run(self))
        except ServiceException as exc:
            self._put(exc)
        except Exception:
            logger.exception("unhandled exception in a streamed chat turn")
            self._put(ChatServiceException("The server failed to handle the request", "internal_error"))

    def _put(self, event: TurnEvent) -> None:
        """Hand over an event; wait while the caller reads slowly, but not once it has gone."""
        while not self._closed:
            try:
                return self._events.put(event, timeout=PUT_SECONDS)
            except queue.Full:
                continue
