"""What comes from callers and from upstream is made to fit its column before it is written.

Without it one value decides over others: PostgreSQL refuses a text with a NUL or longer than its column, SQLite a
number above 64 bits, and both a half surrogate. The write would fail, and its row would never be settled.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa

WHOLE_MAX = 2**53 - 1
"""The largest whole number that is stored. JSON and spreadsheets can carry it, and a thousand of them can be added."""

Fit = Callable[[Any], Any]


class Fitting:
    """Makes the values of rows fit the columns of one table."""

    def __init__(self, table: sa.Table) -> None:
        self._fits: dict[str, Fit] = {column.name: _fit_for(column.type) for column in table.columns}

    def __call__(self, row: Mapping[str, Any]) -> dict[str, Any]:
        """The same values, by column: texts cut and without NUL, numbers within bounds; None stays None."""
        fits = self._fits
        return {name: value if value is None else fits[name](value) for name, value in row.items()}


def whole(value: int) -> int:
    """A whole number within the bounds of what is stored."""
    return value if -WHOLE_MAX <= value <= WHOLE_MAX else min(max(value, -WHOLE_MAX), WHOLE_MAX)


def _fit_for(kind: Any) -> Fit:
    if isinstance(kind, sa.String):
        return _text(kind.length)
    if isinstance(kind, sa.Float):
        return _real
    if isinstance(kind, sa.BigInteger | sa.Integer):
        return whole
    return lambda value: value


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
