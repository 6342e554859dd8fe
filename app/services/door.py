"""Door: passes OpenAI's own requests on to upstream and its answers back, both as they come.

The keys, slots, deadline, retries and errors are those of every request: OpenAIClient.send.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from app.call import Call
from app.clients.llama_events import LlamaEvents
from app.clients.openai_client import OpenAIClient, Reply
from app.clients.sse import split_events
from app.clients.upstream_errors import bad_response, connection_error
from app.clients.wire import count, dump_json, load_json
from app.errors import OpenAIClientException, ServiceException, ValidationException
from app.models import Usage

PASSED_HEADERS = re.compile(r"x-request-id|retry-after|x-ratelimit-.*|openai-(?!organization|project).*", re.I)
TOKEN_PREFIX = "llms_"
AFTER_END_SECONDS = 1.0
TERMINAL_EVENTS = {"response.completed", "response.failed", "response.incomplete", "error"}


@dataclass(frozen=True)
class Credentials:
    """Who pays, as the headers say: `Authorization`, `X-OpenAI-Api-Key`, `X-Free-Mode` (None: the setting decides)."""

    authorization: str
    own_key: str
    free_mode: bool | None

    def caller_key(self) -> str:
        """The caller's own OpenAI key: its header, else a bearer credential that we did not issue."""
        scheme, _, credential = self.authorization.partition(" ")
        bearer = credential.strip() if scheme.lower() == "bearer" else ""
        return self.own_key or ("" if bearer.startswith(TOKEN_PREFIX) else bearer)


@dataclass(frozen=True)
class Passed:
    """An answer on its way back: whole, or a stream of bytes. `close` ends it early and may be called at any time."""

    body: bytes | Iterator[bytes]
    headers: Mapping[str, str]
    close: Callable[[], None]

    @property
    def is_stream(self) -> bool:
        """Whether it is an event stream."""
        return not isinstance(self.body, bytes)


class Door:
    """`free_mode` is the default of the header; `local`: upstream is our own llama.cpp, whose events are completed."""

    def __init__(self, client: OpenAIClient, *, free_mode: bool, local: bool) -> None:
        self._client = client
        self._free_mode = free_mode
        self._local = local

    def create(self, path: str, body: bytes, call: Call, who: Credentials) -> Passed:
        """Pass a body on, and the answer back."""
        streamed = wants_stream(body)
        reply = self._send(path, body, call, who)
        if not streamed:
            return self._whole(reply, call)
        events = self._events(reply, call)
        return Passed(events, _passed_on(reply), reply.close)

    def models(self, call: Call, who: Credentials) -> Passed:
        """Upstream's models."""
        return self._whole(self._send("/models", None, call, who), call)

    def model(self, name: str, call: Call, who: Credentials) -> Passed:
        """One of them; from the list where upstream (as llama.cpp does) describes no single one."""
        try:
            return self._whole(self._send(f"/models/{quote(name, safe='')}", None, call, who), call)
        except OpenAIClientException as exc:
            if exc.status != 404:
                raise
            listed = self.models(call, who)
            document = load_json(listed.body) if isinstance(listed.body, bytes) else {}
            for entry in document.get("data") or []:
                if isinstance(entry, dict) and entry.get("id") == name:
                    return Passed(dump_json(entry), listed.headers, listed.close)
            raise OpenAIClientException("The AI service does not know this model", "model_not_found") from exc

    def _send(self, path: str, body: bytes | None, call: Call, who: Credentials) -> Reply:
        free_mode = self._free_mode if who.free_mode is None else who.free_mode
        reply, _ = self._client.send(path, body, call, api_key=who.caller_key(), free_mode=free_mode)
        return reply

    def _whole(self, reply: Reply, call: Call) -> Passed:
        """The answer as it came, if it is a JSON object; its usage is noted."""
        with reply:
            raw = reply.read()
        document = load_json(raw)
        if not isinstance(document, dict):
            raise bad_response()
        call.count(read_usage(document.get("usage")))
        return Passed(raw, _passed_on(reply), reply.close)

    def _events(self, reply: Reply, call: Call) -> Iterator[bytes]:
        """The stream as it came, one error event if it breaks, and our timings in a comment behind it."""
        try:
            yield from pass_events(reply, call, local=self._local)
        except ServiceException as exc:
            call.error_code = exc.error_code
            error = openai_error(exc)
            members = {"sequence_number": 0} | error["error"] | {"type": "error"} | error
            yield b"event: error\ndata: " + dump_json(members) + b"\n\n"
        yield f": server-timing {call.server_timing()}\n\n".encode()


def openai_error(error: ServiceException) -> dict[str, Any]:
    """A failure in OpenAI's shape; the SDKs choose their exception by status."""
    types = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    kind = types.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    param = error.details.get("param")
    if isinstance(error, ValidationException):
        param = error.field or next(iter(error.errors), None)
    return {"error": {"message": error.error_message, "type": kind, "param": param, "code": error.error_code}}


def wants_stream(body: bytes) -> bool:
    """Tell whether a request asks for a stream; raises ValidationException unless it is a JSON object."""
    try:
        request = json.loads(body.decode())
    except (ValueError, RecursionError):
        raise ValidationException("The body is not JSON that can be read", error_code="invalid_json") from None
    if not isinstance(request, dict):
        raise ValidationException("The body must be a JSON object")
    stream = request.get("stream")
    if not isinstance(stream, bool | None):
        raise ValidationException("must be true or false", "stream")
    return bool(stream)


def pass_events(reply: Reply, call: Call, *, local: bool = False) -> Iterator[bytes]:
    """Every event as it came; those of the `local` model are completed.

    Raises OpenAIClientException when the stream breaks off before an event that ends it, or is not one of events.
    What follows the end is passed on too, as long as it comes at once.
    """
    seen = ended = False
    llama = LlamaEvents() if local else None
    with reply:
        try:
            for event in split_events(reply):
                if event.data is not None:
                    seen = True
                    ended = _ends_stream(event.data, call) or ended
                if not seen and event.is_foreign:
                    break
                yield llama.complete(event) if llama else event.raw
                if ended:
                    call.deadline = min(call.deadline, time.monotonic() + AFTER_END_SECONDS)
        except OpenAIClientException:
            if not ended:
                raise
    if not ended:
        raise connection_error() if seen else bad_response()


def read_usage(usage: Any) -> Usage:
    """Tokens from either API's `usage`."""
    if not isinstance(usage, Mapping):
        return Usage()
    sent = count(usage.get("input_tokens")) or count(usage.get("prompt_tokens"))
    written = count(usage.get("output_tokens")) or count(usage.get("completion_tokens"))
    return Usage(sent, written, count(usage.get("total_tokens")) or sent + written)


def _ends_stream(data: bytes, call: Call) -> bool:
    if data.strip() == b"[DONE]":
        return True
    event = load_json(data)
    if not isinstance(event, dict):
        raise bad_response()
    document = event.get("response")
    usage = event.get("usage") or (document.get("usage") if isinstance(document, dict) else None)
    if usage:
        call.count(read_usage(usage))
    return event.get("type") in TERMINAL_EVENTS or (event.get("type") is None and bool(event.get("error")))


def _passed_on(reply: Reply) -> dict[str, str]:
    return {name: value for name, value in reply.headers.items() if PASSED_HEADERS.fullmatch(name)}
