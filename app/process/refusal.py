"""The answer to a request that the application never gets: a problem document, and a connection that is closed."""

from __future__ import annotations

import json
from uuid import uuid4

from app.errors import ChatServiceException, ServiceException, ValidationException


def refusal(status: int) -> bytes:
    """Head and body of the answer; 500 when that is our fault."""
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
