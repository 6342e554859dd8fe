"""Connecting: the time in which a connection to upstream has to be made, and what ends it earlier.

While a connection is made nothing blocks but one poll. It also looks at a socket pair that the end of the call shuts
down, so a caller who leaves, the deadline and a stop of the worker end the wait for a name, an address or a handshake
at once (`test_the_slot_is_free_while_connecting`).
"""

from __future__ import annotations

import select
import time
from collections.abc import Mapping
from typing import Self

from app.calls.call import Call
from app.calls.sockets import Interrupt
from app.upstreams.connection_errors import CouldNotConnect


class Connecting:
    """A context manager: inside, `wait` waits on behalf of `call`, for `seconds` in all."""

    def __init__(self, call: Call, seconds: float) -> None:
        self._call = call
        self._until = time.monotonic() + seconds

    def __enter__(self) -> Self:
        self._interrupt = Interrupt()
        try:
            self._call.hold(self._interrupt)
        except BaseException:
            self._interrupt.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._call.let_go()
        self._interrupt.close()

    def wait(self, events: Mapping[int, int], seconds: float | None = None) -> list[int]:
        """Wait for one of the descriptors, each with its poll events; give those that are ready, none after `seconds`.

        Raises CouldNotConnect when the time is over, or what ended the call.
        """
        poller = select.poll()
        poller.register(self._interrupt.fileno(), select.POLLIN)
        for descriptor, event in events.items():
            poller.register(descriptor, event)
        left = min(self._until - time.monotonic(), self._call.remaining_seconds())
        ready = poller.poll(1000 * max(0.0, left if seconds is None else min(left, seconds)))
        self._call.remaining_seconds()
        if self._call.lost_patience or (not ready and time.monotonic() >= self._until):
            raise CouldNotConnect("timed out")
        return [descriptor for descriptor, _ in ready]
