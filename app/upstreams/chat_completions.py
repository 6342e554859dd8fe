"""The dialect of the Chat Completions API, which upstreams speak that do not know the Responses API.

Extra instructions have no field of their own here; they are in the
system message already. Source: the OpenAI API reference, "Chat Completions".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.models import Completion, Generation
from app.upstreams import written
from app.upstreams.errors import bad_response, failed_response
from app.upstreams.json import dump_json, load_json, number_or_none, string_or_none, well_formed
from app.upstreams.sse import StreamEvent
from app.upstreams.usage import read_usage

PATH = "/chat/completions"
FINISH_REASONS = {"length": "length", "content_filter": "content_filter"}


def request_body(generation: Generation, *, stream: bool = False) -> bytes:
    """The JSON body of `POST /chat/completions`, to the byte."""
    body: dict[str, Any] = {
        "model": generation.model,
        "messages": _messages(generation),
        "temperature": generation.temperature,
        "max_tokens": generation.max_tokens,
    }
    if generation.response_schema is not None:
        schema = {"name": "response", "schema": generation.response_schema}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return dump_json(body)


def parse_completion(raw: bytes) -> Completion:
    """Read a finished answer; raises `upstream_bad_response` for one without usable text."""
    document = load_json(raw)
    if not isinstance(document, dict):
        raise bad_response()
    if document.get("error"):
        raise failed_response(document["error"])
    message = _first_choice(document).get("message")
    if not isinstance(message, dict):
        raise bad_response()
    refusal = string_or_none(message.get("refusal"))
    return _completion(document, refusal or string_or_none(message.get("content")), is_refusal=bool(refusal))


def read_event(data: bytes) -> StreamEvent:
    """Say what one chunk means; raises `upstream_bad_response` for what is none of this API."""
    if data.strip() == b"[DONE]":
        return StreamEvent(is_end=True)
    chunk = load_json(data)
    if not isinstance(chunk, dict):
        raise bad_response()
    delta = _first_choice(chunk).get("delta")
    text = (delta.get("content") or delta.get("refusal")) if isinstance(delta, dict) else None
    return StreamEvent(
        text=text if isinstance(text, str) else "",
        written=written.in_chunk(chunk),
        usage=read_usage(chunk),
        model=string_or_none(chunk.get("model")),
        document=chunk,
        is_end=bool(chunk.get("error")) or chunk.get("type") == "error",
    )


class CompletionReader:
    """Joins the chunks of a stream to the finished answer that they never send whole."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._document: dict[str, Any] = {}

    def add(self, event: StreamEvent) -> str:
        """Give the piece of text in a chunk; raises `upstream_failed` for one that tells an error."""
        chunk = event.document
        if chunk.get("error"):
            raise failed_response(chunk["error"])
        self._document |= {
            name: chunk[name]
            for name in ("id", "model", "created", "usage", "x_groq", "service_tier")
            if chunk.get(name)
        }
        if _first_choice(chunk).get("finish_reason"):
            self._document["choices"] = chunk["choices"]
        self._text.append(event.text)
        return event.text

    def completion(self) -> Completion:
        """The finished answer. Only a stream that named its finish reason is one: `[DONE]` may follow a failure."""
        if "choices" not in self._document:
            raise bad_response()
        return _completion(self._document, well_formed("".join(self._text)))


def _completion(document: Mapping[str, Any], text: str | None, *, is_refusal: bool = False) -> Completion:
    if not text:
        raise bad_response("The AI service answered without any text")
    reason = str(_first_choice(document).get("finish_reason"))
    return Completion(
        id=string_or_none(document.get("id")),
        model=string_or_none(document.get("model")),
        output_text=text,
        finish_reason="content_filter" if is_refusal else FINISH_REASONS.get(reason, "stop"),
        usage=read_usage(document),
        output_format="text",
        created_at=number_or_none(document.get("created")),
        temperature=None,
    )


def _messages(generation: Generation) -> list[Any]:
    *before, user = generation.messages
    if not generation.images:
        return [*before, user]
    parts: list[dict[str, Any]] = [{"type": "text", "text": user["content"]}]
    parts += [{"type": "image_url", "image_url": {"url": url}} for url in generation.images]
    return [*before, {"role": user["role"], "content": parts}]


def _first_choice(document: Mapping[str, Any]) -> dict[str, Any]:
    choices = document.get("choices")
    return choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
