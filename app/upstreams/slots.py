"""Concurrency slots: how many upstream calls one worker may have in flight, and how long a request waits for one."""

from __future__ import annotations

import threading
from collections import deque

from app.calls.call import Call
from app.errors import ChatServiceException


class Slots:
    """`size` slots handed out first come, first served."""

    def __init__(self, size: int, max_queue_seconds: float) -> None:
        self._free = size
        self._max_queue_seconds = max_queue_seconds
        self._waiting: deque[Call] = deque()
        self._lock = threading.Lock()
        self.size = size

    @property
    def in_use(self) -> int:
        """Slots taken at this moment."""
        return self.size - self._free

    @property
    def is_full(self) -> bool:
        """Whether the next one would have to wait."""
        return self._free <= 0

    def acquire(self, call: Call) -> None:
        """Take a slot for `call`, waiting at most `max_queue_seconds` and never past the call's end.

        Raises ChatServiceException `server_busy`, or what ended the call meanwhile.
        """
        with self._lock:
            if self._free > 0:
                self._free -= 1
                return
            self._waiting.append(call)
        call.wait(self._max_queue_seconds)
        with self._lock:
            granted = call not in self._waiting
            if not granted:
                self._waiting.remove(call)
        if granted and not call.ended:
            return
        if granted:
            self.release()
        call.remaining_seconds()
        raise busy()

    def release(self) -> None:
        """Give a slot back: to the longest waiting call, or to the free ones."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().wake()
            else:
                self._free += 1


def busy() -> ChatServiceException:
    """The answer when no slot is free."""
    return ChatServiceException("The server is busy; try again shortly", "server_busy")
