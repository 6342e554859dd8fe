"""How the upstreams do, as one worker sees it: who rests is known to all, the figures are its own."""

from __future__ import annotations

import statistics
import time
from typing import Any

from app.upstreams.fleet import Fleet
from app.upstreams.health import Health
from app.upstreams.plan import Upstream

RECENT_SECONDS = 300.0


def describe(fleet: Fleet) -> list[dict[str, Any]]:
    """Each upstream in the order of the file, with its keys; times are seconds from now."""
    return [describe_one(upstream) for upstream in fleet.upstreams.values()]


def describe_one(upstream: Upstream) -> dict[str, Any]:
    """The same of one."""
    settings, load = upstream.settings, upstream.load
    recent = [tried for tried in tuple(load.recent) if time.monotonic() - tried.began < RECENT_SECONDS]
    answered = [tried.seconds for tried in recent if tried.code is None]
    return {
        "name": settings.name,
        "dialects": list(settings.dialects),
        **_state(upstream.health),
        "in_flight": load.total,
        "recent_attempts": len(recent),
        "success_rate": len(answered) / len(recent) if recent else None,
        "p50_ms": round(1000 * statistics.median(answered), 1) if answered else None,
        "keys": [_state(upstream.key_health(key)) | {"in_flight": load.of(key)} for key in settings.keys],
    }


def _state(health: Health) -> dict[str, Any]:
    rest = health.rest
    state = "rests" if rest is not None else "probed" if health.due_in else "well"
    return {"state": state, "due_in_seconds": round(health.due_in, 1), "reason": rest.reason if rest else None}
