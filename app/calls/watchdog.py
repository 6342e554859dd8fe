"""Watchdog: ends the calls whose deadline has passed or whose caller has left."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

from app.calls.call import Call

WATCH_INTERVAL_SECONDS = 0.2


class Watchdog:
    """One thread per worker that ends the calls whose deadline has passed or whose caller has left."""

    def __init__(self, interval_seconds: float = WATCH_INTERVAL_SECONDS) -> None:
        self._interval_seconds = interval_seconds
        self._calls: set[Call] = set()
        self._busy = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def add(self, call: Call) -> None:
        """Watch over `call` until it is discarded. The thread starts here, so after any fork."""
        self._calls.add(call)
        if not self._busy.is_set():
            self._busy.set()
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="watchdog", daemon=True)
                    self._thread.start()

    def discard(self, call: Call) -> None:
        """Stop watching over `call`."""
        self._calls.discard(call)

    @contextlib.contextmanager
    def watching(self, call: Call) -> Iterator[None]:
        """Inside, `call` is watched over."""
        self.add(call)
        try:
            yield
        finally:
            self.discard(call)

    def _run(self) -> None:
        while True:
            self._busy.wait()
            time.sleep(self._interval_seconds)
            now = time.monotonic()
            for call in tuple(self._calls):
                if now >= call.deadline:
                    call.end("deadline")
                elif call.caller_is_gone():
                    call.end("caller_gone")
                else:
                    call.lose_patience(now)
                    if call.each_look is not None:
                        call.each_look(now + self._interval_seconds)
            if not self._calls:
                self._busy.clear()
                if self._calls:
                    self._busy.set()
