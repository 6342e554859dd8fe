"""An upstream that answers as Anthropic does, whatever a client asks: text, tool calls, counts, errors.

As in tests/openai_upstream.py, a request whose tools were not all called yet is answered with a call of the next one.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

from tests.openai_upstream import ANSWER, BREAK_OFF, PIECES, TOO_LONG
from tests.streams import event, stream
from tests.upstream import Answer, Received, Upstream, reply

MODEL = "claude-sonnet-4-5"
USAGE = {"input_tokens": 11, "output_tokens": 7, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0}
TOO_LONG_ERROR = {
    "type": "error",
    "error": {"type": "invalid_request_error", "message": "prompt is too long: 210000 tokens > 200000 maximum"},
    "request_id": "req_1",
}


class AnthropicUpstream(Upstream):
    """Refuses a request with the words `TOO_LONG`, and cuts a stream with `BREAK_OFF`. Keeps threads."""

    def __init__(self) -> None:
        super().__init__()
        self._threads: dict[str, list[Any]] = {}
        self.default = self._answered

    async def _answered(self, received: Received, writer: asyncio.StreamWriter) -> None:
        name = f"msg_{len(self.received)}"
        await _chosen(received, self._continued(received.json, name), name)(received, writer)

    def _continued(self, asked: dict[str, Any], name: str) -> dict[str, Any]:
        """The request with what was said before in its thread, which goes on under `name`."""
        if thread := asked.get("thread"):
            turns = [*self._threads.get(thread.get("previous_message_id", ""), []), *asked["messages"]]
            asked = asked | {"messages": turns}
            self._threads[name] = [*turns, {"role": "assistant", "content": [_block(asked)]}]
        return asked


def _chosen(received: Received, asked: dict[str, Any], name: str) -> Answer:
    if TOO_LONG.encode() in received.body:
        return reply(400, TOO_LONG_ERROR)
    if received.path.partition("?")[0] == "/v1/messages/count_tokens":
        return reply(200, {"input_tokens": USAGE["input_tokens"]})
    block = _block(asked)
    if not asked.get("stream"):
        return reply(200, _message(block, name) | {"content": [block]})
    events = list(_events(block, name))
    return stream(events[:-3] if BREAK_OFF in json.dumps(asked) else events)


def _block(asked: dict[str, Any]) -> dict[str, Any]:
    """A call of the first tool that was not called yet, else text."""
    blocks = [block for turn in asked["messages"] if isinstance(turn["content"], list) for block in turn["content"]]
    called = {block["name"] for block in blocks if block["type"] == "tool_use"}
    waiting = [tool for tool in asked.get("tools") or [] if tool["name"] not in called]
    if not waiting:
        return {"type": "text", "text": ANSWER}
    given = dict.fromkeys(waiting[0]["input_schema"]["properties"], "Paris")
    return {"type": "tool_use", "id": "toolu_1", "name": waiting[0]["name"], "input": given}


def _message(block: dict[str, Any], name: str) -> dict[str, Any]:
    reason = "tool_use" if block["type"] == "tool_use" else "end_turn"
    told = {"id": name, "type": "message", "role": "assistant", "model": MODEL, "content": []}
    return told | {"stop_reason": reason, "stop_sequence": None, "usage": USAGE}


def _events(block: dict[str, Any], name: str) -> Iterator[bytes]:
    whole = _message(block, name)
    begun = whole | {"stop_reason": None, "usage": USAGE | {"output_tokens": 1}}
    empty = {"input": {}} if block["type"] == "tool_use" else {"text": ""}
    yield _event("message_start", message=begun)
    yield _event("content_block_start", index=0, content_block=block | empty)
    yield _event("ping")
    for delta in _deltas(block):
        yield _event("content_block_delta", index=0, delta=delta)
    yield _event("content_block_stop", index=0)
    ended = {"stop_reason": whole["stop_reason"], "stop_sequence": None}
    yield _event("message_delta", delta=ended, usage={"output_tokens": USAGE["output_tokens"]})
    yield _event("message_stop")


def _deltas(block: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if block["type"] == "text":
        yield from ({"type": "text_delta", "text": piece} for piece in PIECES)
        return
    told = json.dumps(block["input"])
    yield from ({"type": "input_json_delta", "partial_json": piece} for piece in ("", told[:5], told[5:]))


def _event(kind: str, **members: Any) -> bytes:
    return event({"type": kind} | members, kind)
