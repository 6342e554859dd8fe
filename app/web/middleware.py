"""What every request gets, whatever its route: a request id, a call with a deadline, safe headers, one log line."""

from __future__ import annotations

import logging
import re
import time
import uuid
from collections.abc import Callable

from flask import Flask, Response, g, request

from app.calls.call import Call, Calls
from app.config import Config
from app.ledger.accounts import PREFIX as TOKEN_PREFIX
from app.process.metrics import Metrics

logger = logging.getLogger("app.request")

TIMED_BLUEPRINTS = {"chat", "openai"}
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
SECURITY_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


def register_middleware(app: Flask, config: Config, metrics: Metrics, calls: Calls) -> None:
    """Register the hooks on the app; `calls` holds each request's call until its answer has been sent."""

    @app.before_request
    def open_call() -> None:
        given = request.headers.get("X-Request-ID", "")
        g.request_id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        caller = request.environ.get("gunicorn.socket")
        token = issued_token(request.headers.get("Authorization", ""))
        g.call = Call(config.request_timeout, request_id=g.request_id, token=token, caller=caller)
        g.call.front_seconds = seconds_in_front(request.headers.get("X-Request-Start", ""))
        metrics.opened()
        calls.add(g.call)

    @app.after_request
    def finish(response: Response) -> Response:
        response.headers.setdefault("X-Request-ID", g.request_id)
        if request.blueprint in TIMED_BLUEPRINTS:
            response.headers["Server-Timing"] = g.call.server_timing()
        for name, value in SECURITY_HEADERS.items():
            response.headers.setdefault(name, value)
        if g.call.upstream_request_id:
            response.headers["X-Upstream-Request-ID"] = g.call.upstream_request_id
        response.call_on_close(LogLine(g.call, response.status_code, metrics, calls))
        return response


def issued_token(authorization: str) -> str:
    """The token of ours that a request brings as its bearer credential; empty when it brings none."""
    scheme, _, credential = authorization.partition(" ")
    credential = credential.strip()
    return credential if scheme.lower() == "bearer" and credential.startswith(TOKEN_PREFIX) else ""


def seconds_in_front(header: str, *, now: Callable[[], float] = time.time) -> float:
    """How long a request waited in front of us, by the proxy's `X-Request-Start: t=…` (seconds, ms or µs since 1970).

    0 when the header is missing, not a number, or says more than an hour: then the clocks differ.
    """
    try:
        began = float(header.strip().removeprefix("t="))
    except ValueError:
        return 0.0
    for unit in (1, 1e3, 1e6):
        waited = now() - began / unit
        if 0 <= waited < 3600:
            return waited
    return 0.0


class LogLine:
    """Writes the one line that the log keeps of a request, and counts it, when its answer has been sent to the end."""

    def __init__(self, call: Call, status: int, metrics: Metrics, calls: Calls) -> None:
        self._call = call
        self._metrics = metrics
        self._calls = calls
        self._route, self._status = str(request.url_rule or "-"), status
        self._timed = request.blueprint in TIMED_BLUEPRINTS
        self._fields = {
            "request_id": call.request_id,
            "peer": request.remote_addr or "-",
            "method": request.method,
            "route": self._route,
            "status": status,
        }

    def __call__(self) -> None:
        call = self._call
        fields = self._fields | {
            "code": call.error_code or "-",
            "total_ms": round(call.elapsed_seconds * 1000, 1),
            "queue_ms": round(call.queue_seconds * 1000, 1),
            "upstream_ms": round(call.upstream_seconds * 1000, 1),
            "input_tokens": call.usage.input_tokens if call.usage else 0,
            "output_tokens": call.usage.output_tokens if call.usage else 0,
            "api_key_source": call.api_key_source or "-",
            "upstream_request_id": call.upstream_request_id or "-",
        }
        self._metrics.answered(call, route=self._route, status=self._status, timed=self._timed)
        level = logging.ERROR if self._status == 500 else logging.INFO
        logger.log(level, "request %s", " ".join(f"{k}={v}" for k, v in fields.items()), extra=fields)
        self._calls.discard(call)
