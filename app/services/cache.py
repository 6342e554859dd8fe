"""Response cache: identical requests that the same key pays for share one upstream answer for a while."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

from cachetools import TTLCache

from app.calls.call import Call

Answer = TypeVar("Answer")


class ResponseCache(Generic[Answer]):
    """Keeps at most `max_size` answers for `ttl` seconds each; concurrent misses make one upstream call."""

    def __init__(self, max_size: int, ttl: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._answers: TTLCache[bytes, Answer] = TTLCache(max_size, ttl, timer=clock)
        self._under_way: dict[bytes, list[Call]] = {}
        self._digest_secret = os.urandom(32)
        self._lock = threading.Lock()

    def key(self, *parts: bytes) -> bytes:
        """A keyed digest over `parts`, each behind its length: no two different lists of parts give the same key."""
        digest = hashlib.blake2b(key=self._digest_secret, digest_size=32)
        for part in parts:
            digest.update(len(part).to_bytes(8, "big"))
            digest.update(part)
        return digest.digest()

    def get_or_fetch(
        self,
        key: bytes,
        call: Call,
        fetch: Callable[[], tuple[bytes, Answer]],
        found: Callable[[bool], object] = lambda hit: None,
    ) -> tuple[Answer, bool]:
        """Give the answer under `key` and whether it was kept; `fetch` gives (key to keep it under, answer).

        `found` is told whether it was kept, before anything is fetched. While one caller fetches, others with the same
        key wait for it, each within its own call. When it fails, the next of them fetches: one caller's failure is not
        the others' answer.
        """
        while True:
            with self._lock:
                answer = self._answers.get(key)
                if answer is not None:
                    found(True)
                    return answer, True
                followers = self._under_way.get(key)
                if followers is None:
                    self._under_way[key] = []
                    found(False)
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
