"""Prompt assembly: pure functions from what the application knows to the messages a model reads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from app.models import Message
from app.tokens import estimate_tokens

TURN = re.compile(r"(user|assistant):[ ]?(.*)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Headings:
    """The lines above the parts of the system message."""

    role: str = "#역할"
    description: str = "#인물 설명"
    speech_style: str = "#말투"
    lore: str = "#배경 지식"
    memory: str = "#기억"
    instructions: str = "#추가 지시사항"
    summary: str = "#지난 대화 요약"


def system_parts(
    message: str,
    *,
    role: str,
    memories: Iterable[str],
    instructions: str,
    headings: Headings,
    sections: Mapping[str, str] | None = None,
    summary: str | None = None,
) -> dict[str, str]:
    """The parts of the system message by name, in order; an empty one is an empty text.

    `sections`: a character's own, by the names of their headings. `summary`: of what was said before the past turns;
    None where there is no session that could have one.
    """
    memory_lines = "\n".join(f"- {memory}" for memory in memories)
    return {
        "system": message,
        "role": _section(headings.role, role),
        **{name: _section(getattr(headings, name), text) for name, text in (sections or {}).items()},
        "memory": _section(headings.memory, memory_lines),
        **({} if summary is None else {"summary": _section(headings.summary, summary)}),
        "instructions": _section(headings.instructions, instructions),
    }


def system_text(parts: Mapping[str, str]) -> str:
    """Join the parts that are not empty by one blank line, without white space around the whole."""
    return "\n\n".join(part for part in parts.values() if part.strip()).strip()


def newest_turns(turns: Sequence[Message], max_tokens: int) -> list[Message]:
    """As many of the newest turns as fit into `max_tokens`; a turn is kept whole or not at all.

    Where turns were left out, the first that is kept is the user's: many models take no answer without its question.
    """
    kept: list[Message] = []
    for turn in reversed(turns):
        max_tokens -= estimate_tokens(turn["content"])
        if max_tokens < 0:
            break
        kept.append(turn)
    while len(kept) < len(turns) and kept and kept[-1]["role"] == "assistant":
        kept.pop()
    return kept[::-1]


def turns_before(
    examples: Sequence[Message], opening: Message | None, max_tokens: int | None
) -> dict[str, list[Message]]:
    """The turns that a character puts before the history, by part, as many of them as fit; None is no limit.

    What it says first goes last: the examples are the first that are left out. Without a character there is no part.
    """
    if not examples and opening is None:
        return {}
    first = [] if opening is None else [opening]
    if max_tokens is None:
        return {"examples": list(examples), "first_message": first}
    first = newest_turns(first, max_tokens)
    return {"examples": newest_turns(examples, max_tokens - tokens_of(first)), "first_message": first}


def tokens_of(turns: Iterable[Message]) -> int:
    """The estimated tokens of some turns."""
    return sum(estimate_tokens(turn["content"]) for turn in turns)


def parse_turn(entry: Any) -> Message | None:
    """Read one past turn, `"user: text"` or `{"role": …, "content": …}`; None when it is neither."""
    if isinstance(entry, str):
        match = TURN.fullmatch(entry)
        return {"role": match[1].lower(), "content": match[2]} if match else None
    if isinstance(entry, Mapping) and set(entry) == {"role", "content"}:
        role, content = entry["role"], entry["content"]
        if isinstance(role, str) and isinstance(content, str) and role.lower() in {"user", "assistant"}:
            return {"role": role.lower(), "content": content}
    return None


def _section(heading: str, body: str) -> str:
    return f"{heading}\n{body}" if body.strip() else ""
