"""What comes from callers and from upstream is made to fit its column before it is written.

Without it one value decides over others: PostgreSQL refuses a text with a NUL or longer than its column, SQLite a
number above 64 bits, and both a half surrogate. The write would fail, and its row would never be settled.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

WHOLE_MAX = 2**53 - 1
"""The largest whole number that is stored. JSON and spreadsheets can carry it, and a thousand of them can be added."""

Fit = Callable[[Any], Any]


def whole(value: int) -> int:
    """A whole number within the bounds of what is stored."""
    return value if -WHOLE_MAX <= value <= WHOLE_MAX else min(max(value, -WHOLE_MAX), WHOLE_MAX)


def fit_for(kind: Any) -> Fit | None:
    """How a value that is not None is made to fit a column of this type: texts cut and without NUL, numbers within
    bounds. None where every value fits."""
    if isinstance(kind, sa.String):
        return _text(kind.length)
    if isinstance(kind, sa.Float):
        return _real
    if isinstance(kind, sa.BigInteger | sa.Integer):
        return whole
    return None


def _text(length: int | None) -> Fit:
    def fit(value: object) -> str:
        text = value if isinstance(value, str) else str(value)
        if not text.isascii():
            text = text.encode("utf-8", "replace").decode()
        if "\0" in text:
            text = text.replace("\0", "")
        return text[:length]

    return fit


def _real(value: float) -> float | None:
    return value if math.isfinite(value) else None
