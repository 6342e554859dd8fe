"""How bytes get to upstream: urllib3's connections, kept open and used again, each bound to the call it works for.

What is read of an answer is bounded, redirects are not followed, and cookies are kept from the next caller because
nobody stores them. Sockets have no timeout of their own: the watchdog of app/call.py shuts them down when a call ends.
"""

from __future__ import annotations

import contextlib
import http.client
import math
import ssl
import weakref
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self
from urllib.parse import urlsplit

from urllib3 import exceptions as failed
from urllib3.connection import HTTPConnection, HTTPSConnection

from app.call import Call, Connection, peek

CONNECT_SECONDS = 5.0
CHUNK_BYTES = 65_536
MAX_RESPONSE_BYTES = 8 * 1024 * 1024

FAILURES = (failed.HTTPError, http.client.HTTPException, OSError, ValueError)
"""What urllib3 and the standard library raise below a request that goes wrong."""


class TransportError(Exception):
    """No answer could be had from upstream, or not all of it."""


class CouldNotConnect(TransportError):
    """No byte of the request was sent."""


class ConnectionLost(TransportError):
    """The connection broke after something may have been sent."""


class AnswerUnusable(TransportError):
    """Upstream sent more than we are willing to hold, or something that does not decode."""


class _Bound:
    """Mixed into urllib3's connections: a socket that the end of a call can cut."""

    sock: Any
    timeout: Any

    def connect(self) -> None:
        super().connect()  # type: ignore[misc]
        # The timeout was the handshake's; urllib3 would set it again before each request.
        self.timeout = None
        self.bond = Connection(self.sock)

    @property
    def is_reusable(self) -> bool:
        """Whether upstream still holds its end and has sent nothing that nobody asked for."""
        return self.sock is not None and peek(self.sock) is None


class _BoundHTTPConnection(_Bound, HTTPConnection):
    pass


class _BoundHTTPSConnection(_Bound, HTTPSConnection):
    pass


class Answer:
    """Upstream's answer: status and headers are here, the body is read piece by piece, up to a limit."""

    def __init__(self, transport: Transport, connection: Any, answer: Any, call: Call, max_bytes: float) -> None:
        self.status: int = answer.status
        self.headers: Mapping[str, str] = answer.headers
        self._transport = transport
        self._connection = connection
        self._answer = answer
        self._call = call
        self._left = max_bytes
        self._read = False

    def __iter__(self) -> Iterator[bytes]:
        """Each piece as it arrives. Raises ConnectionLost, AnswerUnusable, or what ended the call."""
        while piece := self._next():
            yield piece

    def _next(self) -> bytes:
        try:
            piece: bytes = self._answer.read1(CHUNK_BYTES, decode_content=True)
        except failed.DecodeError as exc:
            raise AnswerUnusable from exc
        except FAILURES as exc:
            raise ConnectionLost from exc
        # A connection that the end of its call cut looks like the end of a body without length.
        self._call.check()
        self._left -= len(piece)
        if self._left < 0:
            raise AnswerUnusable
        self._read = not piece
        return piece

    def close(self) -> None:
        """Give the connection back if the body was read to its end, else close it."""
        connection, self._connection = self._connection, None
        if connection is None:
            return
        self._call.let_go()
        if self._read and connection.sock is not None:
            self._transport.keep(connection)
        else:
            self._answer.close()
            connection.close()

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
        self._host, self._port = url.hostname or "", url.port
        self._prefix = url.path.rstrip("/")
        self._tls = ssl.create_default_context() if url.scheme == "https" else None
        self._pool_size = pool_size
        self._max_response_bytes = max_response_bytes
        self._idle: list[Any] = []
        # A plain Python program makes a client and forgets it.
        weakref.finalize(self, _close_all, self._idle)

    def send(self, method: str, path: str, headers: Mapping[str, str], body: bytes | None, call: Call) -> Answer:
        """Send one request on behalf of `call` and return when the headers of the answer are there.

        Raises CouldNotConnect, ConnectionLost, or what ended the call.
        """
        connection = self._connected(call)
        try:
            call.hold(connection.bond)
            connection.request(method, self._prefix + path, body=body, headers=headers, preload_content=False)
            answer = connection.getresponse()
        except FAILURES as exc:
            connection.close()
            raise ConnectionLost from exc
        except BaseException:
            connection.close()
            raise
        # A stream is bounded event by event where it is read; it is never held as a whole.
        endless = answer.headers.get("content-type", "").startswith("text/event-stream")
        return Answer(self, connection, answer, call, math.inf if endless else self._max_response_bytes)

    def keep(self, connection: Any) -> None:
        """Take back a connection that can be used again."""
        if len(self._idle) < self._pool_size:
            self._idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Close the connections that nobody uses."""
        _close_all(self._idle)

    def _connected(self, call: Call) -> Any:
        """The connection used last, as it is the least likely to have been closed meanwhile; else a new one."""
        with contextlib.suppress(IndexError):
            while True:
                connection = self._idle.pop()
                if connection.is_reusable:
                    return connection
                connection.close()
        connection = self._new(min(CONNECT_SECONDS, call.remaining_seconds()))
        try:
            connection.connect()
        except FAILURES as exc:
            connection.close()
            raise CouldNotConnect from exc
        return connection

    def _new(self, timeout: float) -> Any:
        options: dict[str, Any] = {"timeout": timeout}
        if self._tls is None:
            return _BoundHTTPConnection(self._host, self._port, **options)
        return _BoundHTTPSConnection(self._host, self._port, ssl_context=self._tls, **options)


def _close_all(connections: list[Any]) -> None:
    while connections:
        connections.pop().close()
