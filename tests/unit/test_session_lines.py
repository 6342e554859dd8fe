"""An exported session is read line by line: what is wrong is named by its line, and nothing of it is taken."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from app.errors import ValidationException
from app.models import ENTRIES_MAX
from app.sessions.conversation import Turn
from app.sessions.lines import read_lines

HEADER: dict[str, Any] = {"format": "llm-server-session", "version": 1}
TURN: dict[str, Any] = {"user_message": "q", "response_text": "a"}


def body(*lines: Any) -> bytes:
    """Lines as they are, or as JSON."""
    return b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)


def test_what_is_taken() -> None:
    """Texts, names and times; an empty answer is none, and the end of the last line may be left out."""
    summary = {"text": "short", "covers": 1, "by": "model", "model": "m", "created_at": None}
    header = HEADER | {"title": "T", "metadata": {"a": "b"}, "created_at": "1970-01-01T09:00:01+09:00"}
    header |= {"character": "mina@2", "turn_count": 2, "summary": summary, "cost_usd": "7", "session_id": "s"}
    first = TURN | {"turn": 1, "interrupted": True, "model": "m", "created_at": "1970-01-01T00:00:02.000003Z"}
    found = read_lines(body(header, first, {"user_message": "다음", "response_text": ""})[:-1])
    assert (found.title, found.metadata, found.character, found.created_at) == ("T", {"a": "b"}, "mina@2", 1_000_000)
    assert found.summary == summary
    assert [(item.turn, item.created_at, item.model) for item in found.turns] == [
        (Turn("q", "a", interrupted=True), 2_000_003, "m"),
        (Turn("다음", None), None, None),
    ]


@pytest.mark.parametrize(
    ("line", "lines"),
    [
        (1, []),
        (1, [b""]),
        (1, [b"\xff"]),
        (1, [b"[" * 100_000]),
        (1, [[HEADER], TURN]),
        (1, [TURN, TURN]),
        (1, [HEADER | {"version": 2}, TURN]),
        (1, [HEADER | {"unknown": 1}, TURN]),
        (1, [HEADER | {"turn_count": 2}, TURN]),
        (1, [HEADER | {"turn_count": True}, TURN]),
        (1, [HEADER | {"title": "a\nb"}, TURN]),
        (1, [HEADER | {"title": None}, TURN]),
        (1, [HEADER | {"metadata": {"a": 1}}, TURN]),
        (1, [HEADER | {"metadata": {str(number): "" for number in range(17)}}, TURN]),
        (1, [HEADER | {"character": "x" * 161}, TURN]),
        (1, [HEADER | {"created_at": "2026-01-01"}, TURN]),
        (1, [HEADER | {"created_at": "0001-01-01T00:00:00+09:00"}, TURN]),
        (1, [HEADER | {"created_at": 5}, TURN]),
        (1, [HEADER | {"summary": "short"}, TURN]),
        (1, [HEADER | {"summary": {"text": "short"}}, TURN]),
        (1, [HEADER | {"summary": {"text": "short", "covers": 2}}, TURN]),
        (1, [HEADER | {"summary": {"text": " ", "covers": 1}}, TURN]),
        (1, [HEADER | {"summary": {"text": "short", "covers": 1, "x": 1}}, TURN]),
        (2, [HEADER]),
        (2, [HEADER, b"", TURN]),
        (2, [HEADER, "turn"]),
        (2, [HEADER, {}]),
        (2, [HEADER, {"response_text": ""}]),
        (2, [HEADER, TURN | {"turn": 2}]),
        (3, [HEADER, TURN, TURN | {"turn": 1}]),
        (3, [HEADER, TURN, TURN | {"role": "user"}]),
        (3, [HEADER, TURN, TURN | {"user_message": 1}]),
        (3, [HEADER, TURN, TURN | {"user_message": "\x00"}]),
        (3, [HEADER, TURN, TURN | {"response_text": "\ud800"}]),
        (3, [HEADER, TURN, TURN | {"interrupted": None}]),
        (3, [HEADER, TURN, TURN | {"interrupted": 1}]),
        (3, [HEADER, TURN, TURN | {"model": "m" * 257}]),
        (3, [HEADER, TURN, TURN | {"character": ["mina"]}]),
        (3, [HEADER, TURN, TURN | {"created_at": "soon"}]),
        (4, [HEADER, TURN, TURN, b"{", TURN]),
        (ENTRIES_MAX + 2, [HEADER, *([TURN] * (ENTRIES_MAX + 1))]),
    ],
)
def test_a_line_that_is_wrong(line: int, lines: list[Any]) -> None:
    """It is named by its number, from 1 on, as an editor counts."""
    with pytest.raises(ValidationException) as raised:
        read_lines(body(*lines))
    assert (raised.value.location, list(raised.value.errors)) == ("lines", [str(line)])
    assert f"Line {line} " in raised.value.message


def test_as_many_as_may_be() -> None:
    """The longest session that is taken in."""
    assert len(read_lines(body(HEADER, *([TURN] * ENTRIES_MAX))).turns) == ENTRIES_MAX


@pytest.mark.parametrize("hostile", [b"\n" * 30_000_000, b"{" * 10_000_000, b"9" * 5_000_000 + b"\n"])
def test_a_hostile_body_is_refused_soon(hostile: bytes) -> None:
    """It is not read further than its first wrong line."""
    began = time.process_time()
    with pytest.raises(ValidationException):
        read_lines(hostile)
    assert time.process_time() - began < 1
