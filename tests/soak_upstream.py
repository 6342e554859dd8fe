"""The soak's upstream: does what the text of a request asks for, and notes whose request it was."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from tests.streams import completion_events, delta, response_events, stream, typed
from tests.upstream import Answer, Received, Upstream, error_document, pieces, reply, reset, response_document, silence

ANSWER, SLOW = "answer", "slow"
SLOW_SECONDS = 0.8
GREETING = "Hello "
REFUSED_KEY = "sk-refused-"
CHUNKED_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
CUT_BODY = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000\r\n\r\n{"id"'
HTML = reply(200, b"<html>", {"Content-Type": "text/html"})
FAILED = response_document("", status="failed", error={"code": "server_error"})

PLAIN_FAULTS: dict[str, tuple[int, Answer]] = {
    "rejects": (400, reply(400, error_document())),
    "knows-no-model": (404, reply(404, error_document("model_not_found"))),
    "has-no-quota": (429, reply(429, error_document("insufficient_quota"))),
    "limits": (429, reply(429, error_document(), {"Retry-After": "1"})),
    "fails": (502, reply(500, error_document())),
    "is-busy": (503, reply(529, error_document())),
    "redirects": (502, reply(307, b"", {"Location": "http://127.0.0.1:9/"})),
    "resets": (502, reset()),
    "cuts": (502, pieces([CUT_BODY])),
    "garbles": (502, reply(200, b"{")),
    "says-html": (502, HTML),
    "is-silent": (504, silence()),
}
"""Faults of whole answers, by name: the status that our caller gets, and what upstream does."""

STREAM_FAULTS: dict[str, Answer] = {
    "cuts-the-stream": stream(response_events("half")[:-1]),
    "ends-in-error": stream([delta("half"), typed("error", code="server_error", message="x")]),
    "fails-at-last": stream(
        [
            delta("half"),
            typed("response.failed", response=response_document("", status="failed", error={"code": "server_error"})),
        ]
    ),
    "garbles-the-stream": stream([delta("half"), b"data: {\n\n"]),
    "stalls": stream([delta("half"), delta("never")], pause=3600),
}
"""Faults of streams after their first event, by name: our caller has its 200, and gets one event that tells."""


class SoakUpstream(Upstream):
    """Each request says its name and what to do, as the first words of its last message. Whole bodies are not kept."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: set[str] = set()
        self.default = self._as_told

    async def _as_told(self, received: Received, writer: asyncio.StreamWriter) -> None:
        self.received.clear()
        name, does = _last_words(received).split()[:2] if received.body else ("", ANSWER)
        self.asked.add(name)
        if received.key.startswith(REFUSED_KEY):
            await reply(401, error_document("invalid_api_key"))(received, writer)
        elif does in PLAIN_FAULTS:
            await PLAIN_FAULTS[does][1](received, writer)
        elif does in STREAM_FAULTS:
            await STREAM_FAULTS[does](received, writer)
        else:
            await _answer(received, name, SLOW_SECONDS if does == SLOW else 0.0)(received, writer)


def _last_words(received: Received) -> str:
    asked = received.json.get("messages") or received.json["input"]
    return str(asked if isinstance(asked, str) else asked[-1]["content"])


def _answer(received: Received, name: str, pause: float) -> Answer:
    """A good answer that says the request's name, in the form of the API that was asked; late by `pause` seconds."""
    completion = received.path.endswith("/chat/completions")
    if received.body and received.json.get("stream"):
        return chunked((completion_events if completion else response_events)(GREETING, name), pause)
    if completion:
        choice = {"index": 0, "message": {"role": "assistant", "content": name}, "finish_reason": "stop"}
        document = {"id": "chatcmpl-1", "object": "chat.completion", "model": "gpt-4o-mini-2024", "choices": [choice]}
    elif received.path.endswith("/responses"):
        document = response_document(name)
    else:
        document = {"object": "list", "model": name, "data": [{"embedding": [0.5] * 8}]}

    async def answer(received: Received, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(pause)
        await reply(200, document)(received, writer)

    return answer


def chunked(events: Iterable[bytes], pause: float) -> Answer:
    """An event stream on a connection that is used again; it pauses once, in the middle."""
    parts = [b"%x\r\n%s\r\n" % (len(event), event) for event in events]

    async def answer(received: Received, writer: asyncio.StreamWriter) -> None:
        writer.write(CHUNKED_HEAD + b"".join(parts[:2]))
        await writer.drain()
        await asyncio.sleep(pause)
        writer.write(b"".join(parts[2:]) + b"0\r\n\r\n")
        await writer.drain()

    return answer
