"""Callers: HTTP/1.1 over plain asyncio streams, cheap enough to share two cores with the server they load."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, NamedTuple

LOST = (OSError, EOFError, asyncio.LimitOverrunError)
"""What a caller is told when its connection ends before its answer does."""


class Heard(NamedTuple):
    """One HTTP answer; the headers' names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes = b""

    @property
    def code(self) -> str:
        """The error code of a problem document or of an error in OpenAI's shape; empty when it is neither."""
        try:
            document = json.loads(self.body)
        except ValueError:
            return ""
        error = document.get("error", document) if isinstance(document, dict) else {}
        return str(error.get("code") or "")


class Caller:
    """Has one connection at a time, uses it again as long as the server keeps it, and may leave at any moment."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def ask(self, message: bytes) -> Heard:
        """Send a request and read the whole answer; raises one of LOST when it does not come."""
        try:
            status, headers, _ = await self._begin(message)
            body = await self._body(headers)
        except BaseException:
            self.leave()
            raise
        if headers.get("connection") == "close":
            self.leave()
        return Heard(status, headers, body)

    async def ask_until(self, message: bytes, expected: bytes) -> Heard | None:
        """Send a request, read as far as `expected` and leave; an answer that is an error is read to its end."""
        try:
            heard = await self._begin(message)
            if heard.status != 200:
                return heard._replace(body=await self._body(heard.headers))
            reader, _ = self._connected()
            await reader.readuntil(expected)
            return heard
        finally:
            self.leave()

    async def ask_for(self, message: bytes, seconds: float) -> Heard | None:
        """Send a request and leave unless the answer is there after some seconds."""
        try:
            return await asyncio.wait_for(self.ask(message), seconds)
        except TimeoutError:
            return None
        finally:
            self.leave()

    def leave(self) -> None:
        """Close the connection, whatever is on it."""
        streams, self._streams = self._streams, None
        if streams is not None:
            streams[1].transport.abort()

    async def _begin(self, message: bytes) -> Heard:
        """Send a request; the answer without its body."""
        if self._streams is None:
            self._streams = await asyncio.open_connection("127.0.0.1", self._port)
        reader, writer = self._streams
        writer.write(message)
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        status_line, *lines = head.split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines) if name}
        return Heard(int(status_line.split(" ", 2)[1]), headers)

    async def _body(self, headers: Mapping[str, str]) -> bytes:
        """The body behind a head, by its length or in chunks (RFC 9112, 7.1)."""
        reader, _ = self._connected()
        if "content-length" in headers:
            return await reader.readexactly(int(headers["content-length"]))
        parts = []
        while size := int(await reader.readuntil(b"\r\n"), 16):
            parts.append((await reader.readexactly(size + 2))[:-2])
        await reader.readexactly(2)
        return b"".join(parts)

    def _connected(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if self._streams is None:
            raise ConnectionResetError
        return self._streams


def message(method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> bytes:
    """A whole request; a body is sent as JSON."""
    content = b"" if body is None else json.dumps(body).encode()
    typed = {} if body is None else {"Content-Type": "application/json", "Content-Length": str(len(content))}
    fields = {"Host": "localhost"} | typed | dict(headers or {})
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + content
