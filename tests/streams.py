"""Event streams as upstreams send them, to be scripted, and as callers read them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable
from typing import Any

from tests.upstream import Answer, Received, pieces, response_document, silence

HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-Request-Id: up-1\r\nConnection: close\r\n\r\n"


def event(data: Any, name: str | None = None, *, line_end: str = "\n") -> bytes:
    """One server-sent event; `data` is JSON unless it is text."""
    text = data if isinstance(data, str) else json.dumps(data, ensure_ascii=False)
    lines = ([f"event: {name}"] if name else []) + [f"data: {text}", "", ""]
    return line_end.join(lines).encode()


def typed(kind: str, *, line_end: str = "\n", **members: Any) -> bytes:
    """One event of the Responses API."""
    return event({"type": kind} | members, kind, line_end=line_end)


def delta(text: str, **options: Any) -> bytes:
    """A piece of text, as the Responses API sends it."""
    return typed("response.output_text.delta", item_id="msg_1", delta=text, **options)


def completed(text: str, **changes: Any) -> bytes:
    """The end of a good stream of the Responses API."""
    return typed("response.completed", response=response_document(text, **changes))


def response_events(*texts: str) -> list[bytes]:
    """A whole good stream of the Responses API."""
    created = typed("response.created", response={"id": "resp_1", "status": "in_progress"})
    return [created, *(delta(text) for text in texts), completed("".join(texts))]


def chunk(content: str | None = None, **choice: Any) -> bytes:
    """One chunk of a chat completion."""
    delta = {} if content is None else {"content": content}
    choices = [{"index": 0, "delta": delta, "finish_reason": None} | choice]
    return event(
        {"id": "chatcmpl-1", "object": "chat.completion.chunk", "model": "gpt-4o-mini-2024", "choices": choices}
    )


def completion_events(*texts: str) -> list[bytes]:
    """A whole good stream of Chat Completions, usage included."""
    usage = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
    end = [chunk(finish_reason="stop"), event({"id": "chatcmpl-1", "choices": [], "usage": usage}), event("[DONE]")]
    return [chunk(None), *(chunk(text) for text in texts), *end]


def message_start(**usage: Any) -> bytes:
    """The first event of a stream of Anthropic's Messages API; the input is counted here."""
    counts = {"input_tokens": 11, "output_tokens": 1} | usage
    message = {"id": "msg_1", "type": "message", "role": "assistant", "content": [], "model": "claude-haiku-4-5"}
    return typed("message_start", message=message | {"stop_reason": None, "usage": counts})


def block_delta(kind: str = "text_delta", *, index: int = 0, **members: Any) -> bytes:
    """A piece of a content block of the Messages API."""
    return typed("content_block_delta", index=index, delta={"type": kind} | members)


def message_end(stop_reason: str = "end_turn", **usage: Any) -> list[bytes]:
    """The last events of a good stream of the Messages API; the output is counted here."""
    delta = {"stop_reason": stop_reason, "stop_sequence": None}
    return [typed("message_delta", delta=delta, usage={"output_tokens": 7} | usage), typed("message_stop")]


def message_events(*texts: str) -> list[bytes]:
    """A whole good stream of the Messages API."""
    start = typed("content_block_start", index=0, content_block={"type": "text", "text": ""})
    pieces = [block_delta(text=text) for text in texts]
    stop = typed("content_block_stop", index=0)
    return [message_start(), start, typed("ping"), *pieces, stop, *message_end()]


def stream(parts: Iterable[bytes], *, pause: float = 0.0, close: bool = True) -> Answer:
    """Answer with an event stream that ends when the connection does; it pauses after each part."""
    first, *rest = [*parts] or [b""]
    return pieces([HEAD + first, *rest], pause=pause, close=close)


def endless(*texts: str) -> Answer:
    """A stream that says this and then nothing more, until it is left."""
    said, wait = stream(response_events(*texts)[: len(texts) + 1], close=False), silence()

    async def answer(received: Received, writer: asyncio.StreamWriter) -> None:
        await said(received, writer)
        await wait(received, writer)

    return answer


def read_events(body: bytes) -> list[tuple[str, Any]]:
    """The events of a native stream, comments left out: (name, data)."""
    events = []
    for block in body.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in block.split("\n") if line and not line.startswith(":"))
        if fields:
            events.append((fields["event"], json.loads(fields["data"])))
    return events


def blocks(body: bytes) -> list[str | None]:
    """The data of each event for a decoder that takes each blank line for an end, as some SDKs do; None: it has none.

    What follows the last blank line is no event.
    """
    found: list[str | None] = []
    data: list[str] = []
    is_open = False
    for line in body.decode().replace("\r\n", "\n").replace("\r", "\n").split("\n")[:-1]:
        if line:
            is_open = True
            data += [line.removeprefix("data:").strip()] if line.startswith("data:") else []
        elif is_open:
            found.append("\n".join(data) if data else None)
            data, is_open = [], False
    return found
