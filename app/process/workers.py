"""gunicorn's workers, changed in three ways: what they refuse is a problem document, no peer holds them up, and the
gevent worker reads and answers a usual request in few steps (http_head.py, answer.py).

This module and answer.py build on the inside of gunicorn's workers, lifecycle.py on that of its master.
`tests/unit/test_private_parts.py` notices when gunicorn changes what is used here.
"""

from __future__ import annotations

import contextlib
import errno
import io
import math
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NoReturn

import gevent
import gevent.events
from gunicorn import http
from gunicorn.glogging import Logger
from gunicorn.http import errors as parse_errors
from gunicorn.http import wsgi
from gunicorn.workers.ggevent import GeventWorker as _GeventWorker
from gunicorn.workers.gthread import ThreadWorker as _ThreadWorker

from app.errors import ValidationException
from app.process.answer import Answer
from app.process.connections import (
    LINGER_BYTES,
    LINGER_DECLARED_BYTES,
    READ_PIECE,
    FairSocket,
    close_gently,
    plain,
    read_at_hand,
    reset,
)
from app.process.http_head import Limits, UsualRequest, read_head
from app.process.refusal import refusal
from app.store.threads import give_logging_system_locks

HEAD_SECONDS = 5.0
"""For the first head of a new connection."""
STOP_IDLE_SECONDS = 2.0
"""How long idle connections are kept while the worker stops."""
KEPT_BYTES = 64 * 1024
"""What may be left of a body that was not read, where the connection is to serve the next request."""
FULL_SECONDS = 0.1
"""Between two tries to accept a connection where no descriptor is left."""
GONE = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN)
SCHEME_HEADERS = {"X-FORWARDED-PROTO", "X-FORWARDED-PROTOCOL", "X-FORWARDED-SSL"}

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
        client = plain(client)
        try:
            client.settimeout(1)
            client.sendall(refusal(status))
        except OSError:
            self.log.debug("the peer was gone")
        close_gently(client)


@dataclass(slots=True)
class _Connection:
    """A caller's connection while gevent serves it.

    `base`: what gunicorn's environ has for each of its requests; None where gunicorn reads all of them.
    `head_end`: when the head that has begun has to be there (`time.monotonic()`), where another reader takes it over.
    """

    client: socket.socket
    base: Mapping[str, Any] | None
    has_served: bool = False
    head_end: float | None = None


class GeventWorker(_AnswersWithProblems, _GeventWorker):
    """One greenlet per connection.

    `handle` is where it is chosen who reads a request: usual ones are read and answered in `_serve_usual`. The first
    one that is not usual goes to gunicorn's own loop, with every byte that has come, and `handle_request` comes back
    to `_serve_usual` behind it. Body, deadlines, and closing are the same on both ways: `test_both_answer_the_same`.

    gunicorn gives a request's head as long as an idle connection, its `keepalive`. Here a new connection has only
    HEAD_SECONDS for its first head, and when the worker stops, idle connections do not hold it:
    `test_an_idle_connection_does_not_hold_a_stop`.
    """

    alive: bool
    slow_seconds = 30.0
    """Within which a body has to be there, and each piece of an answer has to be taken."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waiting: set[_Wait] = set()
        self._stopped_at: float | None = None
        self._bases: dict[Any, dict[str, Any] | None] = {}
        cfg = self.cfg
        self._keepalive_seconds = float(cfg.keepalive)
        self._limits = Limits(cfg.limit_request_line, cfg.limit_request_fields, cfg.limit_request_field_size)
        self._scheme = lru_cache(256)(self._believed_scheme)

    def patch(self) -> None:
        """Put gevent in the place of what blocks in the standard library, but leave logging its locks: system threads
        log as well."""
        # gevent would ask every installed package 25 times whether it has a plugin for this: 60 ms. Only its own is
        # installed, which warns where `signal` is patched without `os`; gunicorn patches both.
        gevent.events.notify_and_call_entry_points = gevent.events.notify
        super().patch()
        give_logging_system_locks()

    def timeout_ctx(self) -> _Wait:
        """How long the next request of this connection is waited for."""
        connection = served_connection()
        seconds = self._keepalive_seconds
        if connection is None or not connection.has_served:
            seconds = min(seconds, HEAD_SECONDS)
        if connection is not None and connection.head_end is not None:
            seconds = max(connection.head_end - time.monotonic(), 0)
            connection.head_end = None
        return _Wait(seconds, self._waiting)

    def notify(self) -> None:
        """Tell the master that this worker lives, as every second; while it stops, close what is idle."""
        super().notify()
        if self.alive:
            return
        self._stopped_at = self._stopped_at or time.monotonic()
        # A request may be on its way already.
        if time.monotonic() - self._stopped_at >= STOP_IDLE_SECONDS:
            for wait in tuple(self._waiting):
                wait.end()

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        """Serve a connection to its end."""
        connection = gevent.getcurrent().connection = self._connection(listener, client, addr)
        if connection.base is None:
            super().handle(listener, client, addr)
        elif begun := self._usual_beginning(connection, addr):
            super().handle(listener, FairSocket(client, begun), addr)

    def _connection(self, listener: Any, client: Any, addr: Any) -> _Connection:
        if listener not in self._bases:
            self._bases[listener] = self._base_environ(listener)
        base = self._bases[listener]
        if base is None:
            return _Connection(client, None)
        own = {"gunicorn.socket": client, "REMOTE_ADDR": addr[0], "REMOTE_PORT": str(addr[1])}
        return _Connection(client, base | own)

    def _base_environ(self, listener: Any) -> dict[str, Any] | None:
        """What gunicorn's environ has for every request that comes here, as gunicorn itself makes it.

        None where more of a request depends on the server's settings than a usual one has: gunicorn reads all then.
        """
        address, cfg = listener.getsockname(), self.cfg
        if cfg.is_ssl or cfg.proxy_protocol != "off" or cfg.protocol != "http" or "h2" in cfg.http_protocols:
            return None
        if not (isinstance(address, tuple) and cfg.keepalive and cfg.secure_scheme_headers.keys() <= SCHEME_HEADERS):
            return None
        peer = ("", 0)
        req = next(http.get_parser(cfg, iter([b"GET / HTTP/1.1\r\n\r\n"]), peer))
        try:
            environ: dict[str, Any] = wsgi.create(req, None, peer, address, cfg)[1]
        except parse_errors.ConfigurationProblem:
            # SCRIPT_NAME is set, and cut off each path.
            return None
        del environ["wsgi.early_hints"]
        return None if environ["SCRIPT_NAME"] else environ | {"wsgi.multithread": True}

    def _believed_scheme(self, host: str, said: str) -> str:
        """What gunicorn makes of `X-Forwarded-Proto`: it depends on who says it."""
        head = f"GET / HTTP/1.1\r\nX-Forwarded-Proto: {said}\r\n\r\n".encode("latin-1")
        return str(next(http.get_parser(self.cfg, iter([head]), (host, 0))).scheme)

    def _usual_beginning(self, connection: _Connection, addr: Any) -> bytes:
        """Serve the usual requests with which a connection begins; gives what has come of the first other one.

        Nothing when the connection is over. What goes wrong is treated as gunicorn's own loop does.
        """
        begun, client = b"", connection.client
        try:
            client.setblocking(True)
            begun = self._serve_usual(connection, b"")
        except StopIteration:
            self.log.debug("Closing connection.")
        except OSError as exc:
            if exc.errno in GONE:
                self.log.debug("the peer was gone")
            else:
                self.log.exception("Socket error processing request.")
        except Exception as exc:
            self.handle_error(None, client, addr, exc)
        finally:
            if not begun:
                client.close()
        return begun

    def _serve_usual(self, connection: _Connection, data: bytes) -> bytes:
        """Serve usual requests, the first of which begins with `data`; gives what has come of the first other one.

        Nothing when the caller has closed or was silent for too long. Raises StopIteration when the connection is to
        be closed, as gunicorn's own `handle_request`.
        """
        while connection.base is not None and (data or (data := self._next_bytes(connection))):
            # What has begun goes on first: else many requests that come at once would all begin before one is answered.
            gevent.sleep(0)
            request = self._read(connection.base, data)
            if request is None or request.end - request.body > KEPT_BYTES:
                break
            if request.end > len(data):
                data += read_at_hand(connection.client, request.end - len(data))
                if request.end > len(data):
                    break
            self._answer(connection, request, data[request.body : request.end])
            data = data[request.end :]
        return data

    def _read(self, base: Mapping[str, Any], data: bytes) -> UsualRequest | None:
        """The usual request with which `data` begins; None for any other."""
        request = read_head(data, base, self._limits)
        if request is not None and (said := request.environ.get("HTTP_X_FORWARDED_PROTO")) is not None:
            request.environ["wsgi.url_scheme"] = self._scheme(request.environ["REMOTE_ADDR"], said)
        return request

    def _next_bytes(self, connection: _Connection) -> bytes:
        data = b""
        # It is waited as long as timeout_ctx() says.
        connection.client.settimeout(None)
        with self.timeout_ctx() as wait:
            connection.head_end = time.monotonic() + wait.seconds
            data = connection.client.recv(READ_PIECE)
        return data

    def _answer(self, connection: _Connection, request: UsualRequest, body: bytes) -> None:
        """Have the application answer, as gunicorn's `handle_request`."""
        connection.has_served, connection.head_end = True, None
        client, environ = connection.client, request.environ
        environ["wsgi.input"] = io.BytesIO(body)
        self.nr += 1
        if self.nr >= self.max_requests and self.alive:
            self.log.info("Autorestarting worker after current request.")
            self.alive = False
        answer = Answer(request, client, self.cfg, self.slow_seconds)
        if not self.alive:
            answer.force_close()
        try:
            self._run(environ, answer)
        except TimeoutError:
            self._give_up(client)
        except (gevent.GreenletExit, SystemExit):
            raise StopIteration from None
        except OSError:
            raise
        except Exception:
            if not answer.headers_sent:
                raise
            # A second answer would be taken for a part of the first.
            self.log.exception("Error handling request")
            with contextlib.suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)
            client.close()
            raise StopIteration from None
        if answer.should_close():
            close_gently(client)
            raise StopIteration

    def _run(self, environ: dict[str, Any], answer: Answer) -> None:
        pieces = self.wsgi(environ, answer.start_response)
        try:
            for piece in pieces:
                answer.write(piece)
            answer.close()
        finally:
            if hasattr(pieces, "close"):
                pieces.close()

    def _give_up(self, client: socket.socket) -> NoReturn:
        self.log.info("closed a connection whose peer does not take its answer")
        reset(client)
        raise StopIteration from None

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> bool:
        """Answer a request that gunicorn has read, and usual ones behind it."""
        connection, sock = served_connection(), plain(sock)
        if connection is not None:
            connection.has_served = True
        # See _serve_usual.
        gevent.sleep(0)
        body = req.body.reader = _TimedReader(req, self.slow_seconds)
        if not isinstance(req.unreader.sock, FairSocket):
            req.unreader.sock = FairSocket(req.unreader.sock)
        # Asked when the head of the answer is made, which then says `Connection: close`.
        says_close = req.should_close
        req.should_close = lambda: says_close() or body.left_bytes > KEPT_BYTES
        sock.settimeout(self.slow_seconds)
        try:
            super().handle_request(listener_name, req, sock, addr)
        except StopIteration:
            # gunicorn's way to say that the connection is to be closed; gthread closes gracefully on its own.
            close_gently(sock, max_bytes=body.left_bytes if body.left_bytes <= LINGER_DECLARED_BYTES else LINGER_BYTES)
            raise
        except TimeoutError:
            self._give_up(sock)
        # As in _next_bytes.
        sock.settimeout(None)
        if connection is not None and connection.base is not None and not body.left_bytes:
            req.unreader.unread(self._usual_between(connection, req.unreader.take_buffered()))
        return True

    def _usual_between(self, connection: _Connection, data: bytes) -> bytes:
        """Serve usual requests behind one that gunicorn has read; gives the beginning of the next for gunicorn."""
        begun = self._serve_usual(connection, data)
        if not begun:
            raise StopIteration
        return begun


def served_connection() -> _Connection | None:
    """The connection that this greenlet serves."""
    return getattr(gevent.getcurrent(), "connection", None)


class _Wait(gevent.Timeout):
    """A wait for the next request of a connection, which can be ended early; `waits` holds those that last."""

    def __init__(self, seconds: float, waits: set[_Wait]) -> None:
        super().__init__(seconds, False)
        self._waits = waits
        self._greenlet = gevent.getcurrent()

    def __enter__(self) -> _Wait:
        self._waits.add(self)
        super().__enter__()
        return self

    def __exit__(self, *raised: Any) -> Any:
        self._waits.discard(self)
        return super().__exit__(*raised)

    def end(self) -> None:
        """As if the time were over."""
        gevent.kill(self._greenlet, exception=self, block=False)


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

    def accept(self, listener: Any) -> None:
        """Let connections wait where no descriptor is left for them; gunicorn's worker would end, with all that it
        has. Its loop asks again, so this waits a moment, as gevent's does."""
        try:
            super().accept(listener)
        except OSError as exc:
            if exc.errno not in {errno.EMFILE, errno.ENFILE}:
                raise
            self.log.error("%s: connections have to wait", os.strerror(exc.errno))
            time.sleep(FULL_SECONDS)

    def set_accept_enabled(self, enabled: bool) -> None:
        super().set_accept_enabled(enabled)
        if not self.alive:
            # Else the kernel would go on accepting, on behalf of a worker that never answers.
            for listener in self.sockets:
                listener.close()
