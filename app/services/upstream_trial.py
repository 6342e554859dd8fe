"""Whether an upstream answers: it is asked for its models, which costs nothing, with each of the server's keys."""

from __future__ import annotations

import time
from typing import Any

from app.calls.call import Call
from app.calls.watchdog import Watchdog
from app.errors import ServiceException
from app.units import milliseconds
from app.upstreams.plan import Attempt, Upstream, UpstreamRequest
from app.upstreams.retry import AttemptFailed

ANSWERS = "answers"
KEY_SECONDS = 5.0
ALL_SECONDS = 12.0
"""How long one key is tried, and all of them together."""


def asked_for_models(attempt: Attempt, seconds: float, watchdog: Watchdog) -> str:
    """ANSWERS, or the error code of what failed within so many seconds."""
    call = Call(seconds)
    try:
        with watchdog.watching(call), attempt.upstream.send(UpstreamRequest("/models"), attempt.key, call):
            return ANSWERS
    except AttemptFailed as failure:
        return failure.error.error_code
    except ServiceException as exc:
        return exc.error_code


def try_keys(upstream: Upstream, watchdog: Watchdog) -> list[dict[str, Any]]:
    """For each key, in the order of the file, the `outcome` and after how many `ms`; both are None for a key for which
    no time was left. It says nothing of whether the upstream can generate."""
    began, found = time.monotonic(), []
    for key in upstream.settings.keys:
        asked = time.monotonic()
        left = min(KEY_SECONDS, began + ALL_SECONDS - asked)
        outcome = asked_for_models(Attempt(upstream, key), left, watchdog) if left > 0 else None
        found.append({"outcome": outcome, "ms": milliseconds(time.monotonic() - asked) if outcome else None})
    return found
