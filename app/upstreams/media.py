"""What passes through without a dialect: sound, pictures, rankings, moderation, in whatever form upstream answers."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from app.models import Usage
from app.upstreams import usage
from app.upstreams.chat_completions import read_event

HEADERS: Mapping[str, str] = {"Accept": "*/*"}
SPEECH_PATH = "/audio/speech"
TRANSCRIPTIONS_PATH = "/audio/transcriptions"
IMAGES_PATH = "/images/generations"
MODERATIONS_PATH = "/moderations"
RERANK_PATH = "/rerank"
PATHS = (SPEECH_PATH, TRANSCRIPTIONS_PATH, IMAGES_PATH, MODERATIONS_PATH, RERANK_PATH)
UNBOUNDED = frozenset({SPEECH_PATH, TRANSCRIPTIONS_PATH, IMAGES_PATH, RERANK_PATH})
"""What these cost nobody knows before: it goes by seconds, pictures or searches."""
__all__ = ["HEADERS", "PATHS", "UNBOUNDED", "read_event", "read_usage"]


def read_usage(document: Mapping[str, Any]) -> Usage | None:
    """The usage in an answer. Pictures in the prompt cost what the text of a prompt does not."""
    found, counts = usage.read_usage(document), document.get("usage")
    details = counts.get("input_tokens_details") if isinstance(counts, dict) else None
    if found is None or not isinstance(details, dict) or not usage.token_count(details.get("image_tokens")):
        return found
    return dataclasses.replace(found, has_fees=True)
