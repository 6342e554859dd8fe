"""What happens when an attempt fails. docs/api has the same table in words; test_failover.py holds each row.

Only the server's keys move on: what a caller's own key was refused stays with its upstream, and the next attempt is
made for it in free mode alone, by the server's key.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from app.errors import ServiceException
from app.upstreams.health import KEY_REST_SECONDS
from app.upstreams.plan import Attempt
from app.upstreams.retry import AttemptFailed

Next = Literal["none", "any", "other upstream", "other model"]


@dataclass(frozen=True)
class After:
    """Where the next attempt may go, what rests for a known time, and whether it counts as a failure of upstream's."""

    moves_to: Next = "none"
    rests: Literal["", "key", "upstream"] = ""
    counts: bool = False


OWN_FAULT = After()
BROKEN = After("other upstream", counts=True)
TABLE: Mapping[str, After] = {
    "api_key_rejected": After("any"),
    "server_credentials_rejected": After("any", rests="key"),
    "server_quota_exhausted": After("any", rests="key"),
    "upstream_rate_limited": After("other upstream", rests="upstream"),
    "upstream_error": BROKEN,
    "upstream_unavailable": BROKEN,
    "upstream_failed": BROKEN,
    "upstream_bad_response": BROKEN,
    "upstream_connection_error": BROKEN,
    "upstream_timeout": BROKEN,
    "server_busy": After("other upstream"),
    "model_not_found": After("other model"),
    "context_length_exceeded": After("other model"),
}
"""By the code of the failure; what is not here is the request's own fault and goes nowhere else."""
CREDENTIALS = frozenset({"server_credentials_rejected", "server_quota_exhausted"})


def after(error: ServiceException) -> After:
    """What happens after a failure."""
    kind = error.error_code
    if kind == "upstream_failed" and not error.retryable:
        return OWN_FAULT
    if error.upstream_code == "context_length_exceeded":
        kind = "context_length_exceeded"
    return TABLE.get(kind, OWN_FAULT)


def may_follow(failed: Attempt, failure: AttemptFailed, other: Attempt) -> bool:
    """Whether `other` may be made after `failed` has failed so."""
    error = failure.error
    if failed.key.source != "default":
        return error.error_code == "api_key_rejected" and other.key.source == "default"
    moves_to = after(error).moves_to
    if moves_to == "other model":
        return other.model != failed.model
    if moves_to == "other upstream":
        return other.upstream is not failed.upstream
    return moves_to == "any"


def note(failed: Attempt, failure: AttemptFailed) -> None:
    """Let rest what has to. A caller's own key says nothing of the upstream's health but by failures of upstream's."""
    error, told = failure.error, after(failure.error)
    if told.counts:
        failed.upstream.health.failed(error.error_code)
    if failed.key.source != "default":
        return
    if told.rests == "upstream":
        failed.upstream.health.rest_for(error.retry_after or 1.0, error.error_code)
    elif told.rests == "key":
        failed.upstream.key_health(failed.key).rest_for(KEY_REST_SECONDS, error.error_code)
