"""Exchange: the way of every request to upstream and back: payer, admission, slot, attempts, settlement.

Native and passed-through requests, plain and streamed ones all take it. It is the only place that admits, takes a slot,
attempts and settles, and the only one that writes a request's receipt.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Self

from app.calls.call import Call
from app.calls.receipt import Receipt
from app.calls.watchdog import Watchdog
from app.config import Config
from app.errors import ServiceException
from app.ledger.accounts import Principal
from app.ledger.entry import Entry
from app.ledger.ledger import Ledger, NullLedger
from app.ledger.limits import Ask
from app.models import ApiKey, Completion, Credentials, Usage
from app.upstreams import routing
from app.upstreams.errors import request_id
from app.upstreams.keys import KeySelector, Payer
from app.upstreams.openai_client import OpenAIClient
from app.upstreams.parameters import ModelParameters
from app.upstreams.retry import AttemptFailed
from app.upstreams.routing import NO_HEADERS, Attempt, Plan, Upstream, UpstreamRequest
from app.upstreams.slots import Slots
from app.upstreams.sse import Event, StreamEvent
from app.upstreams.stream_end import whole_stream
from app.upstreams.transport import Response, bounded
from app.upstreams.usage import joined


@dataclass(frozen=True)
class Exchange:
    """Opens the exchange of each request; its collaborators are those of the worker."""

    upstream: Upstream
    keys: KeySelector
    slots: Slots
    watchdog: Watchdog
    ledger: Ledger | NullLedger
    parameters: ModelParameters = field(default_factory=ModelParameters)

    @classmethod
    def in_process(cls, config: Config) -> Self:
        """The exchange of a plain Python program: its own key pays, everybody may call, nothing is written down."""
        keys = KeySelector.of(config, in_process=True)
        slots = Slots(config.max_concurrent_requests, config.max_queue_seconds)
        return cls(OpenAIClient(config, keys=keys), keys, slots, Watchdog(), NullLedger())

    def open(
        self, ask: Ask, credentials: Credentials, principal: Principal, call: Call, *, assemble_seconds: float = 0.0
    ) -> OpenExchange:
        """Choose who pays and admit the request; its row is durable when this returns.

        A request that no key may pay for is refused before anything else. Raises ServiceException: see
        KeySelector.payer and Ledger.open.
        """
        receipt = call.receipt = Receipt(assemble_seconds=assemble_seconds)
        try:
            payer = self.keys.payer(credentials)
            entry = self.ledger.open(ask, principal, call, receipt, server_pays=payer.may_be_server)
        except ServiceException as exc:
            receipt.code = exc.error_code
            raise
        return OpenExchange(self, routing.make_plan(payer, self.upstream), entry, call, receipt)


class OpenExchange:
    """An admitted request. A context manager: inside, its deadline and its caller are watched. Leaving it settles its
    row, whatever way it ends.
    """

    def __init__(self, exchange: Exchange, plan: Plan, entry: Entry, call: Call, receipt: Receipt) -> None:
        self.receipt = receipt
        self._exchange = exchange
        self._plan = plan
        self._entry = entry
        self._call = call

    @property
    def payer(self) -> Payer:
        """Whose key pays."""
        return self._plan.payer

    @property
    def parameters(self) -> ModelParameters:
        """What each model is asked without."""
        return self._exchange.parameters

    @property
    def paid_with(self) -> ApiKey:
        """The key that was tried last, or the one to be tried first."""
        return self.receipt.key or self.payer.first

    def cost_nano(self) -> int | None:
        """What the request has cost so far, in nano-dollars; None when that is not known."""
        return self._entry.charge_nano()

    @property
    def model(self) -> str:
        """The model that was asked for; empty where none was."""
        return self._entry.model

    @property
    def output_limit(self) -> int | None:
        """The bound on output that the request must be given, as a budget pays for it and it names none."""
        return self._entry.output_limit

    def send(
        self,
        path: str,
        body: bytes | None,
        *,
        headers: Mapping[str, str] = NO_HEADERS,
        again: Callable[[str], bytes | None] | None = None,
    ) -> HeldResponse:
        """Make the attempts of the plan, each in a slot; the slot of the one that succeeds is held until the response
        is closed.

        A pause between two attempts holds none: one upstream account that is limited must not stop everybody else
        (test_slots.py). Without a body it is a GET. `again` is told the parameter that upstream does not take and gives
        the body of one more attempt, or None. `headers` are those of its dialect. Raises ServiceException.
        """
        asked = _Asked(UpstreamRequest(path, body, headers), again)
        response, _ = routing.follow(
            self._plan, self._exchange.keys, self._call, lambda attempt: self._adapted(attempt, asked)
        )
        self.receipt.answered = True
        self.receipt.upstream_request_id = request_id(response.headers)
        return HeldResponse(response, self.receipt, self._exchange.slots.release)

    def events(
        self, response: HeldResponse, read_event: Callable[[bytes], StreamEvent], *, only_whole: bool = True
    ) -> Iterator[tuple[Event, StreamEvent]]:
        """The events of a streamed response and what they mean, each noted; raises as whole_stream does.

        The event that counts the tokens need not name the service tier: the last that was named is theirs.
        """
        tier = ""
        for event, meaning in whole_stream(self.pieces(response), read_event, only_whole=only_whole):
            tier = tier if meaning.service_tier is None else meaning.service_tier
            if meaning.started is not None:
                self.receipt.started = dataclasses.replace(meaning.started, service_tier=tier)
            counted = meaning.usage and joined(self.receipt.started, meaning.usage)
            self.note(counted and dataclasses.replace(counted, service_tier=tier), meaning.model)
            if meaning.written:
                self.receipt.written.add(meaning.written)
            if meaning.text and self.receipt.first_token_seconds is None:
                self.receipt.first_token_seconds = self._call.elapsed_seconds
            yield event, meaning

    def pieces(self, response: HeldResponse) -> Iterator[bytes]:
        """The pieces of a response that goes on as it comes, each of which moves the call's deadline."""
        for piece in response:
            self._call.progressed()
            yield piece

    def note(self, usage: Usage | None, model: str | None) -> None:
        """Keep what upstream says of its answer."""
        self.receipt.usage = usage or self.receipt.usage
        self.receipt.model = model or self.receipt.model

    def note_response(self, response_id: str | None) -> None:
        """Keep the id by which the upstream knows its answer."""
        self.receipt.response_id = response_id or self.receipt.response_id

    def note_cache(self, hit: bool) -> None:
        """The response cache was asked."""
        self.receipt.cache_hit = hit

    def answer_from_cache(self, completion: Completion) -> None:
        """The answer was paid for earlier, with the payer's first key."""
        self.receipt.key, self.receipt.answered = self.payer.first, True
        self.note(completion.usage, completion.model)

    def settle(self, status: str, code: str | None = None) -> None:
        """Close the row; only the first settlement counts."""
        if self._entry.settle(status, code):
            self.receipt.code, self.receipt.settled = code, True

    def __enter__(self) -> Self:
        self._exchange.watchdog.add(self._call)
        return self

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        self._exchange.watchdog.discard(self._call)
        self.settle(*_ending(exc))

    def _take_slot(self) -> None:
        began = time.monotonic()
        try:
            self._exchange.slots.acquire(self._call)
        finally:
            self.receipt.queue_seconds += time.monotonic() - began

    def _adapted(self, attempt: Attempt, asked: _Asked) -> Response:
        """Make one attempt, and one more each time the request can be changed to what upstream takes."""
        while True:
            try:
                return self._in_slot(attempt, asked.request)
            except AttemptFailed as failure:
                if not asked.changed(failure.refused_parameter):
                    raise

    def _in_slot(self, attempt: Attempt, request: UpstreamRequest) -> Response:
        self._take_slot()
        try:
            return self._attempt(attempt, request)
        except BaseException:
            self._exchange.slots.release()
            raise

    def _attempt(self, attempt: Attempt, request: UpstreamRequest) -> Response:
        receipt, began = self.receipt, time.monotonic()
        receipt.attempts += 1
        # Known before the answer: a caller who leaves before it comes has spent this key's money all the same.
        receipt.key = attempt.key
        try:
            response = attempt.upstream.send(request, attempt.key, self._call)
            receipt.may_cost = True
            return response
        except AttemptFailed as failure:
            receipt.may_cost = failure.may_cost
            receipt.upstream_request_id = failure.upstream_request_id
            raise
        finally:
            receipt.upstream_seconds += time.monotonic() - began


@dataclass
class _Asked:
    """What is sent upstream. What was changed for a refusal stays changed for a retry and for the next key."""

    request: UpstreamRequest
    again: Callable[[str], bytes | None] | None

    def changed(self, refused: str | None) -> bool:
        """Leave out the parameter that upstream has refused; False when the refusal is the answer."""
        body = self.again(refused) if self.again is not None and refused is not None else None
        if body is None:
            return False
        self.request = dataclasses.replace(self.request, body=body)
        return True


class HeldResponse:
    """Upstream's response while its slot is held; closing it gives the slot back."""

    def __init__(self, response: Response, receipt: Receipt, release: Callable[[], None]) -> None:
        self.headers = response.headers
        self.max_bytes = response.max_bytes
        self._response = response
        self._receipt = receipt
        self._release: Callable[[], None] | None = release

    def read(self) -> bytes:
        """The whole body; raises OpenAIClientException when it cannot be had."""
        return b"".join(bounded(self, self.max_bytes))

    def __iter__(self) -> Iterator[bytes]:
        """The body piece by piece, however long it is; what the reader does meanwhile is not upstream's time."""
        pieces = iter(self._response)
        while True:
            began = time.monotonic()
            try:
                piece = next(pieces, None)
            finally:
                self._receipt.upstream_seconds += time.monotonic() - began
            if piece is None:
                return
            yield piece

    def close(self) -> None:
        """Close the connection if the body was not read to its end, and give the slot back."""
        self._response.close()
        release, self._release = self._release, None
        if release is not None:
            release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


ENDINGS = {"client_closed_request": "cancelled", "upstream_timeout": "timeout"}


def _ending(exc: BaseException | None) -> tuple[str, str | None]:
    """Status and code of the row of a request that ended with `exc`."""
    if exc is None:
        return "ok", None
    if isinstance(exc, ServiceException):
        return ENDINGS.get(exc.error_code, "error"), exc.error_code
    if isinstance(exc, GeneratorExit):
        return "cancelled", "client_closed_request"
    return "error", "internal_error"
