"""MemoryWatch: logs a worker's resident size at an interval and has a worker replaced that stays too large."""

from __future__ import annotations

import gc
import logging
import threading
from collections.abc import Callable

from app.process.system import resident_mb

logger = logging.getLogger(__name__)


class MemoryWatch:
    """One thread per worker. `replace` asks for a graceful replacement; it is called once at most."""

    def __init__(
        self,
        interval_seconds: float,
        soft_limit_mb: int,
        replace: Callable[[], None],
        *,
        measure: Callable[[], float] = resident_mb,
    ) -> None:
        self._interval_seconds = interval_seconds
        self._soft_limit_mb = soft_limit_mb
        self._replace = replace
        self._measure = measure
        self._stopped = threading.Event()

    def start(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name="memory-watch", daemon=True).start()

    def stop(self) -> None:
        """End the thread."""
        self._stopped.set()

    def check(self) -> bool:
        """Measure once; True when the worker has to be replaced.

        Garbage is collected only above the limit: on a schedule it would stop the worker for nothing.
        """
        resident = self._measure()
        logger.info("memory resident_mb=%.1f", resident)
        if not self._soft_limit_mb or resident <= self._soft_limit_mb:
            return False
        gc.collect()
        after = self._measure()
        if after <= self._soft_limit_mb:
            logger.warning("memory was above its limit, collected: resident_mb=%.1f", after)
            return False
        logger.warning(
            "memory stays above its limit, replacing this worker: resident_mb=%.1f limit_mb=%d",
            after,
            self._soft_limit_mb,
        )
        return True

    def _run(self) -> None:
        while not self._stopped.wait(self._interval_seconds):
            if self.check():
                self._replace()
                return
