"""Door: passes OpenAI's own requests on to upstream and its answers back, both as they come.

The keys, slots, deadline, retries and errors are those of every request: OpenAIClient.send.
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from app.calls.call import Call
from app.errors import OpenAIClientException, ServiceException, ValidationException
from app.ledger.admission import Ask
from app.ledger.entry import Entry
from app.ledger.ledger import Ledger, NullLedger
from app.ledger.pricing import dollars
from app.models import MODEL_MAX_LENGTH
from app.services.tokens import estimate_tokens
from app.upstreams.errors import bad_response, connection_error
from app.upstreams.json import count, dump_json, load_json, string, usage, well_formed
from app.upstreams.llama_events import LlamaEvents
from app.upstreams.openai_client import OpenAIClient
from app.upstreams.reply import Reply
from app.upstreams.sse import split_events

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
    """`free_mode` is the default of the header; `local`: upstream is our own llama.cpp, whose events are completed.

    `max_tokens` is what a request is assumed to want that names no limit, when its worst case is reserved.
    """

    def __init__(
        self, client: OpenAIClient, ledger: Ledger | NullLedger, *, free_mode: bool, max_tokens: int, local: bool
    ) -> None:
        self._client = client
        self._ledger = ledger
        self._free_mode = free_mode
        self._max_tokens = max_tokens
        self._local = local

    def create(self, path: str, body: bytes, call: Call, who: Credentials) -> Passed:
        """Pass a body on, and the answer back."""
        asked = read_request(body, self._max_tokens)
        with contextlib.ExitStack() as resources:
            entry = self._open(f"/v1{path}", asked, call, who)
            resources.enter_context(entry)
            reply = resources.enter_context(self._send(path, body, call, who))
            if not asked.streamed:
                return self._whole(reply, call, entry)
            # The row of a stream is settled where the stream ends.
            held = resources.pop_all()
        return self._stream(reply, call, entry, held)

    def models(self, call: Call, who: Credentials) -> Passed:
        """Upstream's models."""
        with self._open("/v1/models", DoorRequest(), call, who) as entry:
            return self._get("/models", call, who, entry)

    def model(self, name: str, call: Call, who: Credentials) -> Passed:
        """One of them; from the list where upstream (as llama.cpp does) describes no single one."""
        asked = DoorRequest(model=name[:MODEL_MAX_LENGTH])
        with self._open("/v1/models/<model>", asked, call, who) as entry:
            try:
                return self._get(f"/models/{quote(name, safe='')}", call, who, entry)
            except OpenAIClientException as exc:
                if exc.status != 404:
                    raise
                listed = self._get("/models", call, who, entry)
                document = load_json(listed.body) if isinstance(listed.body, bytes) else {}
                for found in document.get("data") or []:
                    if isinstance(found, dict) and found.get("id") == name:
                        return Passed(dump_json(found), listed.headers, listed.close)
                raise OpenAIClientException("The AI service does not know this model", "model_not_found") from exc

    def _open(self, route: str, asked: DoorRequest, call: Call, who: Credentials) -> Entry:
        """Admit a request; one that no key may pay for is refused before."""
        free_mode = self._is_free(who)
        source = self._client.keys.select(who.caller_key(), free_mode).source
        return self._ledger.open(
            call,
            Ask(
                route=route,
                model=asked.model,
                streamed=asked.streamed,
                prompt_tokens=asked.prompt_tokens,
                max_tokens=asked.max_tokens,
                server_pays=free_mode or source == "default",
            ),
        )

    def _is_free(self, who: Credentials) -> bool:
        return self._free_mode if who.free_mode is None else who.free_mode

    def _get(self, path: str, call: Call, who: Credentials, entry: Entry) -> Passed:
        with self._send(path, None, call, who) as reply:
            return self._whole(reply, call, entry)

    def _send(self, path: str, body: bytes | None, call: Call, who: Credentials) -> Reply:
        reply, _ = self._client.send(path, body, call, api_key=who.caller_key(), free_mode=self._is_free(who))
        return reply

    def _whole(self, reply: Reply, call: Call, entry: Entry) -> Passed:
        """The answer as it came, if it is a JSON object; its usage is noted."""
        raw = reply.read()
        document = load_json(raw)
        if not isinstance(document, dict):
            raise bad_response()
        _note(document, call)
        cost = dollars(entry.cost_nano())
        headers = _passed_on(reply) | ({} if cost is None else {"X-Cost-USD": cost})
        return Passed(raw, headers, reply.close)

    def _stream(self, reply: Reply, call: Call, entry: Entry, held: contextlib.ExitStack) -> Passed:
        """The stream as it came, one error event if it breaks, and our timings and cost in comments behind it."""

        def events() -> Iterator[bytes]:
            try:
                with held:
                    yield from pass_events(reply, call, local=self._local)
            except ServiceException as exc:
                call.error_code = exc.error_code
                error = openai_error(exc)
                members = {"sequence_number": 0} | error["error"] | {"type": "error"} | error
                yield b"event: error\ndata: " + dump_json(members) + b"\n\n"
            yield f": server-timing {call.server_timing()}\n".encode()
            yield f": cost-usd {dollars(entry.cost_nano()) or 'unknown'}\n\n".encode()

        def close() -> None:
            # A caller that left before the first event: the generator never ran, so nothing in it cleans up.
            reply.close()
            entry.settle("cancelled", "client_closed_request")

        return Passed(events(), _passed_on(reply), close)


def openai_error(error: ServiceException) -> dict[str, Any]:
    """A failure in OpenAI's shape; the SDKs choose their exception by status."""
    types = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    kind = types.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    param = error.details.get("param")
    if isinstance(error, ValidationException):
        param = error.field or next(iter(error.errors), None)
    return {"error": {"message": error.error_message, "type": kind, "param": param, "code": error.error_code}}


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
        except ServiceException:
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


def _passed_on(reply: Reply) -> dict[str, str]:
    return {name: value for name, value in reply.headers.items() if PASSED_HEADERS.fullmatch(name)}
