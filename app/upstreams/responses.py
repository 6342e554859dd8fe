"""The Responses API on the wire: the request body we send, the finished answer and the events we accept.

Source: the OpenAI API reference, "Responses"; servers that leave fields out of their answers are understood too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from app.models import Generation, Message, UpstreamResponse
from app.upstreams.errors import bad_response, failed_response
from app.upstreams.json import dump_json, load_json, number, string, usage, well_formed

PATH = "/responses"


def request_body(generation: Generation, *, stream: bool = False) -> bytes:
    """The JSON body of `POST /responses`, to the byte. What is empty is left out."""
    body: dict[str, Any] = {"model": generation.model, "input": _input(generation)}
    if generation.instructions:
        body["instructions"] = generation.instructions
    body |= {"temperature": generation.temperature, "max_output_tokens": generation.max_tokens, "store": False}
    if generation.response_schema is not None:
        body["text"] = {"format": {"type": "json_schema", "name": "response", "schema": generation.response_schema}}
    if stream:
        body["stream"] = True
    return dump_json(body)


def _item(message: Message) -> dict[str, str]:
    """A message as an input item. llama.cpp takes past answers only with their type, which OpenAI leaves optional."""
    return {"type": "message", **message} if message["role"] == "assistant" else message


def parse_response(raw: bytes) -> UpstreamResponse:
    """Read a finished answer.

    Raises OpenAIClientException: `upstream_failed` for status `failed`, `upstream_bad_response` for anything that is
    not an answer with usable text.
    """
    return _response(load_json(raw), raw)


class EventReader:
    """Reads the events of a stream."""

    def read(self, data: bytes) -> str | UpstreamResponse | None:
        """Read one event: a piece of text, the finished answer, or None for what we need not know.

        Raises as parse_response does, also for the events `error` and `response.failed`.
        """
        event = load_json(data)
        if not isinstance(event, dict):
            raise bad_response()
        kind, document = event.get("type"), event.get("response")
        if kind in {"response.output_text.delta", "response.refusal.delta"}:
            return event["delta"] if isinstance(event.get("delta"), str) else None
        if kind in {"response.completed", "response.incomplete"}:
            return _response(document, dump_json(document))
        if kind == "response.failed":
            raise failed_response(document.get("error") if isinstance(document, dict) else None)
        if kind == "error" or (kind is None and "error" in event):
            raise failed_response(event.get("error") or event)
        return None


def _input(generation: Generation) -> list[Any]:
    *before, user = [_item(message) for message in generation.messages]
    if not generation.images:
        return [*before, user]
    parts = [{"type": "input_text", "text": user["content"]}]
    parts += [{"type": "input_image", "image_url": url} for url in generation.images]
    return [*before, {"role": user["role"], "content": parts}]


def _response(document: Any, raw: bytes) -> UpstreamResponse:
    if not isinstance(document, dict):
        raise bad_response()
    status = document.get("status", "completed")
    if status in {"failed", "cancelled"} or document.get("error"):
        raise failed_response(document.get("error"))
    parts = list(_content_parts(document.get("output")))
    text = "".join(_text(part) for part in parts)
    if not text:
        raise bad_response("The AI service answered without any text")
    return UpstreamResponse(
        id=string(document.get("id")),
        model=string(document.get("model")),
        output_text=text,
        finish_reason=_finish_reason(document, parts),
        usage=usage(document.get("usage")),
        output_format=_output_format(document.get("text")),
        created_at=number(document.get("created_at")),
        temperature=number(document.get("temperature")),
        raw=raw,
    )


def _content_parts(output: Any) -> Iterator[Mapping[str, Any]]:
    """The content parts of every message in `output`; items of other types are not the answer's text."""
    if not isinstance(output, list):
        raise bad_response()
    for item in output:
        if isinstance(item, dict) and item.get("type") == "message" and isinstance(item.get("content"), list):
            yield from (part for part in item["content"] if isinstance(part, dict))


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
    return "content_filter" if reason == "content_filter" else "length"


def _output_format(text: Any) -> str:
    kind = text.get("format") if isinstance(text, dict) else None
    return (string(kind.get("type")) if isinstance(kind, dict) else None) or "text"
