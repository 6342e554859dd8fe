"""A worker that writes down each lock of gevent's that two of its system threads have taken."""

from __future__ import annotations

import os
import traceback
from typing import Any

import gevent.thread
from gevent.monkey import get_original

from app.process.workers import GeventWorker

FILE = "SHARED_LOCKS_FILE"
"""The setting that names the file: a line for each lock, where it was made and where it was taken."""
MADE_BY = 4
"""How many callers of a lock's maker are told."""


class WatchedWorker(GeventWorker):
    def patch(self) -> None:
        watch(os.environ[FILE])
        super().patch()


def watch(file: str) -> None:
    """From now on each lock that gevent makes knows its maker, and which threads take it."""
    lock_type: Any = gevent.thread.LockType
    make, take, thread = lock_type.__init__, lock_type.acquire, get_original("_thread", "get_ident")
    # The locks are kept, so that no two of them have the same id.
    known: dict[int, tuple[Any, str, set[int]]] = {}

    def made(self: Any) -> None:
        make(self)
        known[id(self)] = (self, _callers(MADE_BY), set())

    def taken(self: Any, *args: Any, **options: Any) -> Any:
        _, maker, takers = known.setdefault(id(self), (self, "before", set()))
        if (ident := thread()) not in takers:
            takers.add(ident)
            if len(takers) == 2:
                with open(file, "a") as lines:
                    lines.write(f"made by {maker}; taken by {_callers(MADE_BY)}\n")
        return take(self, *args, **options)

    lock_type.__init__, lock_type.acquire, lock_type.__enter__ = made, taken, taken


def _callers(number: int) -> str:
    return " < ".join(f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_stack(limit=number + 2)[-3::-1])
