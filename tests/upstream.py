"""Upstream: a real OpenAI-shaped HTTP server on a free loopback port that answers by script and counts its calls."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import struct
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Received:
    """One request as upstream saw it. `left_early`: the peer closed before the answer was complete."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes
    came: float = field(default_factory=time.monotonic)
    left_early: float | None = None

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def key(self) -> str:
        return self.headers.get("authorization", "").removeprefix("Bearer ")


Answer = Callable[[Received, asyncio.StreamWriter], Awaitable[None]]


def response_document(text: str, **changes: Any) -> dict[str, Any]:
    """A finished answer of the Responses API with `text`."""
    return {
        "id": "resp_1",
        "object": "response",
        "created_at": 1_700_000_000,
        "status": "completed",
        "model": "gpt-4o-mini-2024",
        "output": [
            {
                "type": "message",
                "id": "msg_1",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": text, "annotations": []}],
            }
        ],
        "temperature": 0.7,
        "text": {"format": {"type": "text"}},
        "usage": {"input_tokens": 11, "output_tokens": 7, "total_tokens": 18},
    } | changes


def error_document(code: str | None = None, **members: Any) -> dict[str, Any]:
    """An OpenAI-shaped error body; its message may reach our caller with a refusal (4xx), and no log."""
    return {"error": {"message": "UPSTREAM-SECRET-TEXT", "type": "some_error", "code": code, **members}}


def reply(status: int = 200, body: Any = None, headers: dict[str, str] | None = None) -> Answer:
    """Answer with a whole body, JSON unless it is bytes, after which the connection may be used again."""

    async def answer(received: Received, writer: asyncio.StreamWriter) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body or {}).encode()
        fields = {"Content-Type": "application/json", "Content-Length": str(len(content))} | (headers or {})
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        writer.write(f"HTTP/1.1 {status} X\r\n{head}\r\n".encode() + content)
        await writer.drain()

    return answer


def text(value: str, **changes: Any) -> Answer:
    """Answer with a finished response."""
    return reply(200, response_document(value, **changes))


def delayed(seconds: float, then: Answer) -> Answer:
    """Wait before answering."""

    async def answer(received: Received, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(seconds)
        await then(received, writer)

    return answer


def pieces(parts: Iterable[bytes], *, pause: float = 0.0, close: bool = True) -> Answer:
    """Write raw bytes, head included, one part after the other."""

    async def answer(received: Received, writer: asyncio.StreamWriter) -> None:
        # Draining waits until a part has left: what is still here when the connection is closed would be lost.
        writer.transport.set_write_buffer_limits(0)
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause)
        if close:
            writer.close()

    return answer


def silence() -> Answer:
    """Never answer."""

    async def answer(received: Received, writer: asyncio.StreamWriter) -> None:
        await asyncio.sleep(3600)

    return answer


def reset() -> Answer:
    """Cut the connection with a TCP reset."""

    async def answer(received: Received, writer: asyncio.StreamWriter) -> None:
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    return answer


async def echo(received: Received, writer: asyncio.StreamWriter) -> None:
    """The default: say the user's last message back, so that a mixed-up answer shows."""
    is_form = received.headers.get("content-type", "").startswith("multipart/")
    asked = {} if is_form else json.loads(received.body or b"{}")
    messages = asked.get("input")
    if isinstance(messages, list) and messages and isinstance(messages[-1], dict) and "content" in messages[-1]:
        await text(str(messages[-1]["content"]))(received, writer)
    else:
        await reply(200, {"object": "something", "data": []})(received, writer)


class Upstream:
    """Answers the scripted answers in order, then `default`. Use as a context manager."""

    def __init__(self, ssl_context: ssl.SSLContext | None = None, *, port: int = 0) -> None:
        self.received: list[Received] = []
        self.default: Answer = echo
        self.port = port
        self.connections = 0
        self.most_in_flight = 0
        self._asking: set[asyncio.StreamReader] = set()
        self._script: deque[Answer] = deque()
        self._ssl_context = ssl_context
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @property
    def base_url(self) -> str:
        scheme = "https" if self._ssl_context else "http"
        return f"{scheme}://localhost:{self.port}/v1" if self._ssl_context else f"{scheme}://127.0.0.1:{self.port}/v1"

    def script(self, *answers: Answer) -> None:
        """Give the next answers."""
        self._script.extend(answers)

    def script_anew(self) -> None:
        """Forget the answers that nobody has asked for."""
        self._script.clear()

    def __enter__(self) -> Upstream:
        self._thread.start()
        self._server = asyncio.run_coroutine_threadsafe(
            asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._ssl_context, backlog=2048, limit=2**24),
            self._loop,
        ).result()
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _stop(self) -> None:
        self._server.close()
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        # Lets transports that were closed just now finish closing.
        await asyncio.sleep(0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while not writer.is_closing() and (received := await self._read(reader)):
                await self._answer(received, reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError, ssl.SSLError):
            pass
        finally:
            with contextlib.suppress(Exception):
                writer.transport.abort()

    async def _answer(self, received: Received, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer while watching for the peer's departure."""
        self.received.append(received)
        self._asking.add(reader)
        # Who has left is no longer in flight, although its answer may not have noticed yet.
        in_flight = sum(1 for peer in self._asking if not _has_left(peer))
        self.most_in_flight = max(self.most_in_flight, in_flight)
        answer = self._script.popleft() if self._script else self.default
        answering = asyncio.ensure_future(answer(received, writer))
        leaving = asyncio.ensure_future(self._departure(reader))
        try:
            await asyncio.wait({answering, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                received.left_early = time.monotonic()
                raise ConnectionResetError
            await answering
        finally:
            self._asking.discard(reader)
            for task in (answering, leaving):
                task.cancel()
            await asyncio.gather(answering, leaving, return_exceptions=True)

    async def _departure(self, reader: asyncio.StreamReader) -> None:
        while not _has_left(reader):
            await asyncio.sleep(0.02)

    async def _read(self, reader: asyncio.StreamReader) -> Received | None:
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        except asyncio.IncompleteReadError:
            return None
        request_line, *lines = head.split("\r\n")
        method, path, _ = request_line.split(" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines) if name}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        return Received(method, path, headers, body)


def _has_left(peer: asyncio.StreamReader) -> bool:
    """Whether the caller has closed or reset its connection."""
    return peer.at_eof() or peer.exception() is not None
