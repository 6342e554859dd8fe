"""The units that are kept as whole numbers, and how they are shown: nano-dollars, and microseconds since 1970 (UTC)."""

from __future__ import annotations

from datetime import UTC, datetime

NANO = 1_000_000_000
"""Nano-dollars in a US dollar."""
MICROSECONDS = 1_000_000
"""Microseconds in a second."""
MICROSECONDS_PER_DAY = 86_400 * MICROSECONDS


def dollars(nano: int | None) -> str | None:
    """Nano-dollars as a decimal string of dollars; None, an unknown amount, stays None."""
    if nano is None:
        return None
    whole, rest = divmod(abs(nano), NANO)
    return ("-" if nano < 0 else "") + f"{whole}.{rest:09}".rstrip("0").rstrip(".")


def iso(moment: int) -> str:
    """A moment (microseconds since 1970) as ISO 8601, UTC."""
    return datetime.fromtimestamp(int(moment) / MICROSECONDS, UTC).isoformat()


def milliseconds(seconds: float) -> float:
    """Seconds as milliseconds, to a hundredth."""
    return round(seconds * 1000, 2)
