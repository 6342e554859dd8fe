"""Load: what one worker has in flight at one upstream, by key, and how many of that are repetitions."""

from __future__ import annotations

import threading
from collections import Counter, deque

from app.calls.receipt import Tried
from app.models import ApiKey

REQUESTS_PER_RETRY = 5
RETRIES_MIN = 3
RECENT = 500
"""So many attempts are remembered."""


class Load:
    """Counts. At most a fifth of what is in flight, and three at least, may be repetitions. They are saved up for, too:
    one for five requests that fail, and three again with each success. So an upstream that fails always is asked 1.2
    times for each request and three times more, by few callers as by many (test_upstreams.py)."""

    def __init__(self) -> None:
        self._by_key: Counter[str] = Counter()
        self._retries = 0
        self._saved = RETRIES_MIN * REQUESTS_PER_RETRY
        self._lock = threading.Lock()
        self.total = 0
        self.recent: deque[Tried] = deque(maxlen=RECENT)

    def begin(self, key: ApiKey) -> None:
        """One more, with this key."""
        with self._lock:
            self.total += 1
            self._by_key[key.secret] += 1

    def end(self, key: ApiKey) -> None:
        """It is over."""
        with self._lock:
            self.total -= 1
            self._by_key[key.secret] -= 1
            if not self._by_key[key.secret]:
                del self._by_key[key.secret]

    def of(self, key: ApiKey) -> int:
        """How many are in flight with a key."""
        return self._by_key[key.secret]

    def answered(self) -> None:
        """It has answered: a hiccup after that may be repeated."""
        if self._saved < RETRIES_MIN * REQUESTS_PER_RETRY:
            with self._lock:
                self._saved = max(self._saved, RETRIES_MIN * REQUESTS_PER_RETRY)

    def begin_retry(self) -> bool:
        """Whether a request that has failed may be repeated; `end_retry` has to follow then."""
        with self._lock:
            most = max(RETRIES_MIN, self.total / REQUESTS_PER_RETRY)
            self._saved = min(self._saved + 1, int(most * REQUESTS_PER_RETRY))
            if self._retries >= most or self._saved < REQUESTS_PER_RETRY:
                return False
            self._retries += 1
            self._saved -= REQUESTS_PER_RETRY
            return True

    def retry_again(self) -> bool:
        """Whether a repetition that has failed may be repeated."""
        with self._lock:
            if self._saved < REQUESTS_PER_RETRY:
                return False
            self._saved -= REQUESTS_PER_RETRY
            return True

    def end_retry(self) -> None:
        """The repetitions of a request are over, with their pauses."""
        with self._lock:
            self._retries -= 1
