"""When a failed upstream call is tried again, and after how long."""

from __future__ import annotations

import email.utils
import random
import time

RETRIED_STATUSES = frozenset({408, 409, 500, 502, 503, 529})
MAX_RETRIES = 2
MAX_RATE_LIMIT_RETRIES = 1
BACKOFF_BASE_SECONDS = 0.25
BACKOFF_CAP_SECONDS = 4.0
RETRY_AFTER_CAP_SECONDS = 120


def backoff_seconds(attempt: int) -> float:
    """Full jitter: evenly between 0 and an exponentially growing bound.

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    return random.uniform(0, min(BACKOFF_CAP_SECONDS, BACKOFF_BASE_SECONDS * 2**attempt))


def parse_retry_after(header: str | None) -> int | None:
    """Read `Retry-After` (RFC 9110, 10.2.3) as whole seconds, clamped to 1…120; None when it says nothing usable."""
    if not header:
        return None
    try:
        seconds = float(header)
    except ValueError:
        moment = email.utils.parsedate_tz(header)
        if moment is None:
            return None
        try:
            seconds = email.utils.mktime_tz(moment) - time.time()
        except (OverflowError, ValueError):
            return None
    if seconds != seconds:
        return None
    return int(max(1, min(seconds, RETRY_AFTER_CAP_SECONDS)))
