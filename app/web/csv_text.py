"""Tables as comma-separated values that no spreadsheet takes for formulas."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

FORMULA = ("=", "+", "-", "@", "＝", "＋", "－", "＠", "\t", "\r", "\n")
"""How a field begins that a spreadsheet would calculate (OWASP, "CSV Injection"): callers choose names of models and
sessions, and whoever opens the table would run what they wrote. Spreadsheets in East Asia take full-width signs too."""


def csv_text(names: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """These columns of rows, under their names; None is empty."""
    written = io.StringIO()
    writer = csv.writer(written)
    writer.writerow(names)
    writer.writerows([_harmless(row[name]) for name in names] for row in rows)
    return written.getvalue()


def _harmless(value: Any) -> Any:
    """A text that would be a formula gets an apostrophe in front, by which spreadsheets know a text."""
    return f"'{value}" if isinstance(value, str) and value.startswith(FORMULA) else value
