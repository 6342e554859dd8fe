"""Response cache: identical requests that the same key pays for share one upstream answer for a while."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable

from cachetools import TTLCache

from app.calls.call import Call


class ResponseCache:
    """Keeps at most `max_size` answers, as bytes, for `ttl` seconds each; concurrent misses make one upstream call."""

    def __init__(self, max_size: int, ttl: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._answers: TTLCache[bytes, bytes] = TTLCache(max_size, ttl, timer=clock)
        self._under_way: dict[bytes, list[Call]] = {}
        self._lock = threading.Lock()

    def get_or_fetch(self, key: bytes, call: Call, fetch: Callable[[], tuple[bytes, bytes]]) -> tuple[bytes, bool]:
        """Give the answer under `key` and whether it was kept; `fetch` gives (key to keep it under, answer).

        While one caller fetches, others with the same key wait for it, each within its own call. When it fails, the
        next of them fetches: a failure is nobody else's answer.
        """
        while True:
            with self._lock:
                answer = self._answers.get(key)
                if answer is not None:
                    call.cache_hit = True
                    return answer, True
                followers = self._under_way.get(key)
                if followers is None:
                    self._under_way[key] = []
                    call.cache_hit = False
                    break
                followers.append(call)
            call.wait(call.remaining_seconds())
            call.check()
        try:
            final_key, answer = fetch()
            with self._lock:
                self._answers[final_key] = answer
            return answer, False
        finally:
            with self._lock:
                followers = self._under_way.pop(key)
            for follower in followers:
                follower.wake()


class NullCache:
    """The cache when it is off: every request fetches its own answer."""

    def get_or_fetch(self, key: bytes, call: Call, fetch: Callable[[], tuple[bytes, bytes]]) -> tuple[bytes, bool]:
        """Fetch; keep nothing."""
        return fetch()[1], False


def cache_key(*parts: bytes) -> bytes:
    """A digest over `parts`, each behind its length, so that no two different lists of parts give the same key."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big"))
        digest.update(part)
    return digest.digest()
