"""The dialect of the Responses API: the request body we send, the finished answer and the events we accept.

Source: the OpenAI API reference, "Responses"; servers that leave fields out of their answers are understood too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from app.json_bytes import dump_json, well_formed
from app.models import Completion, Generation, Message
from app.upstreams import written
from app.upstreams.errors import bad_response, failed_response, no_text
from app.upstreams.json import (
    finish_reason,
    number_or_none,
    read_json,
    string_or_none,
)
from app.upstreams.parameters import NONE, fitting_messages
from app.upstreams.sse import END, LAST_EVENTS, StreamEvent, read_document
from app.upstreams.usage import read_usage as read_usage
from app.upstreams.usage import told_tier

PATH = "/responses"
HEADERS: Mapping[str, str] = {}
TEXT_EVENTS = frozenset({"response.output_text.delta", "response.refusal.delta"})


def request_body(generation: Generation, *, stream: bool = False, without: frozenset[str] = NONE) -> bytes:
    """The JSON body of `POST /responses`, to the byte. What is empty is left out.

    `without`: see app/upstreams/parameters.py. `instructions` are in the system message, too.
    """
    body: dict[str, Any] = {"model": generation.model, "input": _input(generation, without)}
    if generation.instructions and "system" not in without:
        body["instructions"] = generation.instructions
    if generation.sends_temperature(without):
        body["temperature"] = generation.temperature
    body["max_output_tokens"] = generation.max_tokens
    if "store" not in without:
        body["store"] = False
    if generation.response_schema is not None:
        body["text"] = {"format": {"type": "json_schema", "name": "response", "schema": generation.response_schema}}
    if stream:
        body["stream"] = True
    return dump_json(body)


def parse_completion(raw: bytes) -> Completion:
    """Read a finished answer.

    Raises OpenAIClientException: `upstream_failed` for status `failed`, `upstream_bad_response` for anything that is
    not an answer with usable text.
    """
    return _completion(read_json(raw))


def read_event(data: bytes) -> StreamEvent:
    """Say what one event means; raises `upstream_bad_response` for what is none of this API."""
    event = read_document(data)
    if event is None:
        return END
    kind, delta = string_or_none(event.get("type")), event.get("delta")
    if kind in TEXT_EVENTS and isinstance(delta, str) and "usage" not in event:
        # So is nearly every event of a stream.
        return StreamEvent(text=delta, written=delta, document=event)
    response = event.get("response")
    told = response if isinstance(response, dict) else event
    return StreamEvent(
        text=delta if isinstance(delta, str) and kind in TEXT_EVENTS else "",
        written=written.in_event(event),
        usage=read_usage(told),
        model=string_or_none(told.get("model")),
        document=event,
        is_end=kind in LAST_EVENTS or (kind is None and bool(event.get("error"))),
        service_tier=told_tier(told),
    )


class CompletionReader:
    """Reads the finished answer from the last event of a stream; what that lacks the events before have told."""

    def __init__(self) -> None:
        self._response: dict[str, Any] = {}
        self._text: list[str] = []
        self._was_refused = False

    def add(self, event: StreamEvent) -> str:
        """Give the piece of text in an event; raises `upstream_failed` for `error` and `response.failed`."""
        kind, response = event.document.get("type"), event.document.get("response")
        if kind == "response.failed":
            raise failed_response(response.get("error") if isinstance(response, dict) else None)
        if kind == "error" or (kind is None and "error" in event.document):
            raise failed_response(event.document.get("error") or event.document)
        if isinstance(response, dict):
            self._response |= {name: value for name, value in response.items() if value is not None}
        if kind == "response.incomplete":
            self._response["status"] = "incomplete"
        self._text.append(event.text)
        self._was_refused = self._was_refused or kind == "response.refusal.delta"
        return event.text

    def completion(self) -> Completion:
        """The finished answer, after an end that whole_stream has accepted; raises as parse_completion does."""
        text = "".join(self._text)
        if text and not any(map(_text, _content_parts(self._response.get("output")))):
            part = {"type": "refusal", "refusal": text} if self._was_refused else {"type": "output_text", "text": text}
            self._response["output"] = [{"type": "message", "content": [part]}]
        return _completion(self._response)


def _input(generation: Generation, without: frozenset[str]) -> list[Any]:
    *before, user = [_item(message) for message in fitting_messages(generation, without)]
    if not generation.images:
        return [*before, user]
    parts = [{"type": "input_text", "text": user["content"]}]
    parts += [{"type": "input_image", "image_url": url} for url in generation.images]
    return [*before, {"role": user["role"], "content": parts}]


def _item(message: Message) -> dict[str, str]:
    """A message as an input item. llama.cpp takes past answers only with their type, which OpenAI leaves optional."""
    return {"type": "message", **message} if message["role"] == "assistant" else message


def _completion(document: Any) -> Completion:
    if not isinstance(document, dict):
        raise bad_response()
    if document.get("status") in ("failed", "cancelled") or document.get("error"):
        raise failed_response(document.get("error"))
    parts = list(_content_parts(document.get("output")))
    text = "".join(_text(part) for part in parts)
    reason = _finish_reason(document, parts)
    if not text:
        raise no_text(reason)
    return Completion(
        id=string_or_none(document.get("id")),
        model=string_or_none(document.get("model")),
        output_text=text,
        finish_reason=reason,
        usage=read_usage(document),
        output_format=_output_format(document.get("text")),
        created_at=number_or_none(document.get("created_at")),
        temperature=number_or_none(document.get("temperature")),
    )


def _content_parts(output: Any) -> Iterator[Mapping[str, Any]]:
    """The content parts of every message in `output`; items of other types are not the answer's text."""
    if not isinstance(output, list):
        return
    for item in output:
        content = item.get("content") if isinstance(item, dict) and item.get("type") == "message" else None
        if isinstance(content, str):
            yield {"type": "output_text", "text": content}
        elif isinstance(content, list):
            yield from (part for part in content if isinstance(part, dict))


def _text(part: Mapping[str, Any]) -> str:
    """A part's text; a model's refusal is its answer too."""
    value = part.get("refusal") if part.get("type") == "refusal" else part.get("text")
    return well_formed(value) if isinstance(value, str) else ""


def _finish_reason(document: Mapping[str, Any], parts: Sequence[Mapping[str, Any]]) -> str:
    if any(part.get("type") == "refusal" for part in parts):
        return "content_filter"
    if document.get("status") != "incomplete":
        return "stop"
    details = document.get("incomplete_details")
    reason = details.get("reason") if isinstance(details, dict) else None
    return "content_filter" if finish_reason(string_or_none(reason)) == "content_filter" else "length"


def _output_format(text: Any) -> str:
    kind = text.get("format") if isinstance(text, dict) else None
    return (string_or_none(kind.get("type")) if isinstance(kind, dict) else None) or "text"
