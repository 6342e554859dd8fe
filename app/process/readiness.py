"""Readiness: whether requests should be sent to this worker."""

from __future__ import annotations

from collections.abc import Callable

from app.errors import ChatServiceException


class Readiness:
    """Ready unless draining, or unless something the worker needs says it is not there."""

    def __init__(self, *needed: Callable[[], bool]) -> None:
        self._needed = needed
        self.draining = False

    def drain(self) -> None:
        """Not ready any more: the worker is about to stop, but still answers what comes."""
        self.draining = True

    def check(self) -> None:
        """Raise ChatServiceException, a 503, unless ready."""
        if self.draining:
            raise ChatServiceException("The server is shutting down", "server_shutting_down")
        if not all(is_there() for is_there in self._needed):
            raise ChatServiceException("The server is not ready yet", "not_ready")
