"""Completing: what a model is asked in an exchange that is open, and how its answer is read, plain or streamed."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from app.errors import ServiceException
from app.models import Completion, Generation
from app.services.exchange import Asked, Exchange, HeldResponse, Meant, OpenExchange
from app.upstreams.dialects import DIALECTS, Dialect
from app.upstreams.errors import bad_response
from app.upstreams.json import TextJoiner, load_answered_json
from app.upstreams.parameters import ADDED, AdaptedBody
from app.upstreams.plan import Attempt
from app.upstreams.sse import StreamEvent

TEXT_MAX_LENGTH = 8 * 1024 * 1024
"""Characters of a streamed answer, which is held whole until its end."""


class Listener(Protocol):
    """Is told of a streamed answer while it comes."""

    def started(self, model: str, api_key_source: str, *, cached: bool) -> None:
        """Upstream, or the cache, began to answer; `model` is the one that answers, else the one asked for."""

    def text(self, piece: str) -> None:
        """The next piece of text."""

    def delivered(self) -> int:
        """How many characters of the text the caller was sent."""


@dataclass(frozen=True)
class ParsedCompletion:
    """What the model answered, and the JSON in it when the request gave a schema."""

    completion: Completion
    json: Any = None


class Completing:
    """Has a `Generation` answered, in whatever dialect the upstream speaks that is asked."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def complete(self, exchange: OpenExchange, generation: Generation, listener: Listener | None) -> ParsedCompletion:
        """Have upstream answer; with a listener upstream is asked to stream."""
        is_streamed = listener is not None

        def ask(attempt: Attempt) -> Asked:
            dialect = self.dialect(attempt)
            return Asked(dialect.PATH, self.body(generation, attempt, stream=is_streamed), dialect.HEADERS)

        if listener is None:
            response, completion = exchange.send(ask, functools.partial(self._read, exchange))
            response.close()
        else:
            response, events = exchange.send(ask, functools.partial(self._begun, exchange))
            with response:
                completion = self._follow(exchange, response, events, generation.model, listener)
        exchange.note(completion.usage, completion.model)
        # What does not parse is a failure, and failures are not kept.
        return ParsedCompletion(completion, parsed(completion, generation))

    def dialect(self, attempt: Attempt) -> Dialect:
        """The API that an attempt's upstream is asked by."""
        return DIALECTS[self._exchange.fleet.native_dialect(attempt.upstream)]

    def body(self, generation: Generation, attempt: Attempt, *, stream: bool) -> AdaptedBody:
        """The body that asks for `generation`, in the form that its model takes."""
        if attempt.model != generation.model:
            generation = dataclasses.replace(generation, model=attempt.model)
        make = functools.partial(self.dialect(attempt).request_body, generation, stream=stream)
        optional = ADDED | generation.defaults
        return AdaptedBody(self._exchange.parameters, generation.model, lambda without: make(without=without), optional)

    def _begun(self, exchange: OpenExchange, response: HeldResponse) -> Iterator[Meant]:
        return exchange.begun(response, exchange.events(response, self.dialect(response.attempt).read_event))

    def _read(self, exchange: OpenExchange, response: HeldResponse) -> Completion:
        """The finished answer of a plain response. What one that is no use has cost is noted all the same."""
        raw = response.read()
        try:
            return self.dialect(response.attempt).parse_completion(raw)
        except ServiceException:
            with contextlib.suppress(ServiceException):
                told = self.dialect(response.attempt).read_event(raw)
                exchange.note(told.usage, told.model)
            raise

    def _follow(
        self,
        exchange: OpenExchange,
        response: HeldResponse,
        events: Iterator[Meant],
        model: str,
        listener: Listener,
    ) -> Completion:
        """Tell the listener who answers and each piece of text of a stream; give the finished answer."""
        reader, text, length = self.dialect(response.attempt).CompletionReader(), TextJoiner(), 0
        for event in _announced(exchange, events, model, listener):
            length += len(event.text)
            if length > TEXT_MAX_LENGTH:
                raise bad_response()
            if piece := text.add(reader.add(event)):
                listener.text(piece)
            if event.is_end:
                break
        if rest := text.rest():
            listener.text(rest)
        return reader.completion()


def _announced(
    exchange: OpenExchange, events: Iterator[Meant], model: str, listener: Listener
) -> Iterator[StreamEvent]:
    """The events of a stream. The first that says something starts the answer; it names the model that answers."""
    source, is_started = exchange.paid_with.source, False
    try:
        for _, meaning in events:
            if meaning.document and not is_started:
                is_started = True
                listener.started(meaning.model or model, source, cached=False)
            yield meaning
    finally:
        if not is_started:
            listener.started(model, source, cached=False)


def parsed(completion: Completion, generation: Generation) -> Any:
    """The JSON of an answer that was asked for by schema; None where the answer was cut at its limit.

    Raises `upstream_bad_response` when it is none.
    """
    if generation.response_schema is None:
        return None
    try:
        return load_answered_json(completion.output_text)
    except ServiceException:
        if completion.finish_reason != "length":
            raise
        return None
