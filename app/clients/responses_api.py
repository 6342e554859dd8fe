"""The Responses API on the wire: the request body we send and the finished answer we accept.

Source: the OpenAI API reference, "Responses"; servers that leave fields out of their answers are understood too.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from app.clients.upstream_errors import bad_response, failed_response
from app.models import Message, UpstreamResponse, Usage


def request_body(
    messages: Sequence[Message], *, model: str, instructions: str, max_tokens: int, temperature: float
) -> bytes:
    """The JSON body of `POST /responses`, to the byte. Empty instructions are left out."""
    body: dict[str, Any] = {"model": model, "input": [_item(message) for message in messages]}
    if instructions:
        body["instructions"] = instructions
    body |= {"temperature": temperature, "max_output_tokens": max_tokens, "store": False}
    return json.dumps(body, ensure_ascii=False, separators=(",", ":")).encode()


def _item(message: Message) -> dict[str, str]:
    """A message as an input item. llama.cpp takes past answers only with their type, which OpenAI leaves optional."""
    return {"type": "message", **message} if message["role"] == "assistant" else message


def parse_response(raw: bytes) -> UpstreamResponse:
    """Read a finished answer.

    Raises OpenAIClientException: `upstream_failed` for status `failed`, `upstream_bad_response` for anything that is
    not an answer with usable text.
    """
    document = load_json(raw)
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
        id=_string(document.get("id")),
        model=_string(document.get("model")),
        output_text=text,
        finish_reason=_finish_reason(document, parts),
        usage=_usage(document.get("usage")),
        output_format=_output_format(document.get("text")),
        created_at=_number(document.get("created_at")),
        temperature=_number(document.get("temperature")),
        raw=raw,
    )


def load_json(raw: bytes) -> Any:
    """Parse JSON from upstream; whatever makes Python's parser fail is `upstream_bad_response`."""
    try:
        return json.loads(raw.decode())
    except (ValueError, RecursionError):
        raise bad_response() from None


def well_formed(text: str) -> str:
    """Join surrogate pairs and replace lone surrogates, which no UTF-8 log, socket or database can carry."""
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


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


def _usage(usage: Any) -> Usage:
    if not isinstance(usage, dict):
        return Usage()
    sent, written = _count(usage.get("input_tokens")), _count(usage.get("output_tokens"))
    return Usage(sent, written, _count(usage.get("total_tokens")) or sent + written)


def _output_format(text: Any) -> str:
    kind = text.get("format") if isinstance(text, dict) else None
    return (_string(kind.get("type")) if isinstance(kind, dict) else None) or "text"


def _count(value: Any) -> int:
    return value if type(value) is int and 0 <= value < 2**53 else 0


def _number(value: Any) -> float | None:
    return value if type(value) in {int, float} and abs(value) < 2**53 and math.isfinite(value) else None


def _string(value: Any) -> str | None:
    return well_formed(value) if isinstance(value, str) else None
