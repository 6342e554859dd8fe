"""How the plan of a request is followed, attempt by attempt."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TypeVar

from app.calls.call import Call
from app.errors import OpenAIClientException, ServiceException
from app.upstreams import failover
from app.upstreams.keys import KeySelector
from app.upstreams.plan import Attempt, Plan
from app.upstreams.retry import AttemptFailed, until_answered

Result = TypeVar("Result")


def follow(
    plan: Plan,
    keys: KeySelector,
    call: Call,
    send: Callable[[Attempt, bool], Result],
    *,
    pays_twice: bool = True,
) -> Result:
    """Make the attempts of `plan` with `send` until one succeeds; give what it gave.

    What may come next is decided by failover.py. Another upstream is asked at once; the last that may be asked is asked
    again after a pause, as far as its failures and its budget of repetitions allow. `send` is told whether another
    upstream may still be asked. Without `pays_twice` nobody is asked after an attempt that may have cost something:
    what was reserved for the request covers one. Raises ServiceException: of the last attempt, or what the payer says
    when every key was refused.
    """
    attempts = plan.attempts
    while True:
        attempt, attempts = attempts[0], attempts[1:]
        may_move = (
            pays_twice
            and attempt.key.source == "default"
            and any(other.upstream is not attempt.upstream for other in attempts)
        )

        def others(failure: AttemptFailed, attempt: Attempt = attempt, left: tuple[Attempt, ...] = attempts) -> bool:
            return not (failure.may_cost and not pays_twice) and any(
                failover.may_follow(attempt, failure, other) for other in left
            )

        try:
            found = until_answered(functools.partial(send, attempt, may_move), call, attempt.upstream.load, others)
            attempt.upstream.health.succeeded()
            return found
        except AttemptFailed as failure:
            if attempt.key.source != "default" and failure.error.error_code == "api_key_rejected":
                keys.remember_refused(attempt.key)
            if plan.is_listed:
                failover.note(attempt, failure)
            if call.ended or not others(failure):
                raise _told(plan, failure) from failure.__cause__
            attempts = tuple(other for other in attempts if failover.may_follow(attempt, failure, other))


def _told(plan: Plan, failure: AttemptFailed) -> ServiceException:
    """What the caller is told when nobody is asked any more."""
    error = failure.error
    if error.error_code == "api_key_rejected":
        return plan.payer.refused(error)
    if plan.is_listed and error.error_code in failover.CREDENTIALS:
        message = "The AI services refuse the server's API keys, or their quotas are used up"
        return OpenAIClientException(message, "upstream_credentials_exhausted")
    return error
