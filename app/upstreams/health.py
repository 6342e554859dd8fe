"""Health: which upstream rests, and which key, for how long and why.

An upstream rests after several failures in a row, longer each time, and then gets one request as a probe; after a 429
it rests for as long as it says. A key that is refused or out of quota rests alone. Who rests is asked last and not
never: a plan always has somebody to ask (app/upstreams/fleet.py). What one worker has learned here the others are told
by app/process/shared_health.py.
"""

from __future__ import annotations

import dataclasses
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

FAILURES_IN_A_ROW = 5
REST_SECONDS = 30.0
LONGEST_REST_SECONDS = 300.0
SPREAD = 0.2
"""Workers and machines must not all come back in the same instant."""
KEY_REST_SECONDS = 60.0
PROBE_SECONDS = 30.0
"""How long a probe keeps others away if it never tells how it went."""


@dataclass(frozen=True)
class Rest:
    """Until when (the clock's seconds), why, in words of ours, and how many after failures there were in a row."""

    until: float
    reason: str
    in_a_row: int = 0


class Health:
    """How one upstream or one key does. `clock` is in seconds; `spread` gives a factor for the length of a rest."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        spread: Callable[[], float] = lambda: random.uniform(1 - SPREAD, 1 + SPREAD),
    ) -> None:
        self._clock = clock
        self._spread = spread
        self._failures = 0
        self._rests = 0
        self.last_rest: Rest | None = None
        """The rest that no answer has ended: it lasts, or its probe is due. Only `_replace` sets it."""
        self._probed_at: float | None = None
        self._lock = threading.Lock()

    @property
    def rest(self) -> Rest | None:
        """The rest that is not over yet."""
        rest = self.last_rest
        return rest if rest is not None and self._clock() < rest.until else None

    @property
    def due_in(self) -> float:
        """Seconds until it may be asked again; 0 where it may be now."""
        rest = self.last_rest
        if rest is None:
            return 0.0
        left = rest.until - self._clock()
        if left > 0:
            return left
        probed = self._probed_at
        return 0.0 if probed is None else max(0.0, probed + PROBE_SECONDS - self._clock())

    def asked(self) -> None:
        """It is asked now; after a rest this is the probe, and others wait for how it goes."""
        if self.last_rest is not None:
            self._probed_at = self._clock()

    def succeeded(self) -> None:
        """It has answered: all is forgotten, but a rest since whose begin nobody was asked: the answer is older."""
        if self._failures or self.last_rest is not None:
            with self._lock:
                self._failures = 0
                if self._probed_at is not None:
                    self._replace(None)

    def failed(self, reason: str) -> None:
        """It could not answer. The failure of a probe is enough for the next rest."""
        with self._lock:
            self._failures += 1
            if self._failures < FAILURES_IN_A_ROW and self.last_rest is None:
                return
            if self.rest is not None and self._probed_at is None:
                return
            self._rests += 1
            seconds = min(REST_SECONDS * self._rests, LONGEST_REST_SECONDS) * self._spread()
            self._begin(seconds, reason)

    def rest_for(self, seconds: float, reason: str) -> None:
        """It has said itself, or it is plain, how long it is of no use."""
        with self._lock:
            self._begin(seconds, reason)

    def end_rest(self) -> None:
        """Its rest is over now, because somebody says so, and the next request finds out how it does: if that fails it
        rests again, longer."""
        with self._lock:
            if self.last_rest is not None:
                self._replace(dataclasses.replace(self.last_rest, until=min(self.last_rest.until, self._clock())))

    def take_over(self, known: Rest | None, rest: Rest | None) -> bool:
        """Another worker knows better than `known`: it rests, or somebody was answered (None). False, and nothing is
        changed, where this worker has learned something else meanwhile."""
        with self._lock:
            if self.last_rest is not known:
                return False
            self._replace(rest)
            return True

    def _begin(self, seconds: float, reason: str) -> None:
        self._replace(Rest(self._clock() + seconds, reason, self._rests))

    def _replace(self, rest: Rest | None) -> None:
        self.last_rest, self._probed_at = rest, None
        if rest is None:
            self._failures = 0
        self._rests = 0 if rest is None else rest.in_a_row
