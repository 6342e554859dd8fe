"""Concurrency slots: how many upstream calls one worker may have in flight, and how long a request waits for one."""

from __future__ import annotations

from app.calls.call import Call
from app.calls.places import Places
from app.errors import ChatServiceException


class Slots(Places):
    """Places for calls to upstream."""

    def acquire(self, call: Call) -> None:
        """Take a slot for `call`; raises ChatServiceException `server_busy`, or what ended the call meanwhile."""
        if not self.take(call):
            raise busy()


def busy() -> ChatServiceException:
    """The answer when no slot is free."""
    return ChatServiceException("The server is busy; try again shortly", "server_busy")
