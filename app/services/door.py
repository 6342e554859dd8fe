"""What the OpenAI door knows of the requests it passes on: whose key pays, how much was used, how a stream ends."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from app.call import Call
from app.clients.openai_client import Reply
from app.clients.sse import split_events
from app.clients.upstream_errors import bad_response, connection_error
from app.clients.wire import count, dump_json, load_json, string, usage, well_formed
from app.errors import OpenAIClientException, ValidationException
from app.models import MODEL_MAX_LENGTH
from app.services.tokens import estimate_tokens

TOKEN_PREFIX = "llms_"
AFTER_END_SECONDS = 1.0
TERMINAL_EVENTS = {"response.completed", "response.failed", "response.incomplete", "error"}


def caller_key(authorization: str, own_header: str) -> str:
    """The caller's own OpenAI key: `X-OpenAI-Api-Key`, else a bearer credential that we did not issue."""
    scheme, _, credential = authorization.partition(" ")
    bearer = credential.strip() if scheme.lower() == "bearer" else ""
    return own_header or ("" if bearer.startswith(TOKEN_PREFIX) else bearer)


@dataclass(frozen=True)
class DoorRequest:
    """What we look at in a body that is passed on as it came."""

    streamed: bool = False
    model: str = ""
    prompt_tokens: int = 0
    max_tokens: int = 0


def read_request(body: bytes, default_max_tokens: int) -> DoorRequest:
    """Look at a request; raises ValidationException unless it is a JSON object with a usable `stream`."""
    try:
        request = json.loads(body.decode())
    except (ValueError, RecursionError):
        raise ValidationException("The body is not JSON that can be read", error_code="invalid_json") from None
    if not isinstance(request, dict):
        raise ValidationException("The body must be a JSON object")
    stream = request.get("stream")
    if not isinstance(stream, bool | None):
        raise ValidationException("must be true or false", "stream")
    limits = (count(request.get(name)) for name in ("max_output_tokens", "max_completion_tokens", "max_tokens"))
    return DoorRequest(
        streamed=bool(stream),
        model=(string(request.get("model")) or "")[:MODEL_MAX_LENGTH],
        prompt_tokens=estimate_tokens(body.decode()),
        max_tokens=next((limit for limit in limits if limit), default_max_tokens),
    )


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
    _note(document, call)
    return raw


def pass_events(reply: Reply, call: Call) -> Iterator[bytes]:
    """Every event as it came.

    Raises OpenAIClientException when the stream breaks off before an event that ends it, or is not one of events.
    What follows the end is passed on too, as long as it comes at once.
    """
    seen = ended = False
    with reply:
        try:
            for event in split_events(reply):
                if event.data is not None:
                    seen = True
                    ended = _ends_stream(event.data, call) or ended
                if not seen and event.is_foreign:
                    break
                yield event.raw
                if ended:
                    call.deadline = min(call.deadline, time.monotonic() + AFTER_END_SECONDS)
        except OpenAIClientException:
            if not ended:
                raise
    if not ended:
        raise connection_error() if seen else bad_response()


def _note(document: Any, call: Call) -> None:
    """Remember what the ledger wants to know: who answered, and the tokens."""
    if not isinstance(document, dict):
        return
    call.model_answered = string(document.get("model")) or call.model_answered
    call.usage = usage(document.get("usage")) or call.usage


def _text(event: Mapping[str, Any]) -> str:
    """The piece of text that a stream's event adds, in either API."""
    delta = event.get("delta")
    choices = event.get("choices")
    if isinstance(choices, list) and choices and isinstance(choices[0], dict):
        inner = choices[0].get("delta")
        delta = inner.get("content") if isinstance(inner, dict) else None
    return well_formed(delta) if isinstance(delta, str) else ""


def _ends_stream(data: bytes, call: Call) -> bool:
    if data.strip() == b"[DONE]":
        return True
    event = load_json(data)
    if not isinstance(event, dict):
        raise bad_response()
    _note(event.get("response") or event, call)
    if text := _text(event):
        call.hear(text)
    return event.get("type") in TERMINAL_EVENTS or (event.get("type") is None and bool(event.get("error")))
