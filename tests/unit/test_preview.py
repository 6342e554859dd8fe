"""Estimates of tokens, and when a request began."""

from __future__ import annotations

import pytest

from app.tokens import estimate_tokens
from app.web.middleware import seconds_in_front


@pytest.mark.parametrize(("words", "tokens"), [("", 0), ("abcd", 1), ("abcde", 2), ("한국어", 3), ("ab한", 2)])
def test_estimate(words: str, tokens: int) -> None:
    """Four ASCII characters, or one other, are a token."""
    assert estimate_tokens(words) == tokens


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("t=99.5", 0.5),
        ("99.5", 0.5),
        ("t=99500", 0.5),
        ("t=99500000", 0.5),
        ("t=101", 0.0),
        ("", 0.0),
        ("t=nan", 0.0),
        ("t=inf", 0.0),
        ("soon", 0.0),
        ("t=-499", 599.0),
        ("t=-501", 0.0),
    ],
)
def test_units_of_request_start(header: str, seconds: float) -> None:
    """Seconds, milliseconds and microseconds are told apart by size; nonsense counts as nothing."""
    offset = 1_700_000_000.0
    value = header.removeprefix("t=")
    if value.replace(".", "").removeprefix("-").isdigit():
        unit = {2: 1, 3: 1, 4: 1, 5: 1e3, 8: 1e6}[len(value.split(".")[0])]
        header = f"t={float(value) + offset * unit:f}"
    assert abs(seconds_in_front(header, now=lambda: offset + 100.0) - seconds) < 1e-3
