"""JSON between us and upstream: written the same way every time, read without trust."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from app.errors import OpenAIClientException
from app.json_bytes import glance_json, well_formed
from app.upstreams.errors import bad_response

BOM = b"\xef\xbb\xbf"
BLANK = " \t\r\n\ufeff\u200b"
TEXT_PARTS = ("text", "output_text")
FINISH_REASONS: Mapping[str, str] = {
    **dict.fromkeys(("length", "max_tokens", "max_output_tokens", "max_length", "model_length"), "length"),
    "model_context_window_exceeded": "length",
    **dict.fromkeys(
        (
            "content_filter",
            "safety",
            "recitation",
            "blocklist",
            "prohibited_content",
            "spii",
            "image_safety",
            "refusal",
        ),
        "content_filter",
    ),
}
"""What servers call the ends that are none of the model's own: OpenAI, Gemini, Mistral, Anthropic, llama.cpp."""


def read_json(raw: bytes) -> Any:
    """Parse JSON from upstream that is only looked at: a whole number beyond 64 bits is a float.

    Whatever makes Python's parser fail is `upstream_bad_response`.
    """
    try:
        return glance_json(raw.removeprefix(BOM))
    except (ValueError, RecursionError):
        raise bad_response() from None


def load_json(raw: bytes) -> Any:
    """Parse JSON from upstream that is written again: every number as it is. Raises as read_json does."""
    try:
        return json.loads(raw.removeprefix(BOM).decode())
    except (ValueError, RecursionError):
        raise bad_response() from None


def load_sound_json(text: str) -> Any:
    """Parse JSON that goes on to our caller: without NaN, Infinity or lone surrogates, which JSON cannot carry on."""
    value = load_json(text.encode())
    try:
        json.dumps(value, ensure_ascii=False, allow_nan=False).encode()
    except (ValueError, RecursionError):
        raise bad_response() from None
    return value


def load_answered_json(text: str) -> Any:
    """Parse JSON that a model wrote, without what models put around it: white space, a BOM, thoughts, a code fence."""
    try:
        return load_sound_json(text.strip(BLANK))
    except OpenAIClientException:
        return load_sound_json(_without_wrapping(text))


def _without_wrapping(text: str) -> str:
    """What stands behind `</think>` and between the fences, by searches that are linear."""
    _, _, text = text.rpartition("</think>")
    _, fence, inside = text.partition("```")
    if fence:
        body, end, rest = inside.rpartition("```")
        text = body if end else rest
        text = text[4:] if text[:4].lower() == "json" else text
    return text.strip(BLANK)


def content_text(content: Any) -> str:
    """The text of a message's content, which is a text or a list of parts; what is no text is left out.

    A part of another kind (an image, a model's thoughts) is not the answer's text.
    """
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        return ""
    parts = (part for part in content if isinstance(part, Mapping) and part.get("type", "text") in TEXT_PARTS)
    return "".join(text for part in parts if isinstance(text := part.get("text"), str))


def finish_reason(reason: str | None) -> str:
    """One of ours, `stop`, `length` or `content_filter`, for the words that servers use."""
    return FINISH_REASONS.get((reason or "").lower(), "stop")


class TextJoiner:
    """Makes well-formed text of pieces, between two of which a surrogate pair may have been cut."""

    def __init__(self) -> None:
        self._held = ""

    def add(self, piece: str) -> str:
        """Give what can be passed on; a first half of a pair waits for its second."""
        if not self._held and piece.isascii():
            return piece
        text = self._held + piece
        self._held = text[-1] if text and "\ud800" <= text[-1] <= "\udbff" else ""
        return well_formed(text[: len(text) - len(self._held)])

    def rest(self) -> str:
        """What still waits when the text is over."""
        return well_formed(self._held)


def number_or_none(value: Any) -> float | None:
    """A finite number that JSON can carry; None for anything else."""
    return value if type(value) in {int, float} and abs(value) < 2**53 and math.isfinite(value) else None


def string_or_none(value: Any) -> str | None:
    """A string without lone surrogates; None for anything else."""
    return well_formed(value) if isinstance(value, str) else None
