"""BodyRoom: how many bytes of request bodies a worker holds at once, of all callers together and of each of them.

Without it 200 callers that each send the largest body would take some gigabytes, and the system would kill the worker
with everybody's requests: `test_many_large_bodies_are_not_held_at_once`.
"""

from __future__ import annotations

import threading
from collections import Counter

from app.errors import ChatServiceException


class BodyRoom:
    """Room for `max_bytes`, of which one owner gets half, but always as much as one request may have.

    Bytes count from when they are there, so a caller that only announces a large body takes nothing.
    """

    def __init__(self, max_bytes: int, max_request_bytes: int) -> None:
        self._max_bytes = max(max_bytes, max_request_bytes)
        self._max_of_one = max(max_bytes // 2, max_request_bytes)
        self._held: Counter[str] = Counter()
        self._lock = threading.Lock()

    @property
    def held_bytes(self) -> int:
        """So much is held now."""
        return self._held.total()

    def take(self, owner: str, size: int) -> None:
        """Hold `size` more bytes on behalf of `owner`; raises ChatServiceException `server_busy`."""
        with self._lock:
            self._check(owner, size)
            self._held[owner] += size

    def check(self, owner: str, size: int) -> None:
        """Raise as `take` does, and take nothing."""
        with self._lock:
            self._check(owner, size)

    def give_back(self, owner: str, size: int) -> None:
        """They are held no longer."""
        with self._lock:
            self._held[owner] -= size
            if not self._held[owner]:
                del self._held[owner]

    def _check(self, owner: str, size: int) -> None:
        if self._held.total() + size > self._max_bytes or self._held[owner] + size > self._max_of_one:
            raise ChatServiceException(
                "The server holds as many large request bodies as it can; try again shortly", "server_busy"
            )


class HeldBody:
    """What one request holds of the room; `give_back` may be called at any time and more than once."""

    def __init__(self, room: BodyRoom, owner: str) -> None:
        self._room = room
        self._owner = owner
        self._bytes = 0

    def check(self, size: int) -> None:
        """Raise ChatServiceException `server_busy` unless there is room for a body of `size` bytes."""
        self._room.check(self._owner, size)

    def grow_to(self, size: int) -> None:
        """Hold at least `size` bytes; raises ChatServiceException `server_busy`."""
        if size > self._bytes:
            self._room.take(self._owner, size - self._bytes)
            self._bytes = size

    def give_back(self) -> None:
        """The request is over."""
        size, self._bytes = self._bytes, 0
        self._room.give_back(self._owner, size)
