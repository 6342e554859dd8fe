"""A plan: which attempts are made to get a request answered, in which order. app/upstreams/fleet.py makes it,
app/upstreams/routing.py follows it.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from app.calls.call import Call
from app.models import ApiKey
from app.upstreams.catalog import UpstreamSettings
from app.upstreams.health import Health
from app.upstreams.keys import Payer
from app.upstreams.load import Load
from app.upstreams.slots import Slots
from app.upstreams.transport import Response


@dataclass(frozen=True)
class UpstreamRequest:
    """What is sent: a POST of JSON, or a GET where there is no body. `path` is below the upstream's base URL.

    `headers` are those that its dialect has beside everybody's; they win over those. `model` is the model's name there,
    which some upstreams want in the path.
    """

    path: str
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict, hash=False)
    model: str = ""


class Upstream(Protocol):
    """A server behind us, as one worker knows it. `slots`: how many calls it takes at once; None: as many as we
    make."""

    settings: UpstreamSettings
    health: Health
    load: Load
    slots: Slots | None

    def key_health(self, key: ApiKey) -> Health:
        """How one of its keys does."""

    def send(self, request: UpstreamRequest, key: ApiKey, call: Call) -> Response:
        """Make one attempt; raises AttemptFailed unless the answer is a success."""


@dataclass(frozen=True)
class Attempt:
    """One upstream, asked with one key. `model` is the name there; `reason` says why it stands where it stands."""

    upstream: Upstream
    key: ApiKey
    model: str = ""
    reason: str = ""

    @property
    def due_in(self) -> float:
        """Seconds until it may be made again; 0 where neither its upstream nor its key rests."""
        upstream, key = self.healths
        return max(upstream.due_in, key.due_in)

    @functools.cached_property
    def healths(self) -> tuple[Health, Health]:
        """How its upstream and its key do."""
        return self.upstream.health, self.upstream.key_health(self.key)

    def described(self) -> dict[str, str]:
        """What may be told of it."""
        return {"upstream": self.upstream.settings.name, "model": self.model, "reason": self.reason}


@dataclass(frozen=True)
class Plan:
    """The attempts in order: at least one. `is_listed`: its upstreams come from a file."""

    payer: Payer
    attempts: tuple[Attempt, ...]
    is_listed: bool = False


def make_plan(payer: Payer, upstream: Upstream, model: str = "") -> Plan:
    """One attempt for each key that may pay."""
    return Plan(payer, tuple(Attempt(upstream, key, model) for key in payer.keys))
