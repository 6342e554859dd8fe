"""The plan of a request: which attempts are made to get it answered, in which order."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Protocol

from app.calls.call import Call
from app.models import ApiKey
from app.upstreams.keys import KeySelector, Payer
from app.upstreams.retry import AttemptFailed, until_answered
from app.upstreams.transport import Response

NO_HEADERS: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True)
class UpstreamRequest:
    """What is sent: a POST of JSON, or a GET where there is no body. `path` is below the upstream's base URL.

    `headers` are those that its dialect has beside everybody's; they win over those.
    """

    path: str
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)


class Upstream(Protocol):
    """A server behind us."""

    def send(self, request: UpstreamRequest, key: ApiKey, call: Call) -> Response:
        """Make one attempt; raises AttemptFailed unless the answer is a success."""


@dataclass(frozen=True)
class Attempt:
    """One upstream, asked with one key."""

    upstream: Upstream
    key: ApiKey


@dataclass(frozen=True)
class Plan:
    """The attempts in order. The next one is made when upstream has refused the key of the one before."""

    payer: Payer
    attempts: tuple[Attempt, ...]


def make_plan(payer: Payer, upstream: Upstream) -> Plan:
    """One attempt for each key that may pay."""
    return Plan(payer, tuple(Attempt(upstream, key) for key in payer.keys))


def follow(plan: Plan, keys: KeySelector, call: Call, send: Callable[[Attempt], Response]) -> tuple[Response, ApiKey]:
    """Make the attempts of `plan` with `send` until one succeeds; give the response and the key that paid for it.

    Raises ServiceException: of the last attempt, or what the payer says when every key was refused.
    """
    for attempt in plan.attempts:
        try:
            return until_answered(functools.partial(send, attempt), call), attempt.key
        except AttemptFailed as failure:
            if failure.error.error_code != "api_key_rejected":
                raise failure.error from failure.__cause__
            keys.remember_refused(attempt.key)
            refused = failure.error
    raise plan.payer.refused(refused)
