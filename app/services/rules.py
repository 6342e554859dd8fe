"""The rules a chat request must keep, one table for the API and for plain Python alike."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from app.errors import ERRORS_MAX
from app.json_bytes import is_writable
from app.models import (
    CHARACTER_MAX_LENGTH,
    END_USER_MAX_LENGTH,
    ENTRIES_MAX,
    IMAGE_DATA_MAX_LENGTH,
    IMAGE_URL_MAX_LENGTH,
    IMAGES_MAX,
    MALFORMED_KEY,
    MAX_TOKENS_LIMIT,
    MODEL_MAX_LENGTH,
    SCHEMA_DEPTH_MAX,
    SCHEMA_VALUES_MAX,
    SEGMENT_TAG_MAX_LENGTH,
    SEGMENT_TAGS_MAX,
    SESSION_ID_MAX_LENGTH,
    SESSION_NAME,
    TEMPERATURE_MAX,
    UNWRITABLE,
    USER_NAME_MAX_LENGTH,
    ChatRequest,
    Message,
    is_well_formed,
)
from app.services.prompt import parse_turn

TURN_FORMS = 'must be "user: text", "assistant: text" or {"role": …, "content": …}'
IMAGE_URL = re.compile(r"https://[\x21-\x7e]+|data:image/(?:png|jpeg|gif|webp);base64,[A-Za-z0-9+/]+={0,2}")
IMAGE_FORMS = (
    f"must be an https: URL of at most {IMAGE_URL_MAX_LENGTH} characters or "
    f"a data: URL with a base64 PNG, JPEG, GIF or WebP of at most {IMAGE_DATA_MAX_LENGTH}"
)
LENGTHS = {
    "session_id": SESSION_ID_MAX_LENGTH,
    "user": END_USER_MAX_LENGTH,
    "model": MODEL_MAX_LENGTH,
    "character": CHARACTER_MAX_LENGTH,
    "user_name": USER_NAME_MAX_LENGTH,
    "images": IMAGES_MAX,
    "conversation_history": ENTRIES_MAX,
    "memory_context": ENTRIES_MAX,
    "segment_tags": SEGMENT_TAGS_MAX,
}
RANGES = {
    "max_tokens": (1, MAX_TOKENS_LIMIT),
    "max_context_tokens": (1, MAX_TOKENS_LIMIT),
    "temperature": (0, TEMPERATURE_MAX),
}
SESSION_NAME_FORM = "must be the name of a session where something is remembered, without / or \\ or control characters"
SEGMENT_TAG = re.compile(rf"[^\[\]]{{1,{SEGMENT_TAG_MAX_LENGTH}}}")
SEGMENT_TAG_FORM = f"must have 1 to {SEGMENT_TAG_MAX_LENGTH} characters and no square brackets"
Errors = dict[str, list[str]]


def read_turns(history: Sequence[str | Message]) -> tuple[list[Message], Errors]:
    """The past turns, and what is wrong with the first entries that are none, by index."""
    turns: list[Message] = []
    errors: Errors = {}
    for index, entry in enumerate(itertools.islice(history, ENTRIES_MAX)):
        turn = parse_turn(entry)
        if turn is None:
            errors[str(index)] = [TURN_FORMS]
        elif not is_writable(turn["content"]):
            errors[str(index)] = [UNWRITABLE]
        else:
            turns.append(turn)
        if len(errors) == ERRORS_MAX:
            break
    return turns, errors


def broken_rules(request: ChatRequest, turn_errors: Errors) -> dict[str, Any]:
    """Every broken rule by field name: a list of messages, or for lists a mapping of index to such a list.

    `turn_errors` is what read_turns says of the conversation history.
    """
    errors: dict[str, Any] = {}
    for name, message in itertools.chain(_broken(request), _broken_session(request), _broken_segments(request)):
        errors.setdefault(name, []).append(message)
    items = {
        "conversation_history": turn_errors,
        "memory_context": _named(_broken_texts(_first(request.memory_context, ENTRIES_MAX))),
        "images": _named(_broken_images(_first(request.images, IMAGES_MAX))),
        "segment_tags": _named(_broken_tags(_first(request.segment_tags, SEGMENT_TAGS_MAX))),
    }
    for name, by_index in items.items():
        if by_index and name not in errors:
            errors[name] = by_index
    return errors


def _broken(request: ChatRequest) -> Iterator[tuple[str, str]]:
    if not isinstance(request.user_message, str) or not request.user_message.strip():
        yield "user_message", "must not be blank"
    yield from _wrong_lengths(request)
    for name, (least, most) in RANGES.items():
        value = getattr(request, name)
        # NaN is within no range; a huge integer must not be turned into a float.
        if value is not None and not least <= value <= most:
            yield name, f"must be from {least} to {most}"
    if request.openai_api_key and not is_well_formed(request.openai_api_key):
        yield "openai_api_key", MALFORMED_KEY
    schema = request.response_schema
    if schema is not None and (broken := _what_is_wrong_with_schema(schema)) is not None:
        yield "response_schema", broken
    for name, value in vars(request).items():
        if not is_writable(value):
            yield name, UNWRITABLE


def _broken_session(request: ChatRequest) -> Iterator[tuple[str, str]]:
    if request.remember and not SESSION_NAME.fullmatch(request.session_id or ""):
        yield "session_id", SESSION_NAME_FORM


def _broken_segments(request: ChatRequest) -> Iterator[tuple[str, str]]:
    if request.segments and not request.stream:
        yield "segments", "needs stream: true"
    if request.segments and request.response_schema is not None:
        yield "segments", "must not be asked for together with response_schema"
    if request.segment_tags and not request.segments:
        yield "segment_tags", "needs segments: true"


def _wrong_lengths(request: ChatRequest) -> Iterator[tuple[str, str]]:
    for name, most in LENGTHS.items():
        if len(getattr(request, name) or "") > most:
            yield name, f"must be at most {most} long"
    if request.user == "":
        # An empty name is a slip of the application's: nobody's limit would hold.
        yield "user", "must not be empty"


def _named(broken: Iterator[tuple[str, list[str]]]) -> Errors:
    """The first of the broken entries, by index."""
    return dict(itertools.islice(broken, ERRORS_MAX))


def _first(entries: Sequence[Any] | None, most: int) -> Iterator[Any]:
    """Those that are looked at: a list that is too long is refused for that alone."""
    return itertools.islice(entries or (), most)


def _broken_texts(texts: Iterator[str]) -> Iterator[tuple[str, list[str]]]:
    return ((str(index), [UNWRITABLE]) for index, text in enumerate(texts) if not is_writable(text))


def _broken_images(urls: Iterator[Any]) -> Iterator[tuple[str, list[str]]]:
    for index, url in enumerate(urls):
        if not _is_image(url):
            yield str(index), [IMAGE_FORMS]
        elif not is_writable(url):
            yield str(index), [UNWRITABLE]


def _broken_tags(tags: Iterator[Any]) -> Iterator[tuple[str, list[str]]]:
    for index, tag in enumerate(tags):
        if not isinstance(tag, str) or not SEGMENT_TAG.fullmatch(tag):
            yield str(index), [SEGMENT_TAG_FORM]
        elif not is_writable(tag):
            yield str(index), [UNWRITABLE]


def _is_image(url: Any) -> bool:
    if not isinstance(url, str):
        return False
    limit = IMAGE_DATA_MAX_LENGTH if url.startswith("data:") else IMAGE_URL_MAX_LENGTH
    return len(url) <= limit and IMAGE_URL.fullmatch(url) is not None


def _is_json(value: Any) -> bool:
    try:
        json.dumps(value, allow_nan=False, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return False
    return True


def _what_is_wrong_with_schema(schema: Any) -> str | None:
    if not _is_shallow(schema):
        return f"must have at most {SCHEMA_DEPTH_MAX} levels and {SCHEMA_VALUES_MAX} values"
    return None if _is_json(schema) else "must be JSON without NaN, Infinity or lone surrogates"


def _is_shallow(value: Any) -> bool:
    """Whether a value is nested no deeper, and has no more members, than the server can write again."""
    level, seen = [value], 0
    for _ in range(SCHEMA_DEPTH_MAX + 1):
        level = [child for parent in level for child in _children(parent)]
        seen += len(level)
        if not level or seen > SCHEMA_VALUES_MAX:
            break
    return not level


def _children(value: Any) -> Iterable[Any]:
    if isinstance(value, Mapping):
        return value.values()
    return value if isinstance(value, list | tuple) else ()
