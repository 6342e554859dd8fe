"""Places: so many at a time, and the others wait in line, first come, first served."""

from __future__ import annotations

import threading
from collections import deque

from app.calls.call import Call


class Places:
    """`size` places; a call waits for one at most `max_wait_seconds`, and never past its own end."""

    def __init__(self, size: int, max_wait_seconds: float) -> None:
        self._free = size
        self._max_wait_seconds = max_wait_seconds
        self._waiting: deque[Call] = deque()
        self._lock = threading.Lock()
        self.size = size

    @property
    def in_use(self) -> int:
        """Places taken at this moment."""
        return self.size - self._free

    @property
    def is_full(self) -> bool:
        """Whether the next one would have to wait."""
        return self._free <= 0

    def take(self, call: Call) -> bool:
        """Take a place for `call`; False when there was none in time. Raises what ended the call meanwhile."""
        with self._lock:
            if self._free > 0:
                self._free -= 1
                return True
            self._waiting.append(call)
        call.wait(self._max_wait_seconds)
        with self._lock:
            granted = call not in self._waiting
            if not granted:
                self._waiting.remove(call)
        if granted and not call.ended:
            return True
        if granted:
            self.release()
        call.remaining_seconds()
        return False

    def release(self) -> None:
        """Give a place back: to the longest waiting call, or to the free ones."""
        with self._lock:
            if self._waiting:
                self._waiting.popleft().wake()
            else:
                self._free += 1
