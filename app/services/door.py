"""What the OpenAI door knows of the requests it passes on: whose key pays, how much was used, how a stream ends."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any
from urllib.parse import quote

from app.call import Call
from app.clients.llama_events import LlamaEvents
from app.clients.openai_client import Reply
from app.clients.sse import split_events
from app.clients.upstream_errors import bad_response, connection_error
from app.clients.wire import count, dump_json, load_json
from app.errors import OpenAIClientException, ValidationException
from app.models import Usage

TOKEN_PREFIX = "llms_"
AFTER_END_SECONDS = 1.0
TERMINAL_EVENTS = {"response.completed", "response.failed", "response.incomplete", "error"}


def caller_key(authorization: str, own_header: str) -> str:
    """The caller's own OpenAI key: `X-OpenAI-Api-Key`, else a bearer credential that we did not issue."""
    scheme, _, credential = authorization.partition(" ")
    bearer = credential.strip() if scheme.lower() == "bearer" else ""
    return own_header or ("" if bearer.startswith(TOKEN_PREFIX) else bearer)


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


def find_model(model: str, send: Callable[[str], Reply]) -> Reply | bytes:
    """Upstream's description of one model; taken from its list where it (as llama.cpp) describes no single one."""
    try:
        return send(f"/models/{quote(model, safe='')}")
    except OpenAIClientException as exc:
        if exc.status != 404:
            raise
        with send("/models") as reply:
            listed = load_json(reply.read())
        for entry in listed.get("data", []) if isinstance(listed, dict) else []:
            if isinstance(entry, dict) and entry.get("id") == model:
                return dump_json(entry)
        raise OpenAIClientException("The AI service does not know this model", "model_not_found") from exc


def read_plain(reply: Reply, call: Call) -> bytes:
    """The whole answer as it came, if it is a JSON object; its usage is noted."""
    with reply:
        raw = reply.read()
    document = load_json(raw)
    if not isinstance(document, dict):
        raise bad_response()
    call.count(read_usage(document.get("usage")))
    return raw


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
