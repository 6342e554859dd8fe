"""How bytes get to upstream and back: HTTP/1.1 connections that are kept open, each working for one call at a time.

The answer is parsed by httptools (llhttp, the parser of Node): http.client takes twice as long for the same
(docs/performance, "Where the time goes"). What is read of an answer is bounded, redirects are not followed, and cookies
are not stored, so none reaches the next caller.

Pool rules: the connection used last is taken first; one that upstream has closed, or on which it sent something that
nobody asked for, is thrown away; one goes back only when its answer was read to the end. A connection is bound to the
call it works for, so the late end of an earlier call never cuts the request that uses the connection now
(test_transport.py).

    Exception
    ├── CouldNotConnect     no byte of the request was sent
    └── ConnectionLost      the connection broke after something may have been sent, or what came is not HTTP
"""

from __future__ import annotations

import contextlib
import math
import socket
import ssl
import weakref
import zlib
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

import httptools

from app.calls.call import Call
from app.calls.sockets import Connection, peek
from app.upstreams.errors import bad_response, connection_error

CONNECT_SECONDS = 5.0
RECEIVE_BYTES = 65_536
HEAD_MAX_BYTES = 65_536
HEADERS_MAX = 100
MAX_RESPONSE_BYTES = 8 * 1024 * 1024
GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS


class CouldNotConnect(Exception):
    """No byte of the request was sent."""


class ConnectionLost(Exception):
    """The connection broke after something may have been sent, or what came on it is not HTTP."""


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

    def send(self, path: str, headers: Mapping[str, str], body: bytes | None, call: Call) -> Response:
        """Send one request on behalf of `call` and return when the headers of the answer are there.

        Without a body it is a GET. Raises CouldNotConnect, ConnectionLost, or what ended the call.
        """
        connection = self._connection(call)
        try:
            call.hold(connection.socket)
            status, answered = connection.ask(self._request(path, headers, body))
        except BaseException:
            call.let_go()
            connection.close()
            raise
        # A stream is bounded event by event where it is read; it is never held as a whole.
        endless = answered.get("content-type", "").startswith("text/event-stream")
        return Response(self, connection, call, status, answered, math.inf if endless else self._max_response_bytes)

    def take_back(self, connection: UpstreamConnection) -> None:
        """Keep a connection that can be used again; close any other."""
        if connection.is_reusable and len(self._idle) < self._pool_size:
            self._idle.append(connection)
        else:
            connection.close()

    def close(self) -> None:
        """Close the idle connections."""
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


class Response:
    """An HTTP response: status and headers are here, the body is read piece by piece, up to a limit."""

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

    def read(self) -> bytes:
        """The whole body; raises as iterating does."""
        return b"".join(self)

    def __iter__(self) -> Iterator[bytes]:
        """Each piece as it arrives.

        Raises OpenAIClientException `upstream_connection_error` or `upstream_bad_response`, or what ended the call.
        """
        encoding = self.headers.get("content-encoding", "identity")
        try:
            for piece in self._pieces() if encoding == "identity" else _decoded(self._pieces(), encoding):
                self._left -= len(piece)
                if self._left < 0:
                    raise bad_response()
                yield piece
        except ConnectionLost as exc:
            # A connection that the end of its call cut is lost, too.
            self._call.remaining_seconds()
            raise connection_error() from exc

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


class UpstreamConnection:
    """Connected when made; `timeout` (seconds) bounds that alone. Raises CouldNotConnect.

    Afterwards the socket has no timeout of its own: the watchdog shuts it down when a call ends.
    """

    def __init__(self, host: str, port: int, tls: ssl.SSLContext | None, timeout: float) -> None:
        try:
            self._socket = _connected(host, port, tls, timeout)
        except (OSError, UnicodeError) as exc:
            raise CouldNotConnect from exc
        self.socket = Connection(self._socket)
        self._message = _Message()
        self._received = 0

    @property
    def is_open(self) -> bool:
        """Whether upstream still holds its end and has sent nothing unasked."""
        return peek(self._socket) is None

    @property
    def is_reusable(self) -> bool:
        """Whether the last answer was read to its end and allows another request."""
        return self._message.is_last_of_its_bytes and self._message.keeps_alive

    def ask(self, request: bytes) -> tuple[int, Mapping[str, str]]:
        """Send a whole request; give status and headers of the answer when they are there. Raises ConnectionLost."""
        self._message = _Message()
        self._received = 0
        # Upstream may refuse before it has read everything; its answer is there all the same.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._send(request)
        while not self._message.has_headers:
            self._receive()
            if self._received > HEAD_MAX_BYTES and not self._message.has_headers:
                raise ConnectionLost
        return self._message.status, self._message.headers

    def next_piece(self) -> bytes:
        """The next piece of the body as it came; empty at its end. Raises ConnectionLost."""
        while not self._message.pieces and not self._message.is_complete:
            self._receive()
        return self._message.take()

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _send(self, request: bytes) -> None:
        try:
            self._socket.sendall(request)
        except (BrokenPipeError, ConnectionResetError):
            raise
        except (OSError, ValueError) as exc:
            raise ConnectionLost from exc

    def _receive(self) -> None:
        try:
            data = self._socket.recv(RECEIVE_BYTES)
        except (OSError, ValueError) as exc:
            raise ConnectionLost from exc
        self._received += len(data)
        try:
            self._message.feed(data) if data else self._message.end()
        except httptools.HttpParserError as exc:
            raise ConnectionLost from exc


class _Message:
    """One answer while it is parsed. The methods `on_…` are called by the parser."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self._headers_seen = 0
        self.pieces: list[bytes] = []
        self.status = 0
        self.has_headers = self.is_complete = self.keeps_alive = False
        self._has_more = False
        self._parser = httptools.HttpResponseParser(self)

    @property
    def is_last_of_its_bytes(self) -> bool:
        """Whether it is complete and nothing came behind it."""
        return self.is_complete and not self._has_more

    def feed(self, data: bytes) -> None:
        """Parse what came."""
        self._parser.feed_data(data)

    def end(self) -> None:
        """Upstream has closed the connection: the end of a body without a stated length, else a loss."""
        framed = "content-length" in self.headers or "transfer-encoding" in self.headers
        if not self.has_headers or framed:
            raise ConnectionLost
        self.is_complete = True

    def take(self) -> bytes:
        """What has come of the body since the last time."""
        taken = b"".join(self.pieces)
        self.pieces.clear()
        return taken

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers_seen += 1
        if self._headers_seen > HEADERS_MAX:
            raise ConnectionLost
        field, text = name.decode("latin-1").lower(), value.decode("latin-1")
        self.headers[field] = f"{self.headers[field]}, {text}" if field in self.headers else text

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        self.has_headers = self.status >= 200
        self.keeps_alive = self._parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        if not self.is_complete:
            self.pieces.append(body)

    def on_message_begin(self) -> None:
        # Something came behind the answer; or behind an interim one (1xx), whose headers are not the answer's.
        self._has_more = self.is_complete
        if not self.is_complete:
            self.headers = {}

    def on_message_complete(self) -> None:
        self.is_complete = self.is_complete or self.has_headers


def _decoded(pieces: Iterator[bytes], encoding: str) -> Iterator[bytes]:
    """A body that came compressed although we asked for a plain one, a bounded piece at a time."""
    if encoding not in {"gzip", "deflate"}:
        raise bad_response()
    decoder = zlib.decompressobj(GZIP_OR_ZLIB)
    try:
        for piece in pieces:
            while piece:
                yield decoder.decompress(piece, RECEIVE_BYTES)
                piece = decoder.unconsumed_tail
    except zlib.error as exc:
        raise bad_response() from exc
    if not decoder.eof:
        raise bad_response()


def _connected(host: str, port: int, tls: ssl.SSLContext | None, timeout: float) -> socket.socket:
    plain = socket.create_connection((host, port), timeout)
    try:
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ready = plain if tls is None else tls.wrap_socket(plain, server_hostname=host)
        ready.settimeout(None)
    except BaseException:
        plain.close()
        raise
    return ready


def _close_all(connections: list[UpstreamConnection]) -> None:
    while connections:
        connections.pop().close()
