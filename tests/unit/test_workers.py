"""What a worker answers that cannot hand a request to the application."""

from __future__ import annotations

import json
import logging
import socket

import pytest
from gunicorn.http import errors

from app.process.workers import GeventWorker


class FakeWorker(GeventWorker):
    """A worker that was never started: it has a log, and that is all."""

    def __init__(self) -> None:
        self.log = logging.getLogger("gunicorn.error")


def answered(error: BaseException) -> tuple[bytes, dict[str, object]]:
    """The head and the problem that a peer reads when a worker meets `error`."""
    here, there = socket.socketpair()
    with there:
        there.shutdown(socket.SHUT_WR)  # All is sent: the worker need not wait for more before it closes.
        FakeWorker().handle_error(None, here, ("127.0.0.1", 1), error)
        there.settimeout(5)
        received = b""
        while piece := there.recv(65536):
            received += piece
    head, _, body = received.partition(b"\r\n\r\n")
    return head, json.loads(body)


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (errors.InvalidHeader("secret"), 400, "bad_request"),
        (errors.LimitRequestLine(5000, 4094), 414, "bad_request"),
        (errors.LimitRequestHeaders("secret"), 431, "bad_request"),
        (errors.ExpectationFailed("secret"), 417, "bad_request"),
        (ValueError("secret"), 500, "internal_error"),
    ],
)
def test_a_request_that_never_reached_the_application(
    caplog: pytest.LogCaptureFixture, error: BaseException, status: int, code: str
) -> None:
    """A problem document, the connection closed, and nothing of the request quoted."""
    head, problem = answered(error)
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    assert b"Connection: close" in head
    assert b"Content-Type: application/problem+json" in head
    assert (problem["status"], problem["code"], problem["success"]) == (status, code, False)
    assert f"X-Request-ID: {problem['request_id']}".encode() in head
    assert b"secret" not in head + json.dumps(problem).encode()
    assert "secret" not in "".join(record.getMessage() for record in caplog.records)


def test_a_peer_that_is_gone() -> None:
    """Nobody is left to answer, and that is no error."""
    here, there = socket.socketpair()
    there.close()
    FakeWorker().handle_error(None, here, ("127.0.0.1", 1), errors.InvalidHeader("x"))
