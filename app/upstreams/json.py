"""JSON between us and upstream: written the same way every time, read without trust."""

from __future__ import annotations

import json
import math
from typing import Any

from app.upstreams.errors import bad_response


def dump_json(value: Any) -> bytes:
    """Compact JSON in UTF-8."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


def load_json(raw: bytes) -> Any:
    """Parse JSON from upstream; whatever makes Python's parser fail is `upstream_bad_response`."""
    try:
        return json.loads(raw.decode())
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


def number_or_none(value: Any) -> float | None:
    """A finite number that JSON can carry; None for anything else."""
    return value if type(value) in {int, float} and abs(value) < 2**53 and math.isfinite(value) else None


def string_or_none(value: Any) -> str | None:
    """A string without lone surrogates; None for anything else."""
    return well_formed(value) if isinstance(value, str) else None
