"""RunningTurns: the remembered turns that this worker is answering, so that an interruption finds their calls.

One that comes to this worker ends the call at once. One that comes to another worker or machine has marked the session,
and a thread looks for such marks, only while there are turns: one query for all of them, three times a second.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator

from app.calls.call import Call
from app.errors import ServiceException
from app.sessions.interruption import Running

LOOK_SECONDS = 0.3


class RunningTurns:
    """`marked` tells which of some turns have been interrupted; it may raise ServiceException."""

    def __init__(
        self,
        marked: Callable[[Collection[Running]], Iterable[Running]] = lambda turns: (),
        *,
        interval_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._marked = marked
        self._interval_seconds = interval_seconds
        self._calls: dict[Running, Call] = {}
        self._is_looking = False
        self._lock = threading.Lock()

    @contextlib.contextmanager
    def running(self, turn: Running, call: Call) -> Iterator[None]:
        """Inside, an interruption of the turn ends the call."""
        with self._lock:
            self._calls[turn] = call
            starts, self._is_looking = not self._is_looking, True
        if starts:
            threading.Thread(target=self._look, name="interruptions", daemon=True).start()
        try:
            yield
        finally:
            with self._lock:
                self._calls.pop(turn, None)

    def end(self, turn: Running) -> None:
        """End the call of a turn that was interrupted, if this worker has it."""
        if (call := self._calls.get(turn)) is not None:
            call.end("interrupted")

    def _look(self) -> None:
        try:
            while running := self._waited():
                with contextlib.suppress(ServiceException):
                    for turn in self._marked(running):
                        self.end(turn)
        except BaseException:
            # A fault of ours, which is printed: the next turn begins to look again.
            self._is_looking = False
            raise

    def _waited(self) -> tuple[Running, ...]:
        """The turns that go on after a while; without any it is not looked any more."""
        time.sleep(self._interval_seconds)
        with self._lock:
            running = tuple(self._calls)
            self._is_looking = bool(running)
        return running
