"""What the owner of a session may write on it, and how a text of a caller's is told from one that cannot be kept."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from app.json_bytes import is_writable
from app.models import (
    METADATA_KEY_MAX_LENGTH,
    METADATA_MAX,
    METADATA_VALUE_MAX_LENGTH,
    SESSION_ID_MAX_LENGTH,
    SESSION_NAME,
    SUMMARY_MAX_LENGTH,
    TITLE_MAX_LENGTH,
    UNWRITABLE,
)

TITLE_FORM = f"must be a text of at most {TITLE_MAX_LENGTH} characters without control characters"
METADATA_FORM = (
    f"must be at most {METADATA_MAX} pairs of texts: names of 1 to {METADATA_KEY_MAX_LENGTH} characters, values of at "
    f"most {METADATA_VALUE_MAX_LENGTH}"
)
SUMMARY_FORM = f"must be a text of 1 to {SUMMARY_MAX_LENGTH} characters that is not blank"


def is_name(name: str) -> bool:
    """Whether a session may have this name."""
    return len(name) <= SESSION_ID_MAX_LENGTH and SESSION_NAME.fullmatch(name) is not None and is_writable(name)


def broken_rules(given: Mapping[str, Any]) -> dict[str, list[str]]:
    """The broken rules by field: `title`, `metadata` and `text`, which is a summary's."""
    return {name: [message] for name, value in given.items() for message in RULES[name](value)}


def _broken_title(title: Any) -> Iterator[str]:
    if not isinstance(title, str) or len(title) > TITLE_MAX_LENGTH or any(_is_control(letter) for letter in title):
        yield TITLE_FORM
    elif not is_writable(title):
        yield UNWRITABLE


def _broken_metadata(metadata: Any) -> Iterator[str]:
    if not isinstance(metadata, dict) or len(metadata) > METADATA_MAX or not all(map(_is_pair, metadata.items())):
        yield METADATA_FORM
    elif not all(is_writable(text) for pair in metadata.items() for text in pair):
        yield UNWRITABLE


def _broken_summary(text: Any) -> Iterator[str]:
    if not isinstance(text, str) or len(text) > SUMMARY_MAX_LENGTH or not text.strip():
        yield SUMMARY_FORM
    elif not is_writable(text):
        yield UNWRITABLE


def _is_pair(pair: tuple[Any, Any]) -> bool:
    name, value = pair
    is_named = isinstance(name, str) and 0 < len(name) <= METADATA_KEY_MAX_LENGTH
    return is_named and isinstance(value, str) and len(value) <= METADATA_VALUE_MAX_LENGTH


def _is_control(letter: str) -> bool:
    return letter < " " or "\x7f" <= letter < "\xa0"


RULES = {"title": _broken_title, "metadata": _broken_metadata, "text": _broken_summary}
