"""The Chat Completions API on the wire, for an upstream that knows only that one.

It offers what app/upstreams/responses.py does. Extra instructions have no field of their own here; they are in the
system message already. Source: the OpenAI API reference, "Chat Completions".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from app.models import Generation, UpstreamResponse
from app.upstreams.errors import bad_response, failed_response
from app.upstreams.json import dump_json, load_json, number, string, usage, well_formed

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


def parse_response(raw: bytes) -> UpstreamResponse:
    """Read a finished answer; raises `upstream_bad_response` for one without usable text."""
    document = load_json(raw)
    if not isinstance(document, dict):
        raise bad_response()
    if document.get("error"):
        raise failed_response(document["error"])
    choice = _first_choice(document)
    message = choice.get("message")
    if not isinstance(message, dict):
        raise bad_response()
    refusal = string(message.get("refusal"))
    text = refusal or string(message.get("content"))
    if not text:
        raise bad_response("The AI service answered without any text")
    finish_reason = "content_filter" if refusal else FINISH_REASONS.get(str(choice.get("finish_reason")), "stop")
    return UpstreamResponse(
        id=string(document.get("id")),
        model=string(document.get("model")),
        output_text=text,
        finish_reason=finish_reason,
        usage=usage(document.get("usage")),
        output_format="text",
        created_at=number(document.get("created")),
        temperature=None,
        raw=raw,
    )


class EventReader:
    """Joins the chunks of a stream to the finished answer that they never send whole."""

    def __init__(self) -> None:
        self._text: list[str] = []
        self._document: dict[str, Any] = {"choices": [{"index": 0}]}

    def read(self, data: bytes) -> str | UpstreamResponse | None:
        """Read one chunk: a piece of text, the finished answer at `[DONE]`, or None."""
        if data.strip() == b"[DONE]":
            return self._finished()
        chunk = load_json(data)
        if not isinstance(chunk, dict):
            raise bad_response()
        if chunk.get("error"):
            raise failed_response(chunk["error"])
        for name in ("id", "model", "created", "usage"):
            if chunk.get(name):
                self._document[name] = chunk[name]
        choice = _first_choice(chunk)
        if choice.get("finish_reason"):
            self._document["choices"][0]["finish_reason"] = choice["finish_reason"]
        delta = choice.get("delta")
        text = (delta.get("content") or delta.get("refusal")) if isinstance(delta, dict) else None
        if not isinstance(text, str):
            return None
        self._text.append(text)
        return text

    def _finished(self) -> UpstreamResponse:
        """Only a stream that named its finish reason is finished: `[DONE]` alone may follow a failure."""
        choice = self._document["choices"][0]
        if "finish_reason" not in choice:
            raise bad_response()
        choice["message"] = {"role": "assistant", "content": well_formed("".join(self._text))}
        return parse_response(dump_json(self._document))


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
