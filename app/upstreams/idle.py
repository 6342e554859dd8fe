"""Idle connections to upstream: which of them may be used again, and until when.

The connection used last is taken first. One is thrown away when upstream has closed it, when something came on it that
nobody asked for, and when it has been idle for longer than common servers wait before they close (uvicorn and Node.js:
5 s). A request that is sent while upstream closes would be lost, and a NAT forgets connections without a word.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable

from app.upstreams.http1 import UpstreamConnection

IDLE_SECONDS = 4.0


class IdleConnections:
    """At most `size` of them, each for at most `seconds`."""

    def __init__(
        self, size: int, seconds: float = IDLE_SECONDS, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._size = size
        self._seconds = seconds
        self._clock = clock
        self._idle: deque[tuple[float, UpstreamConnection]] = deque()
        self._is_swept = False

    def __len__(self) -> int:
        return len(self._idle)

    def take(self) -> UpstreamConnection | None:
        """The connection used last that can be used again; None when there is none."""
        with contextlib.suppress(IndexError):
            while True:
                since, connection = self._idle.pop()
                if self._clock() - since < self._seconds and connection.is_open:
                    return connection
                connection.close()
        return None

    def put(self, connection: UpstreamConnection) -> None:
        """Keep a connection that can be used again; close any other."""
        if not connection.is_reusable or len(self._idle) >= self._size:
            connection.close()
            return
        self._idle.append((self._clock(), connection))
        if not self._is_swept:
            # Without it, connections that upstream closed would stay in CLOSE_WAIT until somebody asks again.
            self._is_swept = True
            threading.Thread(target=self._sweep, name="idle-connections", daemon=True).start()

    def close(self) -> None:
        """Close all."""
        self._close_before(float("inf"))

    def _sweep(self) -> None:
        """Close those that are too old, until there are none."""
        while self._is_swept:
            time.sleep(self._seconds / 2)
            self._close_before(self._clock() - self._seconds)
            # In this order: a connection that is put back meanwhile starts another thread or is seen here.
            self._is_swept = False
            self._is_swept = bool(self._idle)

    def _close_before(self, moment: float) -> None:
        with contextlib.suppress(IndexError):
            while self._idle[0][0] < moment:
                self._idle.popleft()[1].close()
