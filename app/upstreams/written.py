"""What upstream wrote in one event of a stream: it is what counts when upstream tells no usage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SILENT = frozenset({"role", "id", "type", "index", "object", "data"})
"""Members of a delta that are no text; `data` is sound in base64, whose transcript counts."""
SOUND = ("response.audio.delta", "response.output_audio.delta")
"""Types of events; a tuple, since a type that upstream made a list could not be looked up in a set."""


def in_chunk(chunk: Mapping[str, Any]) -> str:
    """The text in a chunk of Chat Completions: of every choice, reasoning, tool arguments and transcripts included."""
    choices = chunk.get("choices")
    if not isinstance(choices, list):
        return ""
    return "".join([_text(choice.get("delta")) for choice in choices if isinstance(choice, dict)])


def in_event(event: Mapping[str, Any]) -> str:
    """The text in an event of the Responses API: each `delta`, of whatever kind, but sound."""
    delta = event.get("delta")
    return delta if isinstance(delta, str) and event.get("type") not in SOUND else ""


def _text(value: Any) -> str:
    """All texts in a delta, level by level; without recursion, for it may be as deep as its sender likes."""
    texts: list[str] = []
    found = [value]
    for value in found:
        # The list grows while it is read.
        if isinstance(value, str):
            texts.append(value)
        elif isinstance(value, dict):
            found += [inner for name, inner in value.items() if name not in SILENT]
        elif isinstance(value, list):
            found += value
    return "".join(texts)
