"""What upstream wrote in one event of a stream: it is what counts when upstream tells no usage."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

SILENT = frozenset({"role", "id", "type", "index", "object", "data"})
"""Members of a delta that are no text; `data` is sound in base64, whose transcript counts."""
BLOCK_TEXTS = ("text", "thinking", "partial_json")
"""Members of a delta of the Messages API that the model wrote; a signature is no text of its own."""
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


def in_block(event: Mapping[str, Any]) -> str:
    """The text in an event of the Messages API: answer, thoughts and the input of tools."""
    delta = event.get("delta")
    if not isinstance(delta, dict) or event.get("type") != "content_block_delta":
        return ""
    return "".join(text for name in BLOCK_TEXTS if isinstance(text := delta.get(name), str))


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
