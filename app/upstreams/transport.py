"""How a request gets to upstream and its answer back, on connections that are kept open.

What is read of an answer is bounded, redirects are not followed, and cookies are not stored, so none reaches the next
caller. A connection works for one call at a time and is bound to it, so the late end of an earlier call never cuts the
request that uses the connection now (test_transport.py). One goes back only when its answer was read to the end.

A request on a connection that was used before, and is closed without one byte of an answer, is sent once more on a new
one: upstream closed it while it was idle, and the request crossed that (RFC 9112, 9.3.1; `test_no_request_is_lost`).
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Self
from urllib.parse import urlsplit

from app.calls.call import Call
from app.config import Config
from app.upstreams.catalog import MODEL
from app.upstreams.connect import Connector
from app.upstreams.connection_errors import ConnectionLost
from app.upstreams.content_coding import decoded
from app.upstreams.errors import bad_response, connection_error
from app.upstreams.http1 import UpstreamConnection
from app.upstreams.idle import IDLE_SECONDS, IdleConnections
from app.upstreams.names import Resolver
from app.upstreams.proxy import Proxy, proxy_for

MAX_RESPONSE_BYTES = 8 * 1024 * 1024
COPIED_BYTES = 256 * 1024


class Transport:
    """The connections to one upstream; `pool_size` of them are kept open for reuse. Create it after the fork.

    `proxy` is the URL of a proxy, `ca_file` a file of authorities that are trusted beside the system's; empty: none.
    """

    def __init__(
        self,
        base_url: str,
        pool_size: int,
        *,
        proxy: str = "",
        ca_file: str = "",
        resolver: Resolver | None = None,
        max_response_bytes: int = MAX_RESPONSE_BYTES,
        idle_seconds: float = IDLE_SECONDS,
    ) -> None:
        url = urlsplit(base_url)
        through = Proxy.from_url(proxy) if proxy else None
        self._connector = Connector(url, proxy=through, ca_file=ca_file, resolver=resolver)
        self._host = url.netloc
        self._prefix = url.path.rstrip("/")
        self._max_response_bytes = max_response_bytes
        self._idle = IdleConnections(pool_size, idle_seconds)
        # A plain Python program makes a client and forgets it.
        weakref.finalize(self, self._idle.close)

    @classmethod
    def of(cls, config: Config, base_url: str) -> Self:
        """The connections to one upstream. Where its base URL has a place for the model, the path of a request is
        whole."""
        url = base_url if MODEL not in base_url else urlsplit(base_url)._replace(path="").geturl()
        return cls(
            url,
            config.max_concurrent_requests,
            proxy=proxy_for(config, base_url),
            ca_file=config.upstream_ca_file,
        )

    def send(self, path: str, headers: Mapping[str, str], body: bytes | None, call: Call) -> Response:
        """Send one request on behalf of `call` and return when the headers of the answer are there.

        Without a body it is a GET. Raises CouldNotConnect, ConnectionLost, or what ended the call.
        """
        request = self._request(path, headers, body or b"", "GET" if body is None else "POST")
        connection = self._idle.take()
        if connection is not None:
            try:
                return self._ask(connection, request, call)
            except ConnectionLost:
                if call.ended or not connection.is_silent:
                    raise
        return self._ask(UpstreamConnection(self._connector.connect(call)), request, call)

    def take_back(self, connection: UpstreamConnection) -> None:
        """Keep a connection that can be used again; close any other."""
        self._idle.put(connection)

    def close(self) -> None:
        """Close the idle connections."""
        self._idle.close()

    def _ask(self, connection: UpstreamConnection, request: Sequence[bytes], call: Call) -> Response:
        try:
            call.hold(connection.held_socket)
            status, answered = connection.ask(*request)
        except BaseException:
            call.let_go()
            connection.close()
            raise
        return Response(self, connection, call, status, answered, self._max_response_bytes)

    def _request(self, path: str, headers: Mapping[str, str], body: bytes, method: str) -> Sequence[bytes]:
        """A whole HTTP/1.1 request (RFC 9112); its parts were checked where they came in. A large body, which may be
        held once more already, is not copied."""
        length = "" if method == "GET" else f"Content-Length: {len(body)}\r\n"
        lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
        head = f"{method} {self._prefix}{path} HTTP/1.1\r\nHost: {self._host}\r\n{lines}{length}\r\n".encode("ascii")
        return (head, body) if len(body) > COPIED_BYTES else (head + body,)


def bounded(pieces: Iterable[bytes], max_bytes: int) -> Iterator[bytes]:
    """The pieces of a body that is read as a whole; raises `upstream_bad_response` when it is too large for that."""
    for piece in pieces:
        max_bytes -= len(piece)
        if max_bytes < 0:
            raise bad_response()
        yield piece


class Response:
    """An HTTP response: status and headers are here, the body is read piece by piece.

    No more than `max_bytes` of it are read as a whole. Who takes the pieces holds what it wants: a stream is bounded
    event by event, and what only passes is not held.
    """

    def __init__(
        self,
        transport: Transport,
        connection: UpstreamConnection,
        call: Call,
        status: int,
        headers: Mapping[str, str],
        max_bytes: int,
    ) -> None:
        self.status = status
        self.headers = headers
        self._transport = transport
        self._connection: UpstreamConnection | None = connection
        self._call = call
        self.max_bytes = max_bytes

    def read(self) -> bytes:
        """The whole body; raises as iterating does, and `upstream_bad_response` where it is too large."""
        return b"".join(bounded(self, self.max_bytes))

    def __iter__(self) -> Iterator[bytes]:
        """Each piece as it arrives.

        Raises OpenAIClientException `upstream_connection_error` or `upstream_bad_response`, or what ended the call.
        """
        coding = self.headers.get("content-encoding")
        return self._pieces() if coding is None else decoded(self._pieces(), coding)

    def _pieces(self) -> Iterator[bytes]:
        while self._connection is not None:
            try:
                piece = self._connection.next_piece()
            except ConnectionLost as exc:
                # A connection that the end of its call cut is lost, too.
                self._call.remaining_seconds()
                raise connection_error() from exc
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

    def __exit__(self, *_: object) -> None:
        self.close()
