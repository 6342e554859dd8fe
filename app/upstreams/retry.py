"""When a failed upstream call is tried again, and after how long."""

from __future__ import annotations

import email.utils
import logging
import random
import time
from collections.abc import Callable
from typing import TypeVar

from app.calls.call import Call
from app.errors import OpenAIClientException

logger = logging.getLogger(__name__)

RETRIED_STATUSES = frozenset({408, 409, 500, 502, 503, 529})
MAX_RETRIES = 2
MAX_RATE_LIMIT_RETRIES = 1
BACKOFF_BASE_SECONDS = 0.25
BACKOFF_CAP_SECONDS = 4.0
RETRY_AFTER_CAP_SECONDS = 120

Answer = TypeVar("Answer")


class Retriable(Exception):
    """Carries an error that another attempt may cure, how many attempts, and the pause upstream asked for."""

    def __init__(self, error: OpenAIClientException, max_retries: int, pause_seconds: float | None = None) -> None:
        super().__init__(error.error_code)
        self.error = error
        self.max_retries = max_retries
        self.pause_seconds = pause_seconds


def retriable(error: OpenAIClientException, status: int) -> Exception:
    """`error` itself, or what says that upstream may be asked again after an answer of `status`."""
    if error.error_code == "upstream_rate_limited":
        return Retriable(error, MAX_RATE_LIMIT_RETRIES, error.retry_after)
    if status in RETRIED_STATUSES:
        return Retriable(error, MAX_RETRIES)
    return error


def until_answered(attempt: Callable[[], Answer], call: Call) -> Answer:
    """Call `attempt` again while it raises Retriable, within the deadline of `call`; then raise its error."""
    attempts = 0
    while True:
        try:
            return attempt()
        except Retriable as failure:
            if attempts >= failure.max_retries or not _paused(failure, attempts, call):
                raise failure.error from failure.__cause__
        attempts += 1


def _paused(failure: Retriable, attempts: int, call: Call) -> bool:
    """Wait before the next attempt; False when the wait would not fit into the deadline."""
    pause = backoff_seconds(attempts) if failure.pause_seconds is None else failure.pause_seconds
    if pause >= call.remaining_seconds():
        return False
    logger.warning(
        "upstream %s, trying again in %.2f s request_id=%s", failure.error.error_code, pause, call.request_id or "-"
    )
    call.wait(pause)
    call.check()
    return True


def backoff_seconds(attempts: int) -> float:
    """Full jitter: evenly between 0 and an exponentially growing bound.

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    return random.uniform(0, min(BACKOFF_CAP_SECONDS, BACKOFF_BASE_SECONDS * 2**attempts))


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
