"""gunicorn's workers with our manners: what they refuse before Flask sees it is a problem document, too."""

from __future__ import annotations

import json
import socket
from http import HTTPStatus
from typing import Any
from uuid import uuid4

from gevent.hub import Hub
from gunicorn.http import errors as parse_errors
from gunicorn.workers.ggevent import GeventWorker as _GeventWorker
from gunicorn.workers.gthread import ThreadWorker as _ThreadWorker

REFUSALS: dict[type[BaseException], int] = {
    parse_errors.LimitRequestLine: 414,
    parse_errors.LimitRequestHeaders: 431,
    parse_errors.ExpectationFailed: 417,
}


class _ProblemAnswers:
    """Mixed into a worker: answers a request that cannot be parsed and closes, quoting nothing of it."""

    log: Any

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: BaseException) -> None:
        refused = isinstance(exc, parse_errors.ParseException)
        status = REFUSALS.get(type(exc), 400) if refused else 500
        if refused:
            self.log.info("refused a request that is not HTTP: %s", type(exc).__name__)
        else:
            self.log.error("request failed outside the application", exc_info=exc)
        try:
            client.settimeout(1)
            client.sendall(_answer(status))
        except OSError:
            self.log.debug("the peer was gone")


class GeventWorker(_ProblemAnswers, _GeventWorker):
    """One greenlet per connection."""

    def patch(self) -> None:
        super().patch()
        # A quick stop ends in SystemExit; gevent would print it with a traceback at every Ctrl-C.
        Hub.NOT_ERROR = (*Hub.NOT_ERROR, SystemExit)


class ThreadWorker(_ProblemAnswers, _ThreadWorker):
    """One thread per request."""


def _answer(status: int) -> bytes:
    phrase, request_id = HTTPStatus(status).phrase, uuid4().hex
    ours = status == 500
    detail = "The server failed to handle the request" if ours else "The request is not acceptable HTTP"
    body = json.dumps(
        {
            "type": "about:blank",
            "title": phrase,
            "status": status,
            "detail": detail,
            "code": "internal_error" if ours else "bad_request",
            "success": False,
            "session_id": "",
            "error_message": ("채팅 서비스 오류: " if ours else "입력 데이터 오류: ") + detail,
            "origin": "server" if ours else "client",
            "retryable": False,
            "request_id": request_id,
        },
        ensure_ascii=False,
    ).encode()
    head = [
        f"HTTP/1.1 {status} {phrase}",
        "Content-Type: application/problem+json",
        f"Content-Length: {len(body)}",
        f"X-Request-ID: {request_id}",
        "X-Content-Type-Options: nosniff",
        "Cache-Control: no-store",
        "Connection: close",
    ]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body
