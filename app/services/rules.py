"""The rules a chat request must keep, one table for the API and for plain Python alike."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import fields
from typing import Any

from app.errors import ERRORS_MAX
from app.models import (
    MAX_TOKENS_LIMIT,
    MODEL_MAX_LENGTH,
    SESSION_ID_MAX_LENGTH,
    TEMPERATURE_MAX,
    ChatRequest,
)
from app.services.keys import MALFORMED_KEY, is_well_formed
from app.services.prompt import parse_turn

TURN_FORMS = 'must be "user: text", "assistant: text" or {"role": …, "content": …}'
UNWRITABLE = "must not contain NUL or lone surrogates"


def broken_rules(request: ChatRequest) -> dict[str, Any]:
    """Every broken rule by field name: a list of messages, or for lists a mapping of index to such a list."""
    errors: dict[str, Any] = {}
    for name, message in _broken(request):
        errors.setdefault(name, []).append(message)
    for name in ("conversation_history", "memory_context"):
        by_index = dict(itertools.islice(_broken_items(name, getattr(request, name) or ()), ERRORS_MAX))
        if by_index:
            errors[name] = by_index
    return errors


def _broken(request: ChatRequest) -> Iterator[tuple[str, str]]:
    if not isinstance(request.user_message, str) or not request.user_message.strip():
        yield "user_message", "must not be blank"
    if len(request.session_id or "") > SESSION_ID_MAX_LENGTH:
        yield "session_id", f"must be at most {SESSION_ID_MAX_LENGTH} characters"
    if len(request.model or "") > MODEL_MAX_LENGTH:
        yield "model", f"must be at most {MODEL_MAX_LENGTH} characters"
    if request.max_tokens is not None and not 0 < request.max_tokens <= MAX_TOKENS_LIMIT:
        yield "max_tokens", f"must be from 1 to {MAX_TOKENS_LIMIT}"
    if request.temperature is not None and not _within(request.temperature, TEMPERATURE_MAX):
        yield "temperature", f"must be from 0 to {TEMPERATURE_MAX:g}"
    if request.openai_api_key and not is_well_formed(request.openai_api_key):
        yield "openai_api_key", MALFORMED_KEY
    for item in fields(request):
        if not is_writable(getattr(request, item.name)):
            yield item.name, UNWRITABLE


def _broken_items(name: str, items: Any) -> Iterator[tuple[str, list[str]]]:
    for index, item in enumerate(items):
        if name == "conversation_history" and parse_turn(item) is None:
            yield str(index), [TURN_FORMS]
        elif not is_writable(item.get("content") if isinstance(item, Mapping) else item):
            yield str(index), [UNWRITABLE]


def _within(value: float, high: float) -> bool:
    return math.isfinite(value) and 0 <= value <= high


def is_writable(value: Any) -> bool:
    """False for text that UTF-8 logs and databases cannot hold."""
    if not isinstance(value, str):
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return "\x00" not in value
