"""An exported session, JSON Lines as StoredSessions.export writes them, read and checked line by line.

The first line is the header, every other one a turn. A line that is wrong is named by its number, from 1 on.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from app.errors import ValidationException
from app.json_bytes import is_writable
from app.models import ENTRIES_MAX, MODEL_MAX_LENGTH, UNWRITABLE
from app.sessions.conversation import Turn
from app.sessions.rules import broken_rules
from app.store.fitting import WHOLE_MAX
from app.units import MICROSECONDS

FORMAT = {"format": "llm-server-session", "version": 1}
"""The beginning of a header."""
TURNS_MAX = ENTRIES_MAX
"""So many turns are taken in at once."""
CHARACTER_MAX_LENGTH = 160
SUMMARY_BY_MAX_LENGTH = 16
LINES_AT_ONCE = 200
"""Then the other greenlets of the worker have a turn."""

Check = Callable[[Any], bool]


@dataclass(frozen=True)
class ImportedTurn:
    """`created_at`: microseconds since 1970; None where the line does not say it."""

    turn: Turn
    created_at: int | None
    model: str | None


@dataclass(frozen=True)
class Imported:
    """What is taken of an exported session. Its bill is another server's, and its name that of the address."""

    title: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    character: str | None = None
    created_at: int | None = None
    summary: Mapping[str, Any] | None = None
    turns: tuple[ImportedTurn, ...] = ()


def read_lines(body: bytes) -> Imported:
    """The session in a body; raises ValidationException, which names the line that is wrong."""
    lines = body.split(b"\n", TURNS_MAX + 2)
    if lines and not lines[-1].strip():
        lines.pop()
    if len(lines) > TURNS_MAX + 1:
        raise wrong_line(TURNS_MAX + 2, f"a session of at most {TURNS_MAX} turns is taken in")
    header = _members(lines[0] if lines else b"", 1, HEADER)
    if len(lines) == 1:
        raise wrong_line(2, "must be a turn: a session has at least one")
    turns = tuple(_turn(line, number) for number, line in enumerate(lines[1:], start=1))
    return _checked(header, turns)


def wrong_line(number: int, message: str) -> ValidationException:
    """The answer to a line that cannot be taken in."""
    error = ValidationException(
        f"Line {number} {message}", str(number), errors={str(number): [message]}, location="lines"
    )
    error.told += f" {number}번째 줄을 확인하세요."
    return error


def _turn(line: bytes, number: int) -> ImportedTurn:
    if number % LINES_AT_ONCE == 0:
        time.sleep(0)
    told = _members(line, number + 1, TURN)
    if told.get("turn", number) != number:
        raise wrong_line(number + 1, f"must be turn {number}")
    turn = Turn(
        told.get("user_message"),
        told.get("response_text") or None,
        told.get("interrupted", False),
        told.get("character"),
    )
    if turn.user_text is None and turn.answer_text is None:
        raise wrong_line(number + 1, "must have `user_message` or `response_text`")
    return ImportedTurn(turn, _moment(told, number + 1), told.get("model"))


def _checked(header: dict[str, Any], turns: tuple[ImportedTurn, ...]) -> Imported:
    """The session of a header; `turns` are all of its turns."""
    if any(header.get(name) != value for name, value in FORMAT.items()):
        raise wrong_line(1, f"must have {json.dumps(FORMAT)[1:-1]}")
    if header.get("turn_count", len(turns)) != len(turns):
        raise wrong_line(1, f"says {header['turn_count']} turns, and there are {len(turns)}")
    given: dict[str, Any] = {name: header[name] for name in ("title", "metadata") if name in header}
    for name, (message,) in broken_rules(given).items():
        raise wrong_line(1, f"has a wrong `{name}`: {message}")
    summary = header.get("summary")
    if summary is not None:
        _check_summary(summary, len(turns))
    began = _moment(header, 1)
    return Imported(**given, character=header.get("character"), created_at=began, summary=summary, turns=turns)


def _check_summary(summary: Mapping[str, Any], turns: int) -> None:
    _check(summary, 1, SUMMARY, "summary.")
    for _, (message,) in broken_rules({"text": summary.get("text")}).items():
        raise wrong_line(1, f"has a wrong `summary.text`: {message}")
    if not 1 <= summary.get("covers", 0) <= turns:
        raise wrong_line(1, f"has a wrong `summary.covers`: must be from 1 to {turns}")


def _members(line: bytes, number: int, kinds: Mapping[str, Check]) -> dict[str, Any]:
    """The members of the object that a line is."""
    try:
        told = json.loads(line.decode())
    except (ValueError, RecursionError):
        raise wrong_line(number, "is not JSON in UTF-8") from None
    if not isinstance(told, dict):
        raise wrong_line(number, "must be a JSON object")
    _check(told, number, kinds)
    return told


def _check(told: Mapping[str, Any], number: int, kinds: Mapping[str, Check], within: str = "") -> None:
    """Every member is known and of its kind."""
    for name, value in told.items():
        if name not in kinds:
            raise wrong_line(number, f"has a member that is not known: {within}{name[:64]}")
        if not kinds[name](value):
            raise wrong_line(number, f"has a wrong `{within}{name}`")
        if not is_writable(value):
            raise wrong_line(number, f"has a wrong `{within}{name}`: {UNWRITABLE}")


def _moment(told: Mapping[str, Any], number: int) -> int | None:
    """When something was, in microseconds since 1970."""
    given = told.get("created_at")
    if given is None:
        return None
    try:
        moment = datetime.fromisoformat(given)
        at = round(moment.timestamp() * MICROSECONDS) if moment.tzinfo is not None else -1
    except (ValueError, OverflowError):
        at = -1
    if not 0 <= at <= WHOLE_MAX:
        raise wrong_line(number, "has a wrong `created_at`: must be ISO 8601 with offset")
    return at


def _text(most: int | None = None) -> Check:
    return lambda value: value is None or (isinstance(value, str) and (most is None or len(value) <= most))


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_any(value: Any) -> bool:
    """For members of which nothing is taken, and those that are checked by another rule."""
    return True


HEADER: Mapping[str, Check] = {
    **dict.fromkeys(("format", "version", "title", "metadata"), _is_any),
    **dict.fromkeys(("session_id", "updated_at", "input_tokens", "output_tokens", "cost_usd"), _is_any),
    "requests_of_unknown_cost": _is_any,
    "character": _text(CHARACTER_MAX_LENGTH),
    "turn_count": _is_whole,
    "created_at": _text(64),
    "summary": lambda value: value is None or isinstance(value, dict),
}
TURN: Mapping[str, Check] = {
    "turn": _is_whole,
    "created_at": _text(64),
    "user_message": _text(),
    "response_text": _text(),
    "interrupted": lambda value: isinstance(value, bool),
    "model": _text(MODEL_MAX_LENGTH),
    "character": _text(CHARACTER_MAX_LENGTH),
    "request_id": _is_any,
}
SUMMARY: Mapping[str, Check] = {
    "text": _is_any,
    "covers": _is_whole,
    "by": _text(SUMMARY_BY_MAX_LENGTH),
    "model": _text(MODEL_MAX_LENGTH),
    "created_at": _text(64),
}
