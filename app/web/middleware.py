"""What every request gets, whatever its route: a call with id and deadline, safe headers, one log line."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from typing import Any, Protocol, cast

from flask import Flask, Request, Response, g, request

from app.calls.call import Call, Calls, new_request_id
from app.calls.receipt import Receipt
from app.calls.trace import Trace
from app.config import Config
from app.web.peer import is_trusted

logger = logging.getLogger("app.request")

TIMED_BLUEPRINTS = {"chat", "openai", "others", "messages"}
FRONT_SECONDS_MAX = 600.0
REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
SECURITY_HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("Cache-Control", "no-store"),
    ("Referrer-Policy", "no-referrer"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
)


class Counter(Protocol):
    """Counts requests; see app/process/metrics.py."""

    def opened(self) -> None:
        """A request has come."""

    def answered(self, call: Call, *, route: str, status: int, code: str | None, timed: bool) -> None:
        """A request is over."""


def register_middleware(app: Flask, config: Config, counter: Counter, calls: Calls) -> None:
    """Register the hooks on the app; `calls` holds each request's call until its answer has been sent."""

    @app.before_request
    def open_call() -> None:
        environ = this_request().environ
        given = environ.get("HTTP_X_REQUEST_ID", "")
        kept().call = opened = Call(
            config.request_timeout,
            stream_idle=config.stream_idle_seconds,
            stream_max=config.stream_max_seconds,
            request_id=given if REQUEST_ID.fullmatch(given) else new_request_id(),
            caller=environ.get("gunicorn.socket"),
            front_seconds=_front_seconds(environ, config.forwarded_allow_ips),
            trace=Trace.of(traceparent) if (traceparent := environ.get("HTTP_TRACEPARENT")) else None,
        )
        counter.opened()
        calls.add(opened)

    @app.after_request
    def finish(response: Response) -> Response:
        opened, asked, headers = call(), this_request(), response.headers
        timed = asked.blueprint in TIMED_BLUEPRINTS
        # Ours also where upstream's headers pass: it finds the log line and the row. Upstream's stands beside it.
        headers.remove("X-Request-ID")
        headers.add("X-Request-ID", opened.request_id)
        if timed:
            headers.add("Server-Timing", opened.server_timing())
        there = {name.lower() for name, _ in headers}
        for name, value in SECURITY_HEADERS:
            if name.lower() not in there:
                headers.add(name, value)
        if (receipt := opened.receipt) is not None:
            if receipt.upstream_request_id:
                headers.add("X-Upstream-Request-ID", receipt.upstream_request_id)
            if receipt.last is not None and receipt.last.upstream:
                headers.add("X-Upstream", receipt.last.upstream)
                headers.add("X-Attempts", str(receipt.attempts))
        response.call_on_close(LogLine(opened, asked, response.status_code, counter, calls, timed=timed))
        return response


def call() -> Call:
    """The call of the request that is being handled."""
    return cast(Call, kept().call)


def this_request() -> Request:
    """The request that is being handled itself: each look at `flask.request` finds it anew."""
    return cast(Request, request._get_current_object())  # type: ignore[attr-defined]


def kept() -> Any:
    """What is kept of this request, `flask.g` itself."""
    return g._get_current_object()


def _front_seconds(environ: dict[str, Any], proxies: tuple[str, ...]) -> float:
    """What a proxy of ours says; from anybody else the header would put hours that nobody waited into our figures."""
    stamp = environ.get("HTTP_X_REQUEST_START")
    return seconds_in_front(stamp) if stamp and is_trusted(environ.get("REMOTE_ADDR", ""), proxies) else 0.0


def seconds_in_front(header: str, *, now: Callable[[], float] = time.time) -> float:
    """How long a request waited in front of us, by the proxy's `X-Request-Start: t=…` (seconds, ms or µs since 1970).

    0 when it is not a number, or says more than FRONT_SECONDS_MAX: then the clocks differ.
    """
    try:
        began = float(header.strip().removeprefix("t="))
    except ValueError:
        return 0.0
    for unit in (1, 1e3, 1e6):
        waited = now() - began / unit
        if 0 <= waited < FRONT_SECONDS_MAX:
            return waited
    return 0.0


class LogLine:
    """Writes the one line that the log keeps of a request, and counts it, when its answer has been sent to the end."""

    def __init__(self, call: Call, asked: Request, status: int, counter: Counter, calls: Calls, *, timed: bool) -> None:
        self._call = call
        self._counter = counter
        self._calls = calls
        self._route, self._status, self._timed = str(asked.url_rule or "-"), status, timed
        self._peer, self._method = asked.remote_addr or "-", asked.method
        self._code: str | None = kept().get("error_code")

    def __call__(self) -> None:
        code = self._code or _code_of_a_stream(self._call)
        fields = self._fields(self._call.receipt or Receipt(), code)
        self._counter.answered(self._call, route=self._route, status=self._status, code=code, timed=self._timed)
        level = logging.ERROR if self._status == 500 else logging.INFO
        logger.log(level, "request %s", " ".join(f"{k}={v}" for k, v in fields.items()), extra=fields)
        self._calls.discard(self._call)

    def _fields(self, receipt: Receipt, code: str | None) -> dict[str, Any]:
        return {
            "request_id": self._call.request_id,
            "peer": self._peer,
            "method": self._method,
            "route": self._route,
            "status": self._status,
            "code": code or "-",
            "total_ms": round(self._call.elapsed_seconds * 1000, 1),
            "queue_ms": round(receipt.queue_seconds * 1000, 1),
            "attempts": receipt.attempts,
            "upstream_ms": round(receipt.upstream_seconds * 1000, 1),
            "input_tokens": receipt.usage.input_tokens if receipt.usage else 0,
            "output_tokens": receipt.usage.output_tokens if receipt.usage else 0,
            "api_key_source": receipt.key_source or "-",
            "upstream_request_id": receipt.upstream_request_id or "-",
            **({} if self._call.trace is None else {"trace_id": self._call.trace.trace_id}),
        }


def _code_of_a_stream(call: Call) -> str | None:
    """The error code of an answer that failed after it had begun: what the receipt says, or that the caller left."""
    if call.receipt is not None and (call.receipt.settled or call.receipt.code):
        return call.receipt.code
    return "client_closed_request" if call.ended == "caller_gone" else None
