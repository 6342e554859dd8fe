"""HTTP/1.1 on one connection to upstream: a request goes out whole, its answer is parsed as it comes.

httptools parses (llhttp, the parser of Node.js): http.client takes twice as long for the same (docs/performance, "Where
the time goes"). The head is bounded, and what is not HTTP is ConnectionLost.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Mapping

import httptools

from app.calls.sockets import HeldSocket, peek
from app.upstreams.connection_errors import ConnectionLost

RECEIVE_BYTES = 65_536
HEAD_MAX_BYTES = 65_536
HEADERS_MAX = 100


class UpstreamConnection:
    """A connected socket, which it owns. The socket has no timeout: the watchdog shuts it down when a call ends."""

    def __init__(self, sock: socket.socket) -> None:
        self.held_socket = HeldSocket(sock)
        self._socket = sock
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

    @property
    def is_silent(self) -> bool:
        """Whether not one byte of an answer has come since the request."""
        return self._received == 0

    def ask(self, *request: bytes) -> tuple[int, Mapping[str, str]]:
        """Send a whole request, in one part or more; give status and headers of the answer when they are there.

        Raises ConnectionLost.
        """
        self._message = _Message()
        self._received = 0
        # Upstream may refuse before it has read everything; its answer is there all the same.
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for part in request:
                self._send(part)
        while not self._message.has_headers:
            self._receive()
            if self._received > HEAD_MAX_BYTES and not self._message.has_headers:
                raise ConnectionLost
        return self._message.status, self._message.headers

    def next_piece(self) -> bytes:
        """The next piece of the body as it came; empty at its end. Raises ConnectionLost."""
        message, before = self._message, self._received
        while not message.pieces and not message.is_complete:
            self._receive()
            if self._received - before > HEAD_MAX_BYTES and not message.pieces:
                # Trailers or chunk extensions without end.
                raise ConnectionLost
        return message.take()

    def close(self) -> None:
        """Close the socket; from now on no call cuts it."""
        self.held_socket.bind(None)
        self._socket.close()

    def _send(self, request: bytes) -> None:
        try:
            # The kernel nearly always takes all of it. sendall() would first ask how much it takes.
            sent = self._socket.send(request)
            if sent < len(request):
                self._socket.sendall(memoryview(request)[sent:])
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
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as exc:
            # An upgrade (101) is nothing that we ask for.
            raise ConnectionLost from exc


class _Message:
    """One answer while it is parsed. `feed` takes what came; the methods `on_…` are called by the parser."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self._headers_seen = 0
        self.pieces: list[bytes] = []
        self.status = 0
        self.has_headers = self.is_complete = self.keeps_alive = False
        self._has_more = False
        self._parser = httptools.HttpResponseParser(self)
        self.feed = self._parser.feed_data

    @property
    def is_last_of_its_bytes(self) -> bool:
        """Whether it is complete and nothing came behind it."""
        return self.is_complete and not self._has_more

    def end(self) -> None:
        """Upstream has closed the connection: the end of a body without a stated length, else a loss."""
        if not self.has_headers or "content-length" in self.headers or self._is_chunked:
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
        if self.has_headers:
            return  # A trailer says nothing that we need.
        field, text = name.decode("latin-1").lower(), value.decode("latin-1")
        self.headers[field] = f"{self.headers[field]}, {text}" if field in self.headers else text

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()
        if not self._is_chunked and self.headers.get("transfer-encoding", "identity").strip().lower() != "identity":
            # A coding of the transfer that we did not ask for and cannot undo (RFC 9112, 6.1).
            raise ConnectionLost
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

    @property
    def _is_chunked(self) -> bool:
        return self.headers.get("transfer-encoding", "").strip().lower() == "chunked"
