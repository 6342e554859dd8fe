"""What passes through `/completions`, OpenAI's older API: chunks as of Chat Completions, with text of their own."""

from __future__ import annotations

from collections.abc import Mapping

from app.upstreams import chat_completions
from app.upstreams.sse import StreamEvent
from app.upstreams.usage import read_usage

PATH = "/completions"
HEADERS: Mapping[str, str] = {}
__all__ = ["HEADERS", "PATH", "read_event", "read_usage"]


def read_event(data: bytes) -> StreamEvent:
    """Say what one chunk means; raises `upstream_bad_response` for what is none of this API."""
    told = chat_completions.read_event(data)
    choices = told.document.get("choices")
    found = [choice.get("text") for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []
    texts = [text for text in found if isinstance(text, str)]
    return told._replace(text=texts[0], written="".join(texts)) if texts else told
