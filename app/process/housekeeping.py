"""Housekeeping: settles what dead workers left behind and deletes old ledger rows, beside the requests."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable

from app.errors import ServiceException
from app.ledger.ledger import Ledger
from app.units import MICROSECONDS, MICROSECONDS_PER_DAY

logger = logging.getLogger(__name__)

SWEEP_SECONDS = 5.0
CHECKPOINT_SECONDS = 1.0
"""Often, as SQLite's log is fastest where it overwrites itself instead of growing."""


class Housekeeping:
    """One thread per worker. Several workers may do the same at once: each row is settled or deleted once."""

    def __init__(
        self,
        ledger: Ledger,
        retention_days: int,
        *,
        interval_seconds: float = SWEEP_SECONDS,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ledger = ledger
        self._retention_days = retention_days
        self._interval_seconds = interval_seconds
        self._clock = clock

    def start(self) -> None:
        """Begin, in the background."""
        threading.Thread(target=self._run, name="housekeeping", daemon=True).start()

    def tidy(self) -> None:
        """Do it once; while the database is away there is nothing to do."""
        try:
            if swept := self._ledger.sweep():
                logger.warning("settled as abandoned: %d requests of workers that are gone", swept)
            if self._retention_days:
                before = int(self._clock() * MICROSECONDS) - self._retention_days * MICROSECONDS_PER_DAY
                while self._ledger.forget(before):
                    time.sleep(0.01)
        except ServiceException as exc:
            logger.warning("housekeeping put off: %s", exc.error_code)

    def checkpoint(self) -> None:
        """Let the database tidy its own files."""
        with contextlib.suppress(ServiceException):
            self._ledger.checkpoint()

    def _run(self) -> None:
        while True:
            self.tidy()
            next_tidy = time.monotonic() + self._interval_seconds
            while time.monotonic() < next_tidy:
                self.checkpoint()
                time.sleep(min(CHECKPOINT_SECONDS, self._interval_seconds))
