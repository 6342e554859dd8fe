"""JSON between us and upstream: written the same way every time, read without trust."""

from __future__ import annotations

import json
import math
from typing import Any

from app.models import Usage
from app.upstreams.errors import bad_response

BOM = b"\xef\xbb\xbf"


def dump_json(value: Any) -> bytes:
    """Compact JSON in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def load_json(raw: bytes) -> Any:
    """Parse JSON from upstream; whatever makes Python's parser fail is `upstream_bad_response`."""
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


def well_formed(text: str) -> str:
    """Join surrogate pairs and replace lone surrogates, which no UTF-8 log, socket or database can carry."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


class TextJoiner:
    """Makes well-formed text of pieces, between two of which a surrogate pair may have been cut."""

    def __init__(self) -> None:
        self._held = ""

    def add(self, piece: str) -> str:
        """Give what can be passed on; a first half of a pair waits for its second."""
        text = self._held + piece
        self._held = text[-1] if text and "\ud800" <= text[-1] <= "\udbff" else ""
        return well_formed(text[: len(text) - len(self._held)])

    def rest(self) -> str:
        """What still waits when the text is over."""
        return well_formed(self._held)


def token_count(value: Any) -> int:
    """A number of tokens; 0 for anything else."""
    return value if type(value) is int and 0 <= value < 2**53 else 0


def parse_usage(value: Any) -> Usage | None:
    """Tokens from the `usage` of any of upstream's APIs; None when there is none."""
    if not isinstance(value, dict):
        return None
    sent = token_count(value.get("input_tokens")) or token_count(value.get("prompt_tokens"))
    written = token_count(value.get("output_tokens")) or token_count(value.get("completion_tokens"))
    sent_details = value.get("input_tokens_details") or value.get("prompt_tokens_details")
    written_details = value.get("output_tokens_details") or value.get("completion_tokens_details")
    return Usage(
        sent,
        written,
        token_count(value.get("total_tokens")) or sent + written,
        min(sent, _detail(sent_details, "cached_tokens")),
        min(written, _detail(written_details, "reasoning_tokens")),
    )


def _detail(details: Any, name: str) -> int:
    return token_count(details.get(name)) if isinstance(details, dict) else 0


def number_or_none(value: Any) -> float | None:
    """A finite number that JSON can carry; None for anything else."""
    return value if type(value) in {int, float} and abs(value) < 2**53 and math.isfinite(value) else None


def string_or_none(value: Any) -> str | None:
    """A string without lone surrogates; None for anything else."""
    return well_formed(value) if isinstance(value, str) else None
