"""An upstream that answers as OpenAI does, whatever a client asks: text, tool calls, JSON by a schema, embeddings.

Every form is written out in full, because clients differ in what they look at. A request whose tools were not all
called yet is answered with a call of the next one; then, and without tools, with `ANSWER` or with JSON that follows the
schema.
"""

from __future__ import annotations

import asyncio
import base64
import json
import struct
from collections.abc import Iterable, Iterator
from typing import Any

from tests.streams import event, stream, typed
from tests.upstream import Answer, Received, Upstream, error_document, reply

MODEL = "gpt-4o-mini"
ANSWER = "The capital of France is Paris."
TOO_LONG = "too long"
BREAK_OFF = "break off"
TOO_LONG_ERROR = error_document(
    "context_length_exceeded",
    type="invalid_request_error",
    param="messages",
    message="This model's maximum context length is 128000 tokens. However, your messages resulted in 130000 tokens.",
)
PIECE = 8
CREATED = 1_700_000_000
EXAMPLES: dict[str, Any] = {"string": "Paris", "integer": 3, "number": 0.5, "boolean": True, "array": [], "null": None}
VECTOR = [0.25, -0.5, 1.0]
CHAT_USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
RESPONSES_USAGE = {
    "input_tokens": 11,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": 7,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 18,
}
LISTED_MODEL = {"id": MODEL, "object": "model", "created": CREATED, "owned_by": "openai"}


def _pieces(text: str) -> list[str]:
    return [text[begin : begin + PIECE] for begin in range(0, len(text), PIECE)]


PIECES = _pieces(ANSWER)


class OpenAIUpstream(Upstream):
    """Refuses a request with the words `TOO_LONG` as longer than its context, and cuts a stream with `BREAK_OFF`."""

    def __init__(self) -> None:
        super().__init__()
        self.default = _answer


async def _answer(received: Received, writer: asyncio.StreamWriter) -> None:
    await _chosen(received)(received, writer)


def _chosen(received: Received) -> Answer:
    if TOO_LONG.encode() in received.body:
        return reply(400, TOO_LONG_ERROR)
    if received.path.startswith("/v1/models"):
        single = received.path != "/v1/models"
        return reply(200, LISTED_MODEL if single else {"object": "list", "data": [LISTED_MODEL]})
    if received.path == "/v1/embeddings":
        return reply(200, _embeddings(received.json))
    if received.path == "/v1/responses":
        return _responses(received.json)
    return _chat_completions(received.json)


def _stream(events: Iterable[bytes], asked: dict[str, Any]) -> Answer:
    """The events; without their last five where `BREAK_OFF` was asked for."""
    is_cut = BREAK_OFF in json.dumps(asked)
    return stream(list(events)[:-5] if is_cut else events)


def _embeddings(asked: dict[str, Any]) -> dict[str, Any]:
    packed = base64.b64encode(struct.pack(f"<{len(VECTOR)}f", *VECTOR)).decode()
    vector = packed if asked.get("encoding_format") == "base64" else VECTOR
    inputs = [asked["input"]] if isinstance(asked["input"], str) else asked["input"]
    data = [{"object": "embedding", "index": place, "embedding": vector} for place in range(len(inputs))]
    return {"object": "list", "data": data, "model": MODEL, "usage": {"prompt_tokens": 2, "total_tokens": 2}}


def _chat_completions(asked: dict[str, Any]) -> Answer:
    functions = [tool["function"] for tool in asked.get("tools") or [] if tool["type"] == "function"]
    called = {call["function"]["name"] for turn in asked["messages"] for call in turn.get("tool_calls") or []}
    schema = (asked.get("response_format") or {}).get("json_schema", {}).get("schema")
    call = _next_call(functions, called, asked.get("tool_choice"))
    if call:
        function = {"name": call[0], "arguments": call[1]}
        message = {"content": None, "tool_calls": [{"id": "call_1", "type": "function", "function": function}]}
    else:
        message = {"content": _text(schema)}
    reason = "tool_calls" if call else "stop"
    if asked.get("stream"):
        return _stream(_chunks(message, reason, **asked.get("stream_options") or {}), asked)
    choice = {"index": 0, "message": {"role": "assistant", "refusal": None} | message, "finish_reason": reason}
    return reply(200, _completion("chat.completion", [choice | {"logprobs": None}], usage=CHAT_USAGE))


def _completion(kind: str, choices: list[dict[str, Any]], **members: Any) -> dict[str, Any]:
    return {"id": "chatcmpl-1", "object": kind, "created": CREATED, "model": MODEL, "choices": choices} | members


def _chunks(message: dict[str, Any], reason: str, *, include_usage: bool = False, **_: Any) -> Iterator[bytes]:
    """The message in pieces, its end, and where it was asked for, the usage in a chunk of its own."""

    def chunk(delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason, "logprobs": None}
        return event(_completion("chat.completion.chunk", [choice], **({"usage": None} if include_usage else {})))

    yield chunk({"role": "assistant", "content": None if message.get("tool_calls") else "", "refusal": None})
    for place, call in enumerate(message.get("tool_calls", [])):
        function = call["function"]
        yield chunk({"tool_calls": [{**call, "index": place, "function": {**function, "arguments": ""}}]})
        for piece in _pieces(function["arguments"]):
            yield chunk({"tool_calls": [{"index": place, "function": {"arguments": piece}}]})
    for piece in _pieces(message["content"] or ""):
        yield chunk({"content": piece})
    yield chunk({}, reason)
    if include_usage:
        yield event(_completion("chat.completion.chunk", [], usage=CHAT_USAGE))
    yield event("[DONE]")


def _responses(asked: dict[str, Any]) -> Answer:
    functions = [tool for tool in asked.get("tools") or [] if tool["type"] == "function"]
    turns = asked["input"] if isinstance(asked["input"], list) else []
    called = {turn["name"] for turn in turns if turn.get("type") == "function_call"}
    schema = ((asked.get("text") or {}).get("format") or {}).get("schema")
    call = _next_call(functions, called, asked.get("tool_choice"))
    if call:
        item = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": call[0], "arguments": call[1]}
    else:
        part = {"type": "output_text", "text": _text(schema), "annotations": [], "logprobs": []}
        item = {"type": "message", "id": "msg_1", "role": "assistant", "content": [part]}
    document = _response(asked, item | {"status": "completed"})
    return _stream(_events(document), asked) if asked.get("stream") else reply(200, document)


def _response(asked: dict[str, Any], item: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": CREATED,
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "instructions": asked.get("instructions"),
        "metadata": {},
        "model": MODEL,
        "output": [item],
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": asked.get("tool_choice") or "auto",
        "tools": asked.get("tools") or [],
        "top_p": 1.0,
        "text": asked.get("text") or {"format": {"type": "text"}},
        "usage": RESPONSES_USAGE,
    }


def _events(document: dict[str, Any]) -> Iterator[bytes]:
    """A response as the numbered events of its stream."""
    for number, (kind, members) in enumerate(_event_members(document)):
        yield typed(f"response.{kind}", sequence_number=number, **members)


def _event_members(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    (item,) = document["output"]
    begun = document | {"status": "in_progress", "output": [], "usage": None}
    yield "created", {"response": begun}
    yield "in_progress", {"response": begun}
    inside = _arguments_events(item) if item["type"] == "function_call" else _text_events(item)
    empty = {"arguments": ""} if item["type"] == "function_call" else {"content": []}
    yield "output_item.added", {"output_index": 0, "item": item | {"status": "in_progress"} | empty}
    for kind, members in inside:
        yield kind, {"output_index": 0, "item_id": item["id"]} | members
    yield "output_item.done", {"output_index": 0, "item": item}
    yield "completed", {"response": document}


def _arguments_events(item: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    for piece in _pieces(item["arguments"]):
        yield "function_call_arguments.delta", {"delta": piece}
    yield "function_call_arguments.done", {"name": item["name"], "arguments": item["arguments"]}


def _text_events(item: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    (part,) = item["content"]
    place = {"content_index": 0}
    yield "content_part.added", place | {"part": part | {"text": ""}}
    for piece in _pieces(part["text"]):
        yield "output_text.delta", place | {"delta": piece, "logprobs": []}
    yield "output_text.done", place | {"text": part["text"], "logprobs": []}
    yield "content_part.done", place | {"part": part}


def _next_call(functions: Iterable[dict[str, Any]], called: set[str], tool_choice: Any) -> tuple[str, str] | None:
    """Name and arguments of the first function that was not called yet; None where none may be called."""
    waiting = [function for function in functions if function["name"] not in called and tool_choice != "none"]
    return (waiting[0]["name"], json.dumps(_example(waiting[0].get("parameters") or {}))) if waiting else None


def _text(schema: dict[str, Any] | None) -> str:
    return json.dumps(_example(schema)) if schema else ANSWER


def _example(schema: dict[str, Any]) -> Any:
    """A value that follows a simple schema."""
    if "enum" in schema:
        return schema["enum"][0]
    if "properties" in schema:
        return {name: _example(member) for name, member in schema["properties"].items()}
    return EXAMPLES.get(schema.get("type", ""), {})
