"""Passthrough: OpenAI's own requests go to upstream as they came, and its answers come back the same way, to the byte.

Only what the ledger needs is looked at. A stream that is parsed and written anew loses every member that the parser
does not know, and clients use members that OpenAI adds later (test_passthrough.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from app.calls.call import Call
from app.errors import OpenAIClientException
from app.ledger.accounts import Principal
from app.ledger.stored import Stored, StoredResponses
from app.models import MODEL_MAX_LENGTH, Credentials, Usage, is_placeholder
from app.services.coverage import LIMITS
from app.services.exchange import Asked, Exchange, HeldResponse, Meant, OpenExchange
from app.services.passed_request import FormField, PassedRequest, read_form, read_request
from app.units import dollars
from app.upstreams import chat_completions, completions, embeddings, media, messages, responses
from app.upstreams.answer_headers import passed_headers
from app.upstreams.errors import bad_response, told_failure
from app.upstreams.json import read_json, string_or_none
from app.upstreams.llama_events import LlamaEvents, response_format
from app.upstreams.parameters import AdaptedBody
from app.upstreams.plan import Attempt
from app.upstreams.sse import StreamEvent
from app.upstreams.usage import TAIL_BYTES, read_usage, usage_in_tail

AFTER_END_SECONDS = 1.0
JSON = "application/json"
MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]{1,60}/[A-Za-z0-9!#$&^_.+-]{1,60}(?:[ ;][\x20-\x7e]{0,200})?")
UNKNOWN_TYPE = "application/octet-stream"
BLANK = b" \t\r\n"


class PassedDialect(Protocol):
    """What passing a request through needs of its dialect."""

    HEADERS: Mapping[str, str]

    def read_event(self, data: bytes) -> StreamEvent:
        """Say what an event of a stream means."""

    def read_usage(self, document: Mapping[str, Any]) -> Usage | None:
        """The usage in a finished answer."""


SPOKEN: Mapping[str, str] = {
    responses.PATH: "responses",
    chat_completions.PATH: "chat_completions",
    embeddings.PATH: "embeddings",
    messages.PATH: "messages",
    messages.COUNT_PATH: "messages",
}
"""The dialect that an upstream has to speak for a path; what is not here passes to any."""
DIALECTS: Mapping[str, PassedDialect] = {
    responses.PATH: responses,
    chat_completions.PATH: chat_completions,
    embeddings.PATH: embeddings,
    messages.PATH: messages,
    messages.COUNT_PATH: messages,
    completions.PATH: completions,
    **dict.fromkeys(media.PATHS, media),
}
NO_HEADERS: Mapping[str, str] = {}


@dataclass(frozen=True)
class PassedResponse:
    """An answer on its way back: whole, or a stream of bytes. `close` ends it early and may be called at any time.

    `is_events`: the stream is one of events, and no answer that is not held.
    """

    body: bytes | Iterator[bytes]
    headers: Mapping[str, str]
    cost_usd: Callable[[], str | None]
    close: Callable[[], None]
    is_events: bool = False
    content_type: str = JSON


class Passthrough:
    """`free_mode` is the default of the header; `token_required`: every caller has a token, and the server's key pays
    for a client that may use it."""

    def __init__(
        self,
        exchange: Exchange,
        stored: StoredResponses,
        *,
        free_mode: bool,
        token_required: bool,
    ) -> None:
        self._exchange = exchange
        self._stored = stored
        self._free_mode = free_mode
        self._token_required = token_required

    def credentials(
        self,
        api_key: str,
        free_mode: bool | None,
        principal: Principal,
        headers: Mapping[str, str],
        upstream: str = "",
    ) -> Credentials:
        """Who is to pay. Where a request says nothing of free mode, the setting does; a client that may use the
        server's key and brings none of its own need not ask for it."""
        if free_mode is None:
            brings_none = not api_key or is_placeholder(api_key)
            free_mode = self._free_mode or (brings_none and self._may_use_servers_key(principal))
        return Credentials(api_key, free_mode, headers, upstream)

    def _may_use_servers_key(self, principal: Principal) -> bool:
        account = principal.account
        return self._token_required and account is not None and account.free_mode and self._exchange.keys.has_server_key

    def create(
        self,
        path: str,
        body: bytes,
        credentials: Credentials,
        principal: Principal,
        call: Call,
        query: str = "",
        headers: Mapping[str, str] = NO_HEADERS,
    ) -> PassedResponse:
        """Pass a body on to `path` and `query`, and the answer back; `headers` win over those of the dialect.

        Raises ServiceException.
        """
        return self._pass(path, read_request(path, body), credentials, principal, call, query, headers)

    def upload(
        self,
        path: str,
        body: bytes,
        content_type: str,
        fields: Mapping[str, FormField],
        credentials: Credentials,
        principal: Principal,
        call: Call,
        query: str = "",
    ) -> PassedResponse:
        """Pass a form with files on; `fields` are those that are decided on. Raises ServiceException."""
        headers = {"Content-Type": content_type}
        return self._pass(path, read_form(path, body, fields), credentials, principal, call, query, headers)

    def _pass(
        self,
        path: str,
        asked: PassedRequest,
        credentials: Credentials,
        principal: Principal,
        call: Call,
        query: str,
        headers: Mapping[str, str],
    ) -> PassedResponse:
        request, stored = self._checked(asked, credentials, principal)
        with contextlib.ExitStack() as resources:
            exchange = resources.enter_context(
                self._exchange.open(
                    request.ask, credentials, principal, call, dialect=SPOKEN.get(path, ""), continues=stored
                )
            )
            asks_for_usage = request.hides_usage and exchange.payer.may_be_server
            dialect = DIALECTS[path]

            def ask(attempt: Attempt) -> Asked:
                body = _body(path, request, exchange, attempt, asks_for_usage)
                return Asked(path + query, body, {**dialect.HEADERS, **headers})

            if request.ask.streamed and path not in media.PATHS:

                def begin_stream(response: HeldResponse) -> Iterator[Meant]:
                    return exchange.begun(response, exchange.events(response, dialect.read_event, only_whole=False))

                response, events = exchange.send(ask, begin_stream)
                resources.enter_context(response)
                llama = LlamaEvents(response.attempt.model) if response.attempt.upstream.settings.is_local else None
                passed = _events(events, exchange, call, asks_for_usage, llama)
            else:
                response, begun = exchange.send(ask, functools.partial(_begun, exchange, path))
                resources.enter_context(response)
                if begun is None:
                    return _as_it_comes(response, exchange, dialect, resources)
                head, pieces, document = begun
                if pieces is None:
                    return whole(head, response, exchange, dialect.read_usage, document)
                passed = _unheld(head, pieces, exchange, dialect.read_usage)
            # The row of a stream is settled where the stream ends.
            held = resources.pop_all()
        answer = _streamed(passed, response, exchange, held)
        return dataclasses.replace(answer, is_events=request.ask.streamed and path not in media.PATHS)

    def _checked(
        self, request: PassedRequest, credentials: Credentials, principal: Principal
    ) -> tuple[PassedRequest, Stored | None]:
        """The request with what is known of the conversation that it goes on with, if it does.

        Refuses to go on, with the server's key, with one that this client did not begin.
        """
        member, account = request.continues, principal.account
        is_asked = account is not None and not (credentials.api_key and not credentials.free_mode)
        if member is None or not (is_asked or self._exchange.fleet.catalog.is_listed):
            return request, None
        found, continued_id = None, request.continued_id
        if continued_id is not None:
            found = self._stored.find(continued_id[:MODEL_MAX_LENGTH], None if account is None else account.id)
        if found is not None:
            if member == "thread" and is_asked:
                # Written anew: of an id that is there twice another parser might take the other one.
                request = request.with_members(thread=request.document[member])
            return request.with_context(found.tokens), found
        if is_asked:
            message = "There is no such response or conversation of this client"
            raise OpenAIClientException(message, "response_not_found", param=member)
        return request, Stored()


def _events(
    events: Iterator[Meant], exchange: OpenExchange, call: Call, hides_usage: bool, llama: LlamaEvents | None
) -> Iterator[bytes]:
    """The events as they came; raises ServiceException where the stream breaks off.

    `hides_usage`: usage was asked for on the client's behalf, and its chunk is taken out again.
    """
    for event, meaning in events:
        if not meaning.written or meaning.is_end:
            # What carries the answer's text, as nearly every event does, tells nothing of these.
            exchange.note_response(_response_id(meaning.document))
            if told_failure(meaning.document):
                exchange.settle("error", "upstream_failed")
            is_usage_alone = meaning.usage is not None and not event.tail and not meaning.document.get("choices")
            if hides_usage and is_usage_alone:
                continue
        yield llama.complete(event) if llama else event.raw
        if meaning.is_end:
            # What follows the end is passed on too, as long as it comes at once.
            call.shorten(AFTER_END_SECONDS)


def _body(
    path: str, request: PassedRequest, exchange: OpenExchange, attempt: Attempt, asks_for_usage: bool
) -> AdaptedBody:
    """A request as it came, but with the model's name at this upstream, with the output limit that its budget needs,
    and asking for usage where upstream knows how to (app/upstreams/parameters.py)."""
    changed: dict[str, Any] = {} if exchange.output_limit is None else {LIMITS[path][0]: exchange.output_limit}
    if attempt.model != request.ask.model:
        changed["model"] = attempt.model
    if attempt.upstream.settings.is_local and path == responses.PATH:
        changed |= response_format(request.document)
    given = request.document.get("stream_options")
    options = {**(given if isinstance(given, dict) else {}), "include_usage": True}

    def make(without: frozenset[str]) -> bytes:
        is_added = asks_for_usage and "stream_options" not in without
        members = changed | ({"stream_options": options} if is_added else {})
        return request.changed(**members) if members else request.body

    return AdaptedBody(exchange.parameters, attempt.model, make, {"stream_options"} if asks_for_usage else ())


def _begun(
    exchange: OpenExchange, path: str, response: HeldResponse
) -> tuple[bytes, Iterator[bytes] | None, dict[str, Any] | None] | None:
    """So much of a plain answer as can be held, what is left of it, None where that is nothing, and what it says where
    that was looked at. None of it at all where it is no JSON and need not be.

    Raises the failure that it tells of, while another upstream can answer instead.
    """
    if path in media.PATHS and not _is_json(response):
        return None
    pieces = iter(response)
    head, is_whole = _head(pieces, response.max_bytes)
    document = None
    if is_whole and response.may_move:
        document = _object(head)
        if (failure := told_failure(document)) is not None:
            exchange.note(DIALECTS[path].read_usage(document), string_or_none(document.get("model")))
            raise failure
    return head, None if is_whole else pieces, document


def _object(raw: bytes) -> dict[str, Any]:
    document = read_json(raw)
    if not isinstance(document, dict):
        raise bad_response()
    return document


def _streamed(
    events: Iterator[bytes], response: HeldResponse, exchange: OpenExchange, held: contextlib.ExitStack
) -> PassedResponse:
    def body() -> Iterator[bytes]:
        with held:
            yield from events

    def close() -> None:
        # A caller that left before the first event: the generator never ran, so nothing in it cleans up.
        exchange.settle("cancelled", "client_closed_request")
        held.close()

    return PassedResponse(
        body(), passed_headers(response.headers, exchange.paid_with), lambda: dollars(exchange.cost_nano()), close
    )


def _head(pieces: Iterator[bytes], max_bytes: int) -> tuple[bytes, bool]:
    """So much of an answer as can be held, and whether that is all. Raises `upstream_bad_response` for what is long and
    no JSON object: an event stream that nobody asked for, a page."""
    held = bytearray()
    for piece in pieces:
        held += piece
        if len(held) > max_bytes:
            if not held.lstrip(BLANK)[:1] == b"{":
                raise bad_response()
            return bytes(held), False
    return bytes(held), True


def _as_it_comes(
    response: HeldResponse, exchange: OpenExchange, dialect: PassedDialect, resources: contextlib.ExitStack
) -> PassedResponse:
    """An answer of another kind than JSON, none of which is held: sound, a text, events of an API without a dialect."""
    passed = _unheld(b"", exchange.pieces(response), exchange, dialect.read_usage)
    answer = _streamed(passed, response, exchange, resources.pop_all())
    given = response.headers.get("content-type", "")
    return dataclasses.replace(answer, content_type=given if MEDIA_TYPE.fullmatch(given) else UNKNOWN_TYPE)


def _is_json(response: HeldResponse) -> bool:
    kind = response.headers.get("content-type", JSON).partition(";")[0].strip().lower()
    return kind == JSON or kind.endswith("+json")


def _unheld(
    head: bytes,
    pieces: Iterator[bytes],
    exchange: OpenExchange,
    usage_of: Callable[[Mapping[str, Any]], Usage | None],
) -> Iterator[bytes]:
    """An answer that is not held, as it comes. Its usage is looked for at its end, where servers put it."""
    tail = head[-TAIL_BYTES:]
    if head:
        yield head
    del head
    for piece in pieces:
        yield piece
        tail = (tail + piece)[-TAIL_BYTES:]
    exchange.note(usage_in_tail(tail, usage_of), None)


def whole(
    raw: bytes,
    response: HeldResponse,
    exchange: OpenExchange,
    usage_of: Callable[[Mapping[str, Any]], Usage | None] = read_usage,
    document: dict[str, Any] | None = None,
) -> PassedResponse:
    """The answer as it came, if it is a JSON object; its usage is noted. `document`: what it says, if that is known."""
    document = _object(raw) if document is None else document
    exchange.note(usage_of(document), string_or_none(document.get("model")))
    exchange.note_response(_response_id(document))
    if told_failure(document):
        exchange.settle("error", "upstream_failed")
    cost = dollars(exchange.cost_nano())
    return PassedResponse(raw, passed_headers(response.headers, exchange.paid_with), lambda: cost, response.close)


def _response_id(document: Mapping[str, Any]) -> str | None:
    """The id of what the upstream may have stored, in an answer or an event of the Responses or the Messages API."""
    inner = document.get("response") or document.get("message")
    answer = inner if isinstance(inner, dict) else document
    found = answer.get("id")
    is_stored = answer.get("object") == "response" or answer.get("type") == "message"
    return found if is_stored and isinstance(found, str) else None
