"""Housekeeping: settles the ledger rows of workers that died, deletes old rows and sessions, beside the requests."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable

from app.errors import ServiceException
from app.ledger.ledger import Ledger
from app.sessions.changes import SessionChanges
from app.sessions.sessions import EMPTY_SECONDS
from app.units import MICROSECONDS, MICROSECONDS_PER_DAY

logger = logging.getLogger(__name__)

SWEEP_SECONDS = 5.0
CHECKPOINT_SECONDS = 1.0
"""Often, since SQLite writes faster when its log starts again from the beginning than when the file grows."""


class Housekeeping:
    """One thread per worker. Several workers may work at the same time: each row is settled or deleted once."""

    def __init__(
        self,
        ledger: Ledger,
        retention_days: int,
        sessions: SessionChanges | None = None,
        session_retention_days: int = 0,
        *,
        interval_seconds: float = SWEEP_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._retention_days = retention_days
        self._sessions = sessions
        self._session_retention_days = session_retention_days
        self._interval_seconds = interval_seconds
        self._clock = clock

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name="housekeeping", daemon=True).start()

    def tidy(self) -> None:
        """Settle and delete once; put off while the database cannot be used."""
        try:
            if swept := self._ledger.sweep():
                logger.warning("settled as abandoned: %d requests of workers that are gone", swept)
            if self._retention_days:
                self._forget(self._ledger.forget, self._retention_days * MICROSECONDS_PER_DAY)
            if self._sessions is not None:
                self._forget(self._sessions.forget_empty, EMPTY_SECONDS * MICROSECONDS)
                if self._session_retention_days:
                    self._forget(self._sessions.forget, self._session_retention_days * MICROSECONDS_PER_DAY)
        except ServiceException as exc:
            logger.warning("housekeeping put off: %s", exc.error_code)

    def _forget(self, batch: Callable[[int], int], age: int) -> None:
        """Delete what is older than `age` (microseconds), batch by batch."""
        before = int(self._clock() * MICROSECONDS) - age
        while batch(before):
            time.sleep(0.01)

    def checkpoint(self) -> None:
        """Have SQLite move its log into its file."""
        with contextlib.suppress(ServiceException):
            self._ledger.checkpoint()

    def _run(self) -> None:
        while True:
            self.tidy()
            next_tidy = time.monotonic() + self._interval_seconds
            while time.monotonic() < next_tidy:
                self.checkpoint()
                time.sleep(min(CHECKPOINT_SECONDS, self._interval_seconds))
