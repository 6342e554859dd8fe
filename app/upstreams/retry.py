"""When a failed upstream call is tried again, and after how long."""

from __future__ import annotations

import itertools
import logging
import random
from collections.abc import Callable
from typing import TypeVar

from app.calls.call import Call
from app.errors import ServiceException
from app.upstreams.load import Load

logger = logging.getLogger(__name__)

RETRIED_STATUSES = frozenset({500, 502, 503, 521, 522, 523, 529})
"""504 is not among them: upstream may have worked for the request, and bill it."""
MAX_RETRIES = 2
MAX_RATE_LIMIT_RETRIES = 1
BACKOFF_BASE_SECONDS = 0.25
BACKOFF_CAP_SECONDS = 4.0
LONGEST_PAUSE_SECONDS = 5.0
"""A longer wait is not begun: the caller is told at once how long it is, and its connection is not kept for it."""

Result = TypeVar("Result")


class AttemptFailed(Exception):
    """One attempt to get an answer from upstream failed.

    `error` is what the caller is told if no other attempt succeeds; `max_retries`: how often the same may be tried
    again, after `pause_seconds` if upstream asked for that. `may_cost`: upstream may have worked for it.
    `refused_parameter`: what upstream does not take of the request, of the names in app/upstreams/parameters.py.
    """

    def __init__(
        self,
        error: ServiceException,
        *,
        may_cost: bool = False,
        max_retries: int = 0,
        pause_seconds: float | None = None,
        upstream_request_id: str | None = None,
    ) -> None:
        super().__init__(error.error_code)
        self.error = error
        self.may_cost = may_cost
        self.max_retries = max_retries
        self.pause_seconds = pause_seconds
        self.upstream_request_id = upstream_request_id
        self.refused_parameter: str | None = None


def refused(
    error: ServiceException, status: int, upstream_request_id: str | None, wait_seconds: float | None
) -> AttemptFailed:
    """The failure of an attempt that upstream answered with `status`; `wait_seconds`: the pause that it asked for."""
    if error.error_code == "upstream_rate_limited":
        retries, wait_seconds = MAX_RATE_LIMIT_RETRIES, wait_seconds or 1.0
    else:
        retries = MAX_RETRIES if status in RETRIED_STATUSES else 0
    return AttemptFailed(
        error, max_retries=retries, pause_seconds=wait_seconds, upstream_request_id=upstream_request_id
    )


def until_answered(
    attempt: Callable[[], Result], call: Call, load: Load, others: Callable[[AttemptFailed], bool] = lambda _: False
) -> Result:
    """Call `attempt` until it succeeds, as often as its failures, the deadline of `call` and the upstream's `load` have
    room for; not again where `others` says that another one may be made for it.

    Nothing may be held over the pauses between: a slot would keep others from upstream who could be served.

    Raises AttemptFailed, the last one, or what ended the call meanwhile.
    """
    try:
        return _noted(attempt, load)
    except AttemptFailed as failure:
        failed, pause = failure, _pause(failure, 0, call, others, load.begin_retry)
    try:
        for retries in itertools.count(1):
            _wait(pause, failed, call)
            try:
                return _noted(attempt, load)
            except AttemptFailed as failure:
                failed, pause = failure, _pause(failure, retries, call, others, load.retry_again)
    finally:
        load.end_retry()
    raise failed


def _noted(attempt: Callable[[], Result], load: Load) -> Result:
    found = attempt()
    load.answered()
    return found


def _pause(
    failure: AttemptFailed,
    retries: int,
    call: Call,
    others: Callable[[AttemptFailed], bool],
    may_retry: Callable[[], bool],
) -> float:
    """Seconds before the next attempt; raises `failure` where none is made, too, because that is too long."""
    if retries >= failure.max_retries or others(failure):
        raise failure
    pause = backoff_seconds(retries)
    if failure.pause_seconds is not None:
        # Many are told the same; they must not all come back in the same instant.
        pause = failure.pause_seconds + min(pause, BACKOFF_BASE_SECONDS)
    is_too_long = (failure.pause_seconds or 0) > LONGEST_PAUSE_SECONDS or pause >= call.remaining_seconds()
    if is_too_long or not may_retry():
        raise failure
    return pause


def _wait(seconds: float, failure: AttemptFailed, call: Call) -> None:
    logger.warning(
        "upstream %s, trying again in %.2f s request_id=%s", failure.error.error_code, seconds, call.request_id or "-"
    )
    call.wait(seconds)
    call.check()


def backoff_seconds(retries: int) -> float:
    """Full jitter: evenly between 0 and an exponentially growing bound.

    Source: "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.
    """
    return random.uniform(0, min(BACKOFF_CAP_SECONDS, BACKOFF_BASE_SECONDS * 2**retries))
