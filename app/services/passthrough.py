"""Passthrough: OpenAI's own requests go to upstream as they came, and its answers come back the same way, to the byte.

Only what the ledger needs is looked at. A stream that were parsed and written anew would lose what its reader did not
know, and every client would have to hope that nothing it uses was among it (test_passthrough.py).
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import quote

from app.calls.call import Call
from app.errors import OpenAIClientException, ValidationException
from app.ledger.accounts import Principal
from app.ledger.limits import Ask
from app.models import MODEL_MAX_LENGTH, Credentials
from app.services.exchange import Exchange, HeldResponse, OpenExchange
from app.tokens import estimate_tokens
from app.units import dollars
from app.upstreams import chat_completions, embeddings, responses
from app.upstreams.errors import bad_response
from app.upstreams.json import dump_json, load_json, parse_usage, string_or_none, token_count
from app.upstreams.llama_events import LlamaEvents, with_response_format
from app.upstreams.sse import StreamEvent

PASSED_HEADERS = re.compile(r"x-request-id|retry-after|x-ratelimit-.*|openai-(?!organization|project).*", re.I)
AFTER_END_SECONDS = 1.0
LIMITS = ("max_output_tokens", "max_completion_tokens", "max_tokens")


class PassedDialect(Protocol):
    """What passing a request through needs of its dialect."""

    def read_event(self, data: bytes) -> StreamEvent:
        """Say what an event of a stream means."""


DIALECTS: Mapping[str, PassedDialect] = {
    responses.PATH: responses,
    chat_completions.PATH: chat_completions,
    embeddings.PATH: embeddings,
}


@dataclass(frozen=True)
class PassedResponse:
    """An answer on its way back: whole, or a stream of bytes. `close` ends it early and may be called at any time."""

    body: bytes | Iterator[bytes]
    headers: Mapping[str, str]
    cost_usd: Callable[[], str | None]
    close: Callable[[], None]


class Passthrough:
    """`free_mode` is the default of the header; `is_local`: upstream is our llama.cpp, whose events are completed.

    `max_tokens` is what a request is assumed to want that names no limit, when its worst case is reserved.
    """

    def __init__(self, exchange: Exchange, *, free_mode: bool, max_tokens: int, is_local: bool) -> None:
        self._exchange = exchange
        self._free_mode = free_mode
        self._max_tokens = max_tokens
        self._is_local = is_local

    def credentials(self, api_key: str, free_mode: bool | None) -> Credentials:
        """Who is to pay; where a request says nothing of free mode, the setting does."""
        return Credentials(api_key, self._free_mode if free_mode is None else free_mode)

    def create(
        self, path: str, body: bytes, credentials: Credentials, principal: Principal, call: Call, query: str = ""
    ) -> PassedResponse:
        """Pass a body on to `path` and `query`, and the answer back; raises ServiceException."""
        ask = read_request(f"/v1{path}", body, self._max_tokens)
        with contextlib.ExitStack() as resources:
            exchange = resources.enter_context(self._exchange.open(ask, credentials, principal, call))
            if self._is_local and path == responses.PATH:
                body = with_response_format(body)
            response = resources.enter_context(exchange.send(path + query, body))
            if not ask.streamed:
                return _whole(response, exchange)
            # The row of a stream is settled where the stream ends.
            held = resources.pop_all()
        llama = LlamaEvents(ask.model) if self._is_local else None
        return self._stream(response, exchange, call, held, DIALECTS[path], llama)

    def models(self, credentials: Credentials, principal: Principal, call: Call, query: str = "") -> PassedResponse:
        """Upstream's models; `query` is empty or begins with `?`."""
        with self._exchange.open(Ask(route="/v1/models"), credentials, principal, call) as exchange:
            return _get(f"/models{query}", exchange, is_list=True)

    def model(self, name: str, credentials: Credentials, principal: Principal, call: Call) -> PassedResponse:
        """One of them; from the list where upstream (as llama.cpp does) describes no single one."""
        if {".", ".."} & set(name.split("/")):
            # Somebody on the way could take it for another address of upstream's.
            raise OpenAIClientException("The AI service does not know this model", "model_not_found")
        ask = Ask(route="/v1/models/<model>", model=name[:MODEL_MAX_LENGTH])
        with self._exchange.open(ask, credentials, principal, call) as exchange:
            try:
                return _get(f"/models/{quote(name, safe='')}", exchange)
            except OpenAIClientException as exc:
                if exc.status != 404:
                    raise
                return _listed(name, _get("/models", exchange, is_list=True), exc)

    def _stream(
        self,
        response: HeldResponse,
        exchange: OpenExchange,
        call: Call,
        held: contextlib.ExitStack,
        dialect: PassedDialect,
        llama: LlamaEvents | None,
    ) -> PassedResponse:
        """The stream as it came; its events raise ServiceException where it breaks off."""

        def events() -> Iterator[bytes]:
            with held:
                for event, meaning in exchange.events(response, dialect.read_event):
                    yield llama.complete(event) if llama else event.raw
                    if meaning.is_end:
                        # What follows the end is passed on too, as long as it comes at once.
                        call.shorten(AFTER_END_SECONDS)

        def close() -> None:
            # A caller that left before the first event: the generator never ran, so nothing in it cleans up.
            response.close()
            exchange.settle("cancelled", "client_closed_request")

        return PassedResponse(events(), _passed_headers(response), lambda: dollars(exchange.cost_nano()), close)


def read_request(route: str, body: bytes, default_max_tokens: int) -> Ask:
    """Look at a request; raises ValidationException unless it is a JSON object with a usable `stream`."""
    text = _decoded(body)
    request = _parsed(text)
    stream = request.get("stream")
    if not isinstance(stream, bool | None):
        raise ValidationException("must be true or false", "stream")
    limits = (token_count(request.get(name)) for name in LIMITS)
    return Ask(
        route=route,
        streamed=bool(stream),
        model=(string_or_none(request.get("model")) or "")[:MODEL_MAX_LENGTH],
        prompt_tokens=estimate_tokens(text),
        max_tokens=next((limit for limit in limits if limit), default_max_tokens),
    )


def _decoded(body: bytes) -> str:
    try:
        return body.decode()
    except UnicodeDecodeError:
        raise _unreadable() from None


def _parsed(text: str) -> dict[str, Any]:
    try:
        request = json.loads(text)
    except (ValueError, RecursionError):
        raise _unreadable() from None
    if not isinstance(request, dict):
        raise ValidationException("The body must be a JSON object")
    return request


def _unreadable() -> ValidationException:
    return ValidationException("The body is not JSON that can be read", error_code="invalid_json")


def _get(path: str, exchange: OpenExchange, *, is_list: bool = False) -> PassedResponse:
    with exchange.send(path, None) as response:
        return _whole(response, exchange, is_list=is_list)


def _whole(response: HeldResponse, exchange: OpenExchange, *, is_list: bool = False) -> PassedResponse:
    """The answer as it came, if it is a JSON object; its usage is noted. `is_list`: one without OpenAI's object around
    it is one, too."""
    raw = response.read()
    document = load_json(raw)
    if is_list and isinstance(document, list):
        # Some servers give their models without OpenAI's object around them.
        document = {"object": "list", "data": document}
        raw = dump_json(document)
    if not isinstance(document, dict):
        raise bad_response()
    exchange.note(parse_usage(document.get("usage")), string_or_none(document.get("model")))
    cost = dollars(exchange.cost_nano())
    return PassedResponse(raw, _passed_headers(response), lambda: cost, response.close)


def _listed(name: str, models: PassedResponse, unknown: OpenAIClientException) -> PassedResponse:
    """One model's entry in the list of all; raises `model_not_found` when it is not there."""
    document = load_json(models.body) if isinstance(models.body, bytes) else {}
    for found in document.get("data") or []:
        if isinstance(found, dict) and found.get("id") == name:
            return PassedResponse(dump_json(found), models.headers, models.cost_usd, models.close)
    raise OpenAIClientException("The AI service does not know this model", "model_not_found") from unknown


def _passed_headers(response: HeldResponse) -> dict[str, str]:
    return {name: value for name, value in response.headers.items() if PASSED_HEADERS.fullmatch(name)}
