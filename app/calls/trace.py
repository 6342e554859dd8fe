"""The trace that a request belongs to, as the caller's systems name it.

Source: W3C Trace Context, `traceparent`, version 00.
"""

from __future__ import annotations

import random
import re
from typing import NamedTuple, Self

TRACEPARENT = re.compile(r"00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})")


class Trace(NamedTuple):
    """Its id (32 hexadecimal digits) and its flags (2)."""

    trace_id: str
    flags: str

    @classmethod
    def of(cls, traceparent: str) -> Self | None:
        """The trace that a header names; None where it is no such header."""
        found = TRACEPARENT.fullmatch(traceparent)
        return cls(*found.groups()) if found else None

    def onward(self) -> str:
        """The header for a request that is made within it: the same trace, and a span of its own."""
        return f"00-{self.trace_id}-{random.getrandbits(64) or 1:016x}-{self.flags}"
