"""Load: what one worker has in flight at one upstream, by key, and how many of that are repetitions."""

from __future__ import annotations

import threading
from collections import Counter, deque

from app.calls.receipt import Tried
from app.models import ApiKey

RETRIES_SHARE = 0.2
RETRIES_MIN = 3
RECENT = 500
"""So many attempts are remembered."""


class Load:
    """Counts. At most a fifth of what is in flight, and three at least, may be repetitions: an upstream that fails
    always is asked hardly more often than there are requests."""

    def __init__(self) -> None:
        self._by_key: Counter[str] = Counter()
        self._retries = 0
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

    def begin_retry(self) -> bool:
        """Whether one more may be repeated; `end_retry` has to follow then."""
        with self._lock:
            if self._retries >= max(RETRIES_MIN, RETRIES_SHARE * self.total):
                return False
            self._retries += 1
            return True

    def end_retry(self) -> None:
        """A repetition is over, its pause included."""
        with self._lock:
            self._retries -= 1
