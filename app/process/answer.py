"""Answers a usual request: the head and the first piece of the body go out with one system call.

gunicorn sends them one after the other, each with a timer of its own, and looks at the name of each header anew: that
was the largest part of what it does for a request. Here its own class makes the answer, so that status,
framing, what is cut and what is refused stay gunicorn's; only the head waits for what comes behind it.
`test_both_answer_the_same` compares what is sent. This class relies on the inside of gunicorn's: `send_headers`,
`write`, `close` and `_emit_body` are all that send, and `headers` is what `process_headers` keeps (test_private_parts).
"""

from __future__ import annotations

import socket
import time
from email.utils import formatdate
from functools import lru_cache
from typing import Any

from gunicorn.http.wsgi import HEADER_VALUE_RE, TOKEN_RE, Response
from gunicorn.util import is_hoppish

from app.process.connections import send_all
from app.process.http_head import UsualRequest


class Answer(Response):
    """The answer to one request. `seconds` is how long the caller may take for each piece; then TimeoutError."""

    headers_sent: bool

    def __init__(self, request: UsualRequest, client: socket.socket, cfg: Any, seconds: float) -> None:
        super().__init__(request, client, cfg)
        self._seconds = seconds
        self._unsent = b""

    def process_headers(self, headers: list[tuple[str, str]]) -> None:
        """Keep the application's headers. Raises what gunicorn raises for one that is none."""
        for name, value in headers:
            if _is_ordinary(name) and isinstance(value, str) and HEADER_VALUE_RE.fullmatch(value):
                self.headers.append((name, value.strip(" \t")))
            else:
                super().process_headers([(name, value)])

    def send_headers(self) -> None:
        """Make the head, once."""
        if self.headers_sent:
            return
        connection = "upgrade" if self.upgrade else "close" if self.should_close() else "keep-alive"
        head = [
            f"HTTP/1.1 {self.status}",
            f"Server: {self.version}",
            f"Date: {_date(int(time.time()))}",
            f"Connection: {connection}",
            *(["Transfer-Encoding: chunked"] if self.chunked else []),
            *(f"{name}: {value}" for name, value in self.headers),
        ]
        self._unsent = "\r\n".join(head).encode("latin-1") + b"\r\n\r\n"
        self.headers_sent = True

    def write(self, piece: bytes) -> None:
        """Send a piece of the body; where it is empty, at least the head."""
        try:
            super().write(piece)
        finally:
            self._flush()

    def close(self) -> None:
        """Send what is left when the application has no more."""
        self.send_headers()
        if self.chunked:
            self._unsent += b"0\r\n\r\n"
        self._flush()

    def _emit_body(self, data: bytes) -> None:
        self._unsent += b"%X\r\n%b\r\n" % (len(data), data) if self.chunked else data

    def _flush(self) -> None:
        if self._unsent:
            unsent, self._unsent = self._unsent, b""
            send_all(self.sock, unsent, self._seconds)


@lru_cache(256)
def _is_ordinary(name: object) -> bool:
    """Whether a header of this name goes into an answer as it is."""
    if not isinstance(name, str) or not TOKEN_RE.fullmatch(name):
        return False
    return not is_hoppish(name) and name.lower() != "content-length"


@lru_cache(2)
def _date(second: int) -> str:
    """The value of `Date`."""
    return formatdate(second, usegmt=True)
