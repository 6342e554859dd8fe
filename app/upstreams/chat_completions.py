"""The dialect of the Chat Completions API, which upstreams speak that do not know the Responses API.

Extra instructions have no field of their own here; they are in the system message already. Source: OpenAI's API
reference, "Chat Completions".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.json_bytes import dump_json, well_formed
from app.models import Completion, Generation
from app.upstreams import written
from app.upstreams.errors import bad_response, failed_response, no_text
from app.upstreams.json import (
    content_text,
    finish_reason,
    number_or_none,
    read_json,
    string_or_none,
)
from app.upstreams.parameters import NONE, fitting_messages
from app.upstreams.sse import END, StreamEvent, read_document
from app.upstreams.usage import read_usage as read_usage
from app.upstreams.usage import told_tier

PATH = "/chat/completions"
HEADERS: Mapping[str, str] = {}
KEPT = ("id", "model", "created", "usage", "x_groq", "service_tier")
"""What a chunk may say of the whole answer."""
FAILURES = {"error", "abort", "aborted", "cancelled", "insufficient_system_resource"}
"""Finish reasons of answers that upstream gave up (OpenRouter, vLLM, DeepSeek)."""


def request_body(generation: Generation, *, stream: bool = False, without: frozenset[str] = NONE) -> bytes:
    """The JSON body of `POST /chat/completions`, to the byte; `without`: see app/upstreams/parameters.py."""
    body: dict[str, Any] = {"model": generation.model, "messages": _messages(generation, without)}
    if generation.sends_temperature(without):
        body["temperature"] = generation.temperature
    body["max_completion_tokens" if "max_tokens" in without else "max_tokens"] = generation.max_tokens
    if generation.response_schema is not None:
        schema = {"name": "response", "schema": generation.response_schema}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    if stream:
        body["stream"] = True
    if stream and "stream_options" not in without:
        body["stream_options"] = {"include_usage": True}
    return dump_json(body)


def parse_completion(raw: bytes) -> Completion:
    """Read a finished answer; raises `upstream_bad_response` for one without usable text."""
    document = read_json(raw)
    if not isinstance(document, dict):
        raise bad_response()
    if (error := _error(document, _choices(document))) is not None:
        raise failed_response(error)
    message = _first_choice(document).get("message")
    if not isinstance(message, dict):
        raise bad_response()
    refusal = content_text(message.get("refusal"))
    return _completion(document, refusal or content_text(message.get("content")), is_refusal=bool(refusal))


def read_event(data: bytes) -> StreamEvent:
    """Say what one chunk means; raises `upstream_bad_response` for what is none of this API."""
    chunk = read_document(data)
    if chunk is None:
        return END
    choices = _choices(chunk)
    return StreamEvent(
        text=_piece(choices[0]) if choices else "",
        written=written.in_chunk(chunk),
        usage=read_usage(chunk),
        model=string_or_none(chunk.get("model")),
        document=chunk,
        is_end=_error(chunk, choices) is not None,
        choices=tuple([(_index(choice), _finish_reason(choice) is not None) for choice in choices]),
        service_tier=told_tier(chunk),
    )


class CompletionReader:
    """Joins the chunks of a stream to the finished answer that they never send whole."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._document: dict[str, Any] = {}

    def add(self, event: StreamEvent) -> str:
        """Give the piece of text in a chunk; raises `upstream_failed` for one that tells an error."""
        chunk = event.document
        if (error := _error(chunk, _choices(chunk))) is not None:
            raise failed_response(error)
        self._document |= {name: chunk[name] for name in KEPT if chunk.get(name)}
        if _finish_reason(_first_choice(chunk)):
            self._document["choices"] = chunk["choices"]
        self._text.append(event.text)
        return event.text

    def completion(self) -> Completion:
        """The finished answer, after an end that whole_stream has accepted; raises as parse_completion does."""
        return _completion(self._document, "".join(self._text))


def _completion(document: Mapping[str, Any], text: str, *, is_refusal: bool = False) -> Completion:
    reason = "content_filter" if is_refusal else finish_reason(_finish_reason(_first_choice(document)))
    if not text:
        raise no_text(reason)
    return Completion(
        id=string_or_none(document.get("id")),
        model=string_or_none(document.get("model")),
        output_text=well_formed(text),
        finish_reason=reason,
        usage=read_usage(document),
        output_format="text",
        created_at=number_or_none(document.get("created")),
        temperature=None,
    )


def _messages(generation: Generation, without: frozenset[str]) -> list[Any]:
    *before, user = fitting_messages(generation, without)
    if not generation.images:
        return [*before, user]
    parts: list[dict[str, Any]] = [{"type": "text", "text": user["content"]}]
    parts += [{"type": "image_url", "image_url": {"url": url}} for url in generation.images]
    return [*before, {"role": user["role"], "content": parts}]


def _choices(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    choices = document.get("choices")
    return [choice for choice in choices if isinstance(choice, dict)] if isinstance(choices, list) else []


def _first_choice(document: Mapping[str, Any]) -> dict[str, Any]:
    return next(iter(_choices(document)), {})


def _index(choice: Mapping[str, Any]) -> int:
    index = choice.get("index")
    return index if isinstance(index, int) else 0


def _finish_reason(choice: Mapping[str, Any]) -> str | None:
    reason = choice.get("finish_reason")
    return reason if isinstance(reason, str) and reason else None


def _error(document: Mapping[str, Any], choices: Sequence[Mapping[str, Any]]) -> Any:
    """What an answer or a chunk with these choices tells of a failure; None when it tells of none."""
    if document.get("error") or document.get("type") == "error":
        return document.get("error") or document
    for choice in choices:
        reason = _finish_reason(choice)
        if choice.get("error") or (reason is not None and reason.lower() in FAILURES):
            return choice.get("error") or {}
    return None


def _piece(choice: Mapping[str, Any]) -> str:
    """The text of a choice in a chunk; a model's refusal is its answer too."""
    delta = choice.get("delta")
    return content_text(delta.get("content")) or content_text(delta.get("refusal")) if isinstance(delta, dict) else ""
