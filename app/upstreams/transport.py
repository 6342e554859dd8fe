"""How bytes get to upstream: connections that are kept open and used again, each bound to the call it works for.

What is read of an answer is bounded, redirects are not followed, and cookies are kept from the next caller because
nobody stores them.
"""

from __future__ import annotations

import contextlib
import math
import ssl
import weakref
import zlib
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from app.calls.call import Call
from app.upstreams.connection import RECEIVE_BYTES, UpstreamConnection

CONNECT_SECONDS = 5.0
MAX_RESPONSE_BYTES = 8 * 1024 * 1024
GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS


class AnswerUnusable(Exception):
    """Upstream sent more than we are willing to hold, or something that does not decode."""


class Answer:
    """Upstream's answer: status and headers are here, the body is read piece by piece, up to a limit."""

    def __init__(
        self,
        transport: Transport,
        connection: UpstreamConnection,
        call: Call,
        status: int,
        headers: Mapping[str, str],
        max_bytes: float,
    ) -> None:
        self.status = status
        self.headers = headers
        self._transport = transport
        self._connection: UpstreamConnection | None = connection
        self._call = call
        self._left = max_bytes

    def __iter__(self) -> Iterator[bytes]:
        """Each piece as it arrives. Raises ConnectionLost, AnswerUnusable, or what ended the call."""
        encoding = self.headers.get("content-encoding", "identity")
        for piece in self._pieces() if encoding == "identity" else _decoded(self._pieces(), encoding):
            self._left -= len(piece)
            if self._left < 0:
                raise AnswerUnusable
            yield piece

    def _pieces(self) -> Iterator[bytes]:
        while self._connection is not None:
            piece = self._connection.next_piece()
            # A connection that the end of its call cut looks like the end of a body without length.
            self._call.check()
            if not piece:
                return
            yield piece

    def close(self) -> None:
        """Give the connection back if the body was read to its end, else close it."""
        connection, self._connection = self._connection, None
        if connection is not None:
            self._call.let_go()
            self._transport.take_back(connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Transport:
    """The connections to one upstream; `pool_size` of them are kept open for reuse. Create it after the fork."""

    def __init__(self, base_url: str, pool_size: int, *, max_response_bytes: int = MAX_RESPONSE_BYTES) -> None:
        url = urlsplit(base_url)
        self._tls = ssl.create_default_context() if url.scheme == "https" else None
        self._address = url.hostname or "", url.port or (443 if self._tls else 80)
        self._host = url.netloc
        self._prefix = url.path.rstrip("/")
        self._pool_size = pool_size
        self._max_response_bytes = max_response_bytes
        self._idle: list[UpstreamConnection] = []
        # A plain Python program makes a client and forgets it.
        weakref.finalize(self, _close_all, self._idle)

    def send(self, path: str, headers: Mapping[str, str], body: bytes | None, call: Call) -> Answer:
        """Send one request on behalf of `call` and return when the headers of the answer are there.

        Without a body it is a GET. Raises CouldNotConnect, ConnectionLost, or what ended the call.
        """
        connection = self._connection(call)
        try:
            call.hold(connection.bond)
            status, answered = connection.ask(self._request(path, headers, body))
        except BaseException:
            connection.close()
            raise
        # A stream is bounded event by event where it is read; it is never held as a whole.
        endless = answered.get("content-type", "").startswith("text/event-stream")
        return Answer(self, connection, call, status, answered, math.inf if endless else self._max_response_bytes)

    def take_back(self, connection: UpstreamConnection) -> None:
        """Keep a connection that can be used again; close any other."""
        if connection.is_reusable and len(self._idle) < self._pool_size:
            self._idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Close the connections that nobody uses."""
        _close_all(self._idle)

    def _connection(self, call: Call) -> UpstreamConnection:
        """The connection used last, as it is the least likely to have been closed meanwhile; else a new one."""
        with contextlib.suppress(IndexError):
            while True:
                connection = self._idle.pop()
                if connection.is_open:
                    return connection
                connection.close()
        return UpstreamConnection(*self._address, self._tls, min(CONNECT_SECONDS, call.remaining_seconds()))

    def _request(self, path: str, headers: Mapping[str, str], body: bytes | None) -> bytes:
        """A whole HTTP/1.1 request (RFC 9112); its parts were checked where they came in."""
        method, length = ("GET", "") if body is None else ("POST", f"Content-Length: {len(body)}\r\n")
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"{method} {self._prefix}{path} HTTP/1.1\r\nHost: {self._host}\r\n{lines}{length}\r\n"
        return head.encode("ascii") + (body or b"")


def _decoded(pieces: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """A body that came compressed although we asked for a plain one, a bounded piece at a time."""
    if encoding not in {"gzip", "deflate"}:
        raise AnswerUnusable
    decoder = zlib.decompressobj(GZIP_OR_ZLIB)
    try:
        for piece in pieces:
            while piece:
                yield decoder.decompress(piece, RECEIVE_BYTES)
                piece = decoder.unconsumed_tail
    except zlib.error as exc:
        raise AnswerUnusable from exc
    if not decoder.eof:
        raise AnswerUnusable


def _close_all(connections: list[UpstreamConnection]) -> None:
    while connections:
        connections.pop().close()
