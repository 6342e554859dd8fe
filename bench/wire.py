"""The requests that the benchmark sends and what upstream answers to them, in the shapes of OpenAI's API reference."""

from __future__ import annotations

import json
from typing import Any

MODEL = "gpt-4o-mini"
ANSWER = "The capital of France is Paris."
CACHED = '"cached":true'
"""What an answer of this server's response cache has."""
NATIVE, RESPONSES, COMPLETIONS = "/api/v1/chat", "/v1/responses", "/v1/chat/completions"

_SYSTEM = "You are a helpful assistant. You are a geography teacher. The user lives in Seoul."
_TURNS = [
    {"role": "user", "content": "Hello, can you help me with my homework?"},
    {"role": "assistant", "content": "Of course! What is it about?"},
    {"role": "user", "content": "What is the capital of France?"},
]


def request_body(path: str, *, stream: bool = False) -> str:
    """One small and usual chat turn in the words of that route; the text is the same on each."""
    body: dict[str, Any]
    if path == NATIVE:
        body = {
            "system_message": "You are a helpful assistant.",
            "role": "You are a geography teacher.",
            "memory_context": ["The user lives in Seoul."],
            "conversation_history": [f"{turn['role']}: {turn['content']}" for turn in _TURNS[:-1]],
            "user_message": _TURNS[-1]["content"],
            "max_tokens": 100,
            "free_mode": True,
        }
    elif path == RESPONSES:
        body = {"model": MODEL, "instructions": _SYSTEM, "input": _TURNS, "max_output_tokens": 100}
    else:
        messages = [{"role": "system", "content": _SYSTEM}, *_TURNS]
        body = {"model": MODEL, "messages": messages, "max_tokens": 100}
    body |= {"temperature": 0}
    return json.dumps(body | {"stream": True} if stream else body)


def response(status: str = "completed", text: str = ANSWER) -> dict[str, Any]:
    """A finished object of the Responses API with all its members."""
    return {
        "id": "resp_68d1f0c2a4b08190a5e2c7d4f1b3e6a9",
        "object": "response",
        "created_at": 1763999999,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": 100,
        "model": "gpt-4o-mini-2024-07-18",
        "output": [_message(text)] if status == "completed" else [],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": False,
        "temperature": 0.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": _RESPONSE_USAGE if status == "completed" else None,
        "user": None,
        "metadata": {},
    }


def completion() -> dict[str, Any]:
    """A finished chat completion."""
    message: dict[str, Any] = {"role": "assistant", "content": ANSWER, "refusal": None, "annotations": []}
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}
    return _completion("chat.completion", [choice]) | {"usage": _COMPLETION_USAGE}


def response_events(deltas: int) -> list[str]:
    """The events of a stream of the Responses API; nginx puts the moment of sending where `$msec` stands."""
    place = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": response("in_progress")},
        *({"type": "response.output_text.delta", **place, "delta": "@$msec ", "logprobs": []} for _ in range(deltas)),
        {"type": "response.output_text.done", **place, "text": ANSWER, "logprobs": []},
        {"type": "response.completed", "response": response()},
    ]
    numbered = ({"sequence_number": number, **event} for number, event in enumerate(events))
    return [f"event: {event['type']}\ndata: {_dumped(event)}\n\n" for event in numbered]


def completion_events(deltas: int) -> list[str]:
    """The events of a streamed chat completion, stamped in the same way."""
    first = _chunk({"role": "assistant", "content": "", "refusal": None}, None)
    last = _chunk({}, "stop")
    usage = _completion("chat.completion.chunk", []) | {"usage": _COMPLETION_USAGE}
    chunks = [first, *(_chunk({"content": "@$msec "}, None) for _ in range(deltas)), last, usage]
    return [*(f"data: {_dumped(chunk)}\n\n" for chunk in chunks), "data: [DONE]\n\n"]


def _message(text: str) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}]
    return {"type": "message", "id": "msg_1", "status": "completed", "role": "assistant", "content": content}


def _chunk(delta: dict[str, Any], finish_reason: str | None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
    return _completion("chat.completion.chunk", [choice])


def _completion(kind: str, choices: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "id": "chatcmpl-CfXr2v9QzK1mT4nB7wE0sL3uY6aJ",
        "object": kind,
        "created": 1763999999,
        "model": "gpt-4o-mini-2024-07-18",
        "choices": choices,
        "service_tier": "default",
        "system_fingerprint": "fp_560af6e559",
    }


def _dumped(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


_RESPONSE_USAGE = {
    "input_tokens": 62,
    "input_tokens_details": {"cached_tokens": 0},
    "output_tokens": 8,
    "output_tokens_details": {"reasoning_tokens": 0},
    "total_tokens": 70,
}
_COMPLETION_USAGE = {
    "prompt_tokens": 62,
    "completion_tokens": 8,
    "total_tokens": 70,
    "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
}
