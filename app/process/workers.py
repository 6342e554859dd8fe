"""gunicorn's workers, changed in two ways: what they refuse is a problem document, and no peer holds them up.

This is the one module that builds on the inside of gunicorn's workers. `tests/unit/test_private_parts.py` notices when
gunicorn changes what is used here.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import struct
import time
from typing import Any
from uuid import uuid4

import gevent
from gunicorn.glogging import Logger
from gunicorn.http import errors as parse_errors
from gunicorn.workers.ggevent import GeventWorker as _GeventWorker
from gunicorn.workers.gthread import ThreadWorker as _ThreadWorker

from app.errors import ChatServiceException, ServiceException, ValidationException

LINGER_SECONDS = 1.0
LINGER_BYTES = 2 * 1024 * 1024
"""How long, and for how many bytes, a connection that is being closed is read: else the answer could be lost."""
LINGER_DECLARED_BYTES = 64 * 1024 * 1024
"""The same where the request said how long its body is: a caller that sends all of it first can read its 413."""
READ_PIECE = 64 * 1024
KEPT_BYTES = 64 * 1024
"""What may be left of a body that was not read, where the connection is to serve the next request."""
FAIR_BYTES = 16 * 1024
"""After so many bytes of one connection the others have a turn."""

REFUSALS: dict[type[BaseException], int] = {
    parse_errors.LimitRequestLine: 414,
    parse_errors.LimitRequestHeaders: 431,
    parse_errors.ExpectationFailed: 417,
}


class NoAccessLog(Logger):
    """gunicorn's logger without its access log: the application's own line says more of a request, and only once."""

    def access(self, resp: Any, req: Any, environ: Any, request_time: Any) -> None:
        """Write nothing."""


class _AnswersWithProblems:
    """Mixed into a worker: how it refuses what cannot be parsed, and how it leaves while it is still starting."""

    log: Any
    cfg: Any

    def handle_quit(self, sig: int, frame: Any) -> None:
        """End at once: there is nothing to settle before QuickStop handles the signals."""
        self.cfg.worker_int(self)
        os._exit(0)

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: BaseException) -> None:
        """Answer a request that cannot be parsed with a problem document and close, quoting nothing of it."""
        refused = isinstance(exc, parse_errors.ParseException)
        status = REFUSALS.get(type(exc), 400) if refused else 500
        if refused:
            self.log.info("refused a request that is not HTTP: %s", type(exc).__name__)
        else:
            self.log.error("request failed outside the application", exc_info=exc)
        try:
            client.settimeout(1)
            client.sendall(refusal(status))
        except OSError:
            self.log.debug("the peer was gone")
        _close(client)


class GeventWorker(_AnswersWithProblems, _GeventWorker):
    """One greenlet per connection. A request's head has `keepalive` seconds, which gunicorn sees to."""

    slow_seconds = 30.0
    """Within which a body has to be there, and each piece of an answer has to be taken."""

    def handle_request(self, listener_name: Any, req: Any, sock: socket.socket, addr: Any) -> bool:
        # What has begun goes on first: else many requests that come at once would all begin before one is answered.
        gevent.sleep(0)
        body = req.body.reader = _TimedReader(req, self.slow_seconds)
        _give_turns(req.unreader)
        # Asked when the head of the answer is made, which then says `Connection: close`.
        says_close = req.should_close
        req.should_close = lambda: says_close() or body.left_bytes > KEPT_BYTES
        sock.settimeout(self.slow_seconds)
        try:
            return bool(super().handle_request(listener_name, req, sock, addr))
        except StopIteration:
            # gunicorn's way to say that the connection is to be closed; gthread closes gracefully on its own.
            _close(sock, max_bytes=body.left_bytes if body.left_bytes <= LINGER_DECLARED_BYTES else LINGER_BYTES)
            raise
        except TimeoutError:
            self.log.info("closed a connection whose peer does not take its answer")
            # With a reset: the kernel would keep what was not taken, and try for minutes.
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
            raise StopIteration from None


class _FairSocket:
    """Reads a connection as its socket does, but lets the other greenlets run in between.

    Without it a peer that sends as fast as we read would hold the worker for as long as it likes: gevent switches only
    where it has to wait, and no timeout can fire before. `test_a_flood_holds_nobody_up` shows it.
    """

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._bytes = 0

    def recv(self, size: int) -> bytes:
        """Some bytes; empty at the end."""
        if self._bytes >= FAIR_BYTES:
            gevent.sleep(0)
            self._bytes = 0
        received = self._sock.recv(size)
        self._bytes += len(received)
        return received


def _give_turns(unreader: Any) -> None:
    """Have gunicorn's reader of a connection read through a _FairSocket, from now on."""
    if not isinstance(unreader.sock, _FairSocket):
        unreader.sock = _FairSocket(unreader.sock)


class _TimedReader:
    """Reads a request's body as gunicorn's own reader does, for so many seconds in all."""

    def __init__(self, req: Any, seconds: float) -> None:
        self._req, self._reader = req, req.body.reader
        self._end = time.monotonic() + seconds

    @property
    def left_bytes(self) -> float:
        """How many bytes of the body were not read yet; infinite where a chunked one has not come to its end."""
        if hasattr(self._reader, "length"):
            return int(self._reader.length)
        return 0 if getattr(self._reader, "parser", None) is None else math.inf

    def read(self, size: int) -> bytes:
        """Some of the body. Raises ValidationException (408) when the time is over."""
        late = ValidationException("The request's body did not come in time", error_code="bad_request", status=408)
        try:
            with gevent.Timeout(max(self._end - time.monotonic(), 0), late):
                return bytes(self._reader.read(size))
        except ValidationException:
            self._req.force_close()
            raise


class ThreadWorker(_AnswersWithProblems, _ThreadWorker):
    """One thread per request."""

    def set_accept_enabled(self, enabled: bool) -> None:
        super().set_accept_enabled(enabled)
        if not self.alive:
            # Else the kernel would go on accepting, on behalf of a worker that never answers.
            for listener in self.sockets:
                listener.close()


def _close(client: socket.socket, *, max_bytes: float = LINGER_BYTES) -> None:
    """Close without losing the answer: bytes left unread would turn the close into a reset, which can destroy it.

    As RFC 9112, section 9.6, but for a limited time and number of bytes, and the other greenlets run in between.
    """
    end, left = time.monotonic() + LINGER_SECONDS, max(max_bytes, LINGER_BYTES)
    with client, contextlib.suppress(OSError):
        client.shutdown(socket.SHUT_WR)
        while left > 0 and (seconds := end - time.monotonic()) > 0:
            client.settimeout(seconds)
            received = client.recv(READ_PIECE)
            if not received:
                break
            left -= len(received)
            # gevent's own sleep in a gevent worker.
            time.sleep(0)


def refusal(status: int) -> bytes:
    """Head and body of the answer to a request that the application never gets; 500 when that is our fault."""
    # Here and not at the top: gunicorn's master imports this module, and flask has to wait until gevent has patched.
    from app.web.problems import PROBLEM

    request_id = uuid4().hex
    document = PROBLEM.document(_error(status), "", request_id)
    body = json.dumps(document, ensure_ascii=False).encode()
    head = [
        f"HTTP/1.1 {status} {document['title']}",
        f"Content-Type: {PROBLEM.media_type}",
        f"Content-Length: {len(body)}",
        f"X-Request-ID: {request_id}",
        "X-Content-Type-Options: nosniff",
        "Cache-Control: no-store",
        "Connection: close",
    ]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def _error(status: int) -> ServiceException:
    if status == 500:
        return ChatServiceException("The server failed to handle the request", "internal_error")
    return ValidationException("The request is not acceptable HTTP", error_code="bad_request", status=status)
