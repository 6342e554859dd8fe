"""How long and how often is measured: the whole run, and the quick one that ends within three minutes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

CALLERS = (1, 16, 64, 1000)
IN_FLIGHT = 1000
STREAMS = 300


@dataclass(frozen=True)
class Plan:
    rounds: int
    seconds: Mapping[int, int]
    """Of one measurement, by callers; wrk knows whole seconds only."""
    warm_seconds: int
    """Of load before a gateway is measured; Node and uvicorn are slower before."""
    rewarm_seconds: int
    """The same before the next route, and where no peer is compared."""
    flight_warm_seconds: float
    flight_window_seconds: float
    deltas: int
    """Events with text in one stream."""
    ramp_seconds: float
    """Over which the streams open."""
    stream_patience_seconds: float
    """How much longer than upstream the streams may take before what is missing counts as lost."""
    settle_seconds: float
    """At most this long for a gateway to finish what the last load left behind."""
    everything: bool
    """Whether what no target needs is measured, too."""


FULL = Plan(
    rounds=3,
    seconds={1: 4, 16: 4, 64: 4, 1000: 6},
    warm_seconds=4,
    rewarm_seconds=2,
    flight_warm_seconds=4,
    flight_window_seconds=12,
    deltas=160,
    ramp_seconds=3,
    stream_patience_seconds=15,
    settle_seconds=20,
    everything=True,
)

QUICK = Plan(
    rounds=1,
    seconds={1: 1, 16: 2, 64: 1, 1000: 2},
    warm_seconds=2,
    rewarm_seconds=1,
    flight_warm_seconds=2,
    flight_window_seconds=3,
    deltas=80,
    ramp_seconds=1.5,
    stream_patience_seconds=3,
    settle_seconds=3,
    everything=False,
)
