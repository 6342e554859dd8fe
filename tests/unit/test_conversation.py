"""Turns: what is left of one of which not all was heard."""

from __future__ import annotations

import pytest

from app.sessions.conversation import Turn


@pytest.mark.parametrize(
    ("answer", "heard", "left", "is_interrupted"),
    [
        ("안녕 🦊!", 4, "안녕 🦊", True),
        ("Hello.", 6, "Hello.", False),
        ("Hello.", 60, "Hello.", False),
        ("Hello.", None, "Hello.", False),
        ("Hello.", 0, None, True),
        (None, 4, None, False),
        ("", 4, None, False),
    ],
)
def test_a_turn_is_interrupted_where_something_is_cut_off(
    answer: str | None, heard: int | None, left: str | None, is_interrupted: bool
) -> None:
    """By characters, never to more than there was; one that was cut before stays cut."""
    assert Turn("Hi.", answer).heard(heard) == Turn("Hi.", left, is_interrupted)
    assert Turn("Hi.", answer, interrupted=True).heard(heard) == Turn("Hi.", left, interrupted=True)
