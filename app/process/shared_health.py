"""SharedHealth: who rests is known to all workers and machines within two seconds, and after a restart.

Each worker learns by its own requests (app/upstreams/health.py). Without this every one of them would have to fail five
times at an upstream that another one has found broken, and after each start all of them would again. Once a second a
worker writes what it has learned into the database and takes over what others have: a rest is everybody's, and so is
its end, when one probe is answered. No request waits for any of it. While the database cannot be used each worker goes
by what it knows, and tells it afterwards.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.errors import ServiceException
from app.models import ApiKey
from app.store import rests
from app.store.database import Database
from app.store.rests import Change, Place, Span, StoredRest
from app.units import MICROSECONDS, MICROSECONDS_PER_DAY
from app.upstreams.health import LONGEST_REST_SECONDS, SPREAD, Health, Rest
from app.upstreams.plan import Upstream

logger = logging.getLogger(__name__)

INTERVAL_SECONDS = 1.0
START_SECONDS = 3.0
"""How long a worker's start may wait for what others have written."""
CLOCKS_SECONDS = 60.0
"""How far apart the clocks of machines may be."""
LATEST_SECONDS = LONGEST_REST_SECONDS * (1 + SPREAD) + CLOCKS_SECONDS
"""A rest that ends later than so long from now was written by a clock that was wrong."""
KEPT_MICROSECONDS = MICROSECONDS_PER_DAY
"""How long after its end a rest is remembered that no answer has ended."""


@dataclass
class _Shared:
    """The health of one upstream or key, and what is known to stand in the database: the rest as this worker has it,
    and its end there (microseconds since 1970; 0: no rest)."""

    health: Health
    rest: Rest | None = None
    until: int = 0


class SharedHealth:
    """`upstreams`: those of a file; none where there is no file, and then nothing is done at all."""

    def __init__(
        self,
        upstreams: Mapping[str, Upstream],
        database: Database,
        fingerprint: Callable[[ApiKey], str],
        *,
        clock: Callable[[], float] | None = None,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._clock = clock or database.clock
        self._monotonic = monotonic
        self._shared = {place: _Shared(health) for place, health in _places(upstreams, fingerprint)}
        self._is_away = False
        self._lock = threading.Lock()
        """Held while this worker and the database are compared."""

    def start(self, interval_seconds: float = INTERVAL_SECONDS, patience_seconds: float = START_SECONDS) -> None:
        """Start the thread, and wait a moment for what others have written: the first request is to know it."""
        if not self._shared:
            return
        has_looked = threading.Event()

        def run() -> None:
            while True:
                self.exchange()
                has_looked.set()
                time.sleep(interval_seconds)

        threading.Thread(target=run, name="shared-health", daemon=True).start()
        has_looked.wait(patience_seconds)

    def exchange(self) -> None:
        """Tell others what this worker has learned, and take over what they have; put off while the database cannot be
        used."""
        try:
            with self._lock:
                self._exchange()
        except ServiceException as exc:
            if not self._is_away:
                logger.warning("which upstreams rest is known to each worker alone: %s", exc.error_code)
            self._is_away = True
            return
        self._is_away = False

    def end_rests(self, name: str) -> None:
        """End the rests of an upstream and of its keys, here and for everybody, whoever has learned of them.

        Raises ServiceException while the database cannot be used; then they have ended here, and others are told
        later. A failure that a worker learns of afterwards, or has not told yet, is a new rest.
        """
        if not self._shared:
            return
        with self._lock:
            try:
                # What others have learned meanwhile ends as well.
                self._exchange()
            finally:
                for shared in (shared for place, shared in self._shared.items() if place[0] == name):
                    shared.health.end_rest()
            self._exchange()

    def _exchange(self) -> None:
        standing = self._standing()
        changes = [
            Change(place, shared.until, self._stored(standing[place]))
            for place, shared in self._shared.items()
            if standing[place] is not shared.rest
        ]
        found = self._asked(changes)
        told = {change.place: change.rest.until if change.rest else 0 for change in changes}
        for place, shared in self._shared.items():
            self._merge(shared, standing[place], told.get(place, shared.until), found.get(place))

    def look(self) -> None:
        """Take over what others have, for a command, and write nothing. Raises ServiceException."""
        if not self._shared:
            return
        with self._lock:
            standing, found = self._standing(), self._asked(())
            for place, shared in self._shared.items():
                if standing[place] is shared.rest:
                    self._merge(shared, shared.rest, shared.until, found.get(place))

    def _asked(self, changes: Sequence[Change]) -> Mapping[Place, StoredRest]:
        def work(connection: Any) -> Mapping[Place, StoredRest]:
            self._database.read_clock(connection)
            return rests.exchange(connection, changes, self._span())

        return self._database.run_aside(work, writes=bool(changes))

    def _standing(self) -> dict[Place, Rest | None]:
        return {place: shared.health.last_rest for place, shared in self._shared.items()}

    def _merge(self, shared: _Shared, rest: Rest | None, until: int, found: StoredRest | None) -> None:
        """This worker has told `rest`, which ends `until`; in the database there is what was `found`. If another one
        knew better, it is taken over, unless this one has learned something new meanwhile: that is told first."""
        if (found.until if found else 0) == until:
            shared.rest, shared.until = rest, until
            return
        better = self._rest(found)
        if shared.health.take_over(rest, better):
            shared.rest, shared.until = better, found.until if found else 0
        else:
            shared.rest, shared.until = rest, until

    def _stored(self, rest: Rest | None) -> StoredRest | None:
        """By the clock that all share."""
        if rest is None:
            return None
        until = self._clock() + rest.until - self._monotonic()
        return StoredRest(int(until * MICROSECONDS), rest.reason, rest.in_a_row)

    def _rest(self, stored: StoredRest | None) -> Rest | None:
        """By this worker's own clock, which nobody sets."""
        if stored is None:
            return None
        left = stored.until / MICROSECONDS - self._clock()
        return Rest(self._monotonic() + left, stored.reason, stored.in_a_row)

    def _span(self) -> Span:
        now = int(self._clock() * MICROSECONDS)
        return now - KEPT_MICROSECONDS, now + int(LATEST_SECONDS * MICROSECONDS)


def _places(upstreams: Mapping[str, Upstream], fingerprint: Callable[[ApiKey], str]) -> Iterator[tuple[Place, Health]]:
    for name, upstream in upstreams.items():
        address = hashlib.blake2b(upstream.settings.base_url.encode(), digest_size=8).hexdigest()
        yield (name, address, ""), upstream.health
        for key in upstream.settings.keys:
            yield (name, address, fingerprint(key)), upstream.key_health(key)
