"""Outage: tells the operator once why upstream cannot be reached, and not with every request that fails for it."""

from __future__ import annotations

import logging
import re
import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit

logger = logging.getLogger(__name__)

REPEAT_SECONDS = 300
HOST = re.compile(r"[A-Za-z0-9.-]{1,253}|[0-9a-f:]{2,45}")


class Outage:
    """What is wrong on the way to the upstream at `base_url`. A reason is logged when it is new, and again every five
    minutes while it lasts; `over` forgets it."""

    def __init__(self, base_url: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._base_url = base_url
        self._clock = clock
        self._told: dict[str, float] = {}
        self._lock = threading.Lock()

    def could_not_connect(self, reason: str) -> None:
        """No connection: `reason` is in words of our own."""
        self._tell(f"cannot connect to upstream {self._base_url}: {reason}")

    def misdirected(self, status: int, location: str) -> None:
        """Upstream answers that it is somewhere else: OPENAI_BASE_URL is wrong."""
        self._tell(f"upstream {self._base_url} answered HTTP {status}{_to(location)}; check OPENAI_BASE_URL")

    def over(self) -> None:
        """Upstream has answered."""
        if self._told:
            with self._lock:
                self._told.clear()

    def _tell(self, text: str) -> None:
        with self._lock:
            now = self._clock()
            if now - self._told.get(text, -REPEAT_SECONDS) < REPEAT_SECONDS:
                return
            self._told[text] = now
        logger.error(text)


def _to(location: str) -> str:
    """Where a redirect leads: scheme and host alone, as the rest may hold what the request held."""
    try:
        url = urlsplit(location)
        host, port = url.hostname or "", url.port
    except ValueError:
        return ""
    if url.scheme not in {"http", "https"} or not HOST.fullmatch(host):
        return ""
    return f", to {url.scheme}://{host}" + (f":{port}" if port else "")
