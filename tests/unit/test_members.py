"""Answers in which a member has another type than the API's reference says: read or refused, never a bug of ours."""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator
from typing import Any

import pytest

from app.errors import ServiceException
from app.services.passed_request import LIMITS, read_request
from app.upstreams.dialects import DIALECTS
from app.upstreams.parameters import refused_parameter
from app.upstreams.refusals import read_refusal
from tests.upstream import response_document

OTHERS: tuple[Any, ...] = (None, True, -1, 1.5, 10**30, "", "x", [], {}, [1], [[]], [{}], {"type": []}, {"a": {}})
USAGE = {"input_tokens": 1, "output_tokens_details": {"reasoning_tokens": 1}}
RESPONSE = response_document("hi", error=None, incomplete_details={"reason": "max_output_tokens"})
COMPLETION = {
    "id": "chatcmpl-1",
    "choices": [
        {
            "index": 0,
            "message": {"content": [{"type": "text", "text": "hi"}]},
            "delta": {"content": "hi"},
            "finish_reason": "stop",
        }
    ],
    "usage": {"prompt_tokens": 1, "prompt_tokens_details": {"cached_tokens": 1}},
    "x_groq": {"usage": USAGE},
}
EVENT = {"type": "response.output_text.delta", "delta": "hi", "response": RESPONSE | {"usage": USAGE}}
MESSAGE = {
    "type": "message",
    "id": "msg_1",
    "model": "m",
    "content": [{"type": "text", "text": "hi"}],
    "stop_reason": "end_turn",
    "usage": {
        "input_tokens": 1,
        "cache_creation_input_tokens": 1,
        "cache_creation": {"ephemeral_1h_input_tokens": 1},
        "output_tokens": 1,
        "output_tokens_details": {"thinking_tokens": 1},
        "server_tool_use": {"web_search_requests": 1},
        "iterations": [{"type": "message"}],
        "service_tier": "standard",
    },
}
STARTED = {"type": "message_start", "message": MESSAGE, "delta": {"type": "text_delta", "text": "hi"}}
REFUSAL = {
    "error": {"message": "m", "type": "t", "param": "p", "code": "c", "details": [{"reason": "r", "retryDelay": "3s"}]},
    "detail": [{"loc": ["body", "x"], "msg": "m"}],
}


def altered(value: Any) -> Iterator[Any]:
    """The value with each member of it, at any depth, in turn replaced by a value of each other type."""
    yield from OTHERS
    members = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, member in members:
        for other in altered(member):
            copied = copy.copy(value)
            copied[name] = other
            yield copied


@pytest.mark.parametrize("document", [RESPONSE, COMPLETION, EVENT, MESSAGE, STARTED])
@pytest.mark.parametrize("api", DIALECTS)
def test_an_answer_is_read_or_refused(api: str, document: dict[str, Any]) -> None:
    """As a whole, and as the only event of a stream."""
    dialect = DIALECTS[api]
    for odd in altered(document):
        raw = json.dumps(odd).encode()
        with contextlib.suppress(ServiceException):
            dialect.parse_completion(raw)
        with contextlib.suppress(ServiceException):
            reader = dialect.CompletionReader()
            reader.add(dialect.read_event(raw))
            reader.completion()


def test_a_refusal_is_read() -> None:
    """Whatever its shape, something is left to tell."""
    for odd in altered(REFUSAL):
        raw = json.dumps(odd).encode()
        read_refusal(raw).scrubbed("sk-secret-secret")
        refused_parameter(400, raw)


REQUEST = {
    "model": "m",
    "stream": False,
    "n": 1,
    "max_tokens": 5,
    "service_tier": "auto",
    "stream_options": {"include_usage": True},
    "tools": [{"type": "function", "function": {"name": "f"}}],
    "messages": [
        {
            "role": "user",
            "content": [
                {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
                {"type": "input_audio", "input_audio": {"data": "AAAA"}},
                {"type": "text", "text": "hi"},
            ],
        }
    ],
    "input": [{"type": "input_image", "image_url": "data:image/png;base64,AAAA"}],
    "previous_response_id": "resp_1",
    "system": [{"type": "document", "source": {"type": "text", "data": "x"}, "cache_control": {"ttl": "1h"}}],
    "context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]},
    "speed": "standard",
    "prompt": [[1, 2], [3]],
}


@pytest.mark.parametrize("path", LIMITS)
def test_a_request_is_read_or_refused(path: str) -> None:
    """Whatever type a member has, and however deep it lies."""
    for odd in altered(REQUEST):
        with contextlib.suppress(ServiceException):
            request = read_request(path, json.dumps(odd).encode())
            assert request.ask.prompt_tokens >= 1 or request.ask.is_free
            assert request.hides_usage in {True, False}
