"""Prompt assembly: pure functions from what the application knows to the messages a model reads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from app.models import Message

TURN = re.compile(r"(user|assistant):[ ]?(.*)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True)
class Headings:
    """The lines above the parts of the system message."""

    role: str = "#역할"
    memory: str = "#기억"
    instructions: str = "#추가 지시사항"


def system_text(message: str, *, role: str, memories: Iterable[str], instructions: str, headings: Headings) -> str:
    """Join the parts that are not empty by one blank line, without white space around the whole."""
    memory_lines = "\n".join(f"- {memory}" for memory in memories)
    parts = [message, _section(headings.role, role), _section(headings.memory, memory_lines)]
    parts.append(_section(headings.instructions, instructions))
    return "\n\n".join(part for part in parts if part.strip()).strip()


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
