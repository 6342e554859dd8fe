"""How bytes get to upstream: an httpx2 transport over urllib3's pool.

httpx2's own pool scans every connection per request, which costs most of a core at 1,000 calls in flight; urllib3's
does not. This transport also binds each connection to the call it works for, so that a deadline can cut it, caps what
is read of an answer, and keeps upstream's cookies away from the next caller.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import httpx2
import urllib3
from urllib3 import exceptions as failed
from urllib3.connection import HTTPConnection, HTTPSConnection

from app.call import Call, Connection, current_call

CONNECT_SECONDS = 5.0
CHUNK_BYTES = 65_536
MAX_RESPONSE_BYTES = 8 * 1024 * 1024

DROPPED_REQUEST_HEADERS = frozenset({"accept-encoding", "connection", "cookie", "x-stainless-raw-response"})
DROPPED_RESPONSE_HEADERS = frozenset({"content-encoding", "content-length", "set-cookie", "transfer-encoding"})


class ResponseTooLarge(httpx2.DecodingError):
    """Upstream sent more than we are willing to hold."""


class ResponseUnreadable(httpx2.DecodingError):
    """Upstream's body does not decode."""


class _BoundConnection:
    """Mixed into urllib3's connections: before a request is sent, the connection is bound to the current call."""

    sock: Any

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is None:
            self.connect()  # type: ignore[attr-defined]
        call = current_call.get()
        if call is not None:
            bond: Connection = self.__dict__.setdefault("bond", Connection())
            bond.socket = self.sock
            call.hold(bond)
        super().request(*args, **kwargs)  # type: ignore[misc]


class _BoundHTTPConnection(_BoundConnection, HTTPConnection):
    pass


class _BoundHTTPSConnection(_BoundConnection, HTTPSConnection):
    pass


class _HTTPPool(urllib3.HTTPConnectionPool):
    ConnectionCls = _BoundHTTPConnection


class _HTTPSPool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _BoundHTTPSConnection


class PooledTransport(httpx2.BaseTransport):
    """One connection pool per worker and upstream; `pool_size` connections are kept open for reuse."""

    def __init__(self, pool_size: int, *, max_response_bytes: int = MAX_RESPONSE_BYTES) -> None:
        self._pools = urllib3.PoolManager(num_pools=2, maxsize=pool_size, block=False)
        self._pools.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
        self._max_response_bytes = max_response_bytes

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send one request and return when the headers of the answer are there.

        Raises httpx2.ConnectError when no byte was sent, another httpx2.TransportError when some may have been, and
        whatever ended the call.
        """
        call = current_call.get()
        left = call.remaining_seconds() if call else None
        timeout = urllib3.Timeout(connect=min(CONNECT_SECONDS, left or CONNECT_SECONDS), read=left)
        headers = {name: value for name, value in request.headers.items() if name not in DROPPED_REQUEST_HEADERS}
        headers["accept-encoding"] = "identity"
        try:
            answer = self._pools.urlopen(
                request.method,
                str(request.url),
                body=request.content,
                headers=headers,
                timeout=timeout,
                retries=False,
                redirect=False,
                preload_content=False,
            )
        except (failed.NewConnectionError, failed.ConnectTimeoutError) as exc:
            raise httpx2.ConnectError("could not connect", request=request) from exc
        except failed.HTTPError as exc:
            raise _lost(exc) from exc
        kept = [pair for pair in answer.headers.items() if pair[0].lower() not in DROPPED_RESPONSE_HEADERS]
        # A stream is bounded event by event where it is read; it is never held as a whole.
        endless = answer.headers.get("content-type", "").startswith("text/event-stream")
        max_bytes = None if endless else self._max_response_bytes
        return httpx2.Response(answer.status, headers=kept, stream=_Body(answer, max_bytes, call))

    def close(self) -> None:
        self._pools.clear()


class _Body(httpx2.SyncByteStream):
    """The body of an answer, piece by piece as it arrives, up to a limit and the deadline of its call."""

    def __init__(self, answer: urllib3.BaseHTTPResponse, max_bytes: int | None, call: Call | None) -> None:
        self._answer = answer
        self._left = math.inf if max_bytes is None else max_bytes
        self._call = call

    def __iter__(self) -> Iterator[bytes]:
        try:
            while piece := self._answer.read1(CHUNK_BYTES, decode_content=True):
                self._left -= len(piece)
                if self._left < 0:
                    raise ResponseTooLarge("the answer is larger than we read")
                self._check()
                yield piece
            # A connection that the end of its call cut looks like the end of headers or of a body without length.
            self._check()
        except failed.DecodeError as exc:
            raise ResponseUnreadable("the body does not decode") from exc
        except (failed.HTTPError, OSError) as exc:
            raise _lost(exc) from exc

    def _check(self) -> None:
        if self._call is not None:
            self._call.check()

    def close(self) -> None:
        """Give the connection back if the body was read to its end, else close it."""
        self._answer.close()


def _lost(exc: Exception) -> httpx2.TransportError:
    silent = isinstance(exc, failed.ReadTimeoutError)
    return httpx2.ReadTimeout("nothing came in time") if silent else httpx2.ReadError("connection lost")
