"""Exchange: the way of every request to upstream and back: payer, admission, slot, attempts, settlement.

Native and passed-through requests, plain and streamed ones all take it. It is the only place that admits, takes a slot,
attempts and settles, and the only one that writes a request's receipt. A quick stop closes the rows that are open
(app/process/quick_stop.py), and what an operator tries is no request (upstream_trial.py).
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Self, TypeVar

from app.calls.call import Call
from app.calls.receipt import Receipt, Tried
from app.calls.watchdog import Watchdog
from app.config import Config
from app.errors import OpenAIClientException, ServiceException
from app.ledger.accounts import Principal
from app.ledger.beside import Beside
from app.ledger.entry import Entry
from app.ledger.ledger import Ledger, NullLedger
from app.ledger.limits import Ask
from app.ledger.stored import Stored
from app.models import ApiKey, Completion, Credentials, Usage
from app.upstreams import routing
from app.upstreams.catalog import Catalog
from app.upstreams.errors import request_id, told_failure
from app.upstreams.fleet import Fleet, Wanted
from app.upstreams.keys import KeySelector, Payer
from app.upstreams.openai_client import make_fleet
from app.upstreams.parameters import AdaptedBody, ModelParameters
from app.upstreams.plan import Attempt, Plan, UpstreamRequest
from app.upstreams.retry import AttemptFailed
from app.upstreams.slots import Slots, busy
from app.upstreams.sse import Event, StreamEvent
from app.upstreams.stream_end import whole_stream
from app.upstreams.transport import Response, bounded
from app.upstreams.usage import joined

Result = TypeVar("Result")
Meant = tuple[Event, StreamEvent]
WRITTEN_SECONDS = 3.0
"""How long an answer waits for the turn that it is of to be durable."""
HELD_EVENTS = 64
HELD_BYTES = 256 * 1024
"""What is held of a stream's beginning at most."""


@dataclass(frozen=True)
class Exchange:
    """Opens the exchange of each request; its collaborators are those of the worker."""

    fleet: Fleet
    keys: KeySelector
    slots: Slots
    watchdog: Watchdog
    ledger: Ledger | NullLedger
    parameters: ModelParameters = field(default_factory=ModelParameters)

    @classmethod
    def in_process(cls, config: Config) -> Self:
        """The exchange of a plain Python program: its own key pays, everybody may call, nothing is written down."""
        catalog = Catalog.from_config(config)
        keys = KeySelector.of(config, in_process=True, catalog=catalog)
        slots = Slots(config.max_concurrent_requests, config.max_queue_seconds)
        return cls(make_fleet(config, catalog, keys), keys, slots, Watchdog(), NullLedger())

    def open(
        self,
        ask: Ask,
        credentials: Credentials,
        principal: Principal,
        call: Call,
        *,
        dialect: str = "",
        continues: Stored | None = None,
        assemble_seconds: float = 0.0,
        beside: Beside | None = None,
    ) -> OpenExchange:
        """Choose who pays and where, and admit the request; its row is durable when this returns. `continues`: the
        response that it goes on with, which is asked for where it is stored.

        A request that no key may pay for, or that no upstream speaks the `dialect` of, is refused before anything else.
        `beside` is claimed with the row, and settled with it: a turn of a session.
        Raises ServiceException: see KeySelector.payer, Fleet.plan and Ledger.open.
        """
        receipt = call.receipt = Receipt(assemble_seconds=assemble_seconds)
        try:
            plan = self.plan(ask, credentials, principal, dialect, continues)
            priced = [
                (attempt.model, attempt.upstream.settings.name)
                for attempt in plan.attempts
                if attempt.key.source == "default"
            ]
            entry = self.ledger.open(
                ask,
                principal,
                call,
                receipt,
                server_pays=plan.payer.may_be_server,
                priced=priced,
                beside=beside,
            )
        except ServiceException as exc:
            receipt.code = exc.error_code
            raise
        return OpenExchange(self, plan, entry, call, receipt)

    def plan(
        self,
        ask: Ask,
        credentials: Credentials,
        principal: Principal,
        dialect: str,
        continues: Stored | None = None,
    ) -> Plan:
        """Who pays for a request, and which attempts may be made for it; raises as `open` does."""
        owner = "" if principal.account is None else str(principal.account.id)
        session = f"{owner}\n{ask.session_id}" if ask.session_id else ""
        stored_at = None if continues is None else continues.upstream
        plan = self.fleet.plan(
            self.keys.payer(credentials), Wanted(ask.model, dialect, credentials.upstream, session, stored_at)
        )
        return plan if continues is None else self._by_key(plan, continues.key_fingerprint)

    def _by_key(self, plan: Plan, fingerprint: str) -> Plan:
        """The same, of the server's keys first the one that made a response: another one may be another account's."""

        def place(attempt: Attempt) -> tuple[bool, bool]:
            return attempt.key.source == "default", self.ledger.fingerprint(attempt.key) != fingerprint

        return dataclasses.replace(plan, attempts=tuple(sorted(plan.attempts, key=place)))


class OpenExchange:
    """An admitted request. A context manager: inside, its deadline and its caller are watched. Leaving it settles its
    row, whatever way it ends.
    """

    def __init__(self, exchange: Exchange, plan: Plan, entry: Entry, call: Call, receipt: Receipt) -> None:
        self.receipt = receipt
        self._exchange = exchange
        self._plan = plan
        self._entry = entry
        self._tried: Tried
        self.is_written = True
        """Whether what was settled beside the row is durable."""
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

    @property
    def paid_by(self) -> ApiKey:
        """The same, whichever of the server's keys it was."""
        return next((key for key in self.payer.keys if key.source == self.paid_with.source), self.payer.first)

    @property
    def first(self) -> Attempt:
        """The attempt that is to be made first."""
        return self._plan.attempts[0]

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

    def everywhere(self) -> Iterator[Attempt]:
        """Each upstream, for what is asked of all."""
        return self._exchange.fleet.everywhere()

    def send(
        self,
        ask: Callable[[Attempt], Asked],
        begin: Callable[[HeldResponse], Result],
        *,
        only: Attempt | None = None,
    ) -> tuple[HeldResponse, Result]:
        """Make the attempts of the plan, or one `only`, each in a slot; the slot of the one that succeeds is held until
        the response is closed.

        `ask` says what an upstream is asked, once for each in a row. `begin` reads so much of an answer as shows that
        it is one; while another upstream can be asked, its failure is the attempt's. A pause between two attempts holds
        no slot: one upstream account that is limited must not stop everybody else (test_slots.py). Raises
        ServiceException.
        """
        asked: list[tuple[Attempt, Asked]] = []

        def attempt(attempt: Attempt, may_move: bool) -> tuple[HeldResponse, Result]:
            if not asked or asked[-1][0].upstream is not attempt.upstream or asked[-1][0].model != attempt.model:
                # One at a time: each may be as large as a request may be.
                asked.clear()
                asked.append((attempt, ask(attempt)))
            response = self._adapted(attempt, asked[-1][1], may_move)
            try:
                found = self._begun(response, begin)
            except BaseException:
                response.close()
                raise
            if (body := asked[-1][1].body) is not None:
                body.accepted()
            return response, found

        plan = self._plan if only is None else dataclasses.replace(self._plan, attempts=(only,))
        return routing.follow(plan, self._exchange.keys, self._call, attempt, pays_twice=not self._entry.reserved_nano)

    def _begun(self, response: HeldResponse, begin: Callable[[HeldResponse], Result]) -> Result:
        self.receipt.answered = True
        self.receipt.upstream_request_id = request_id(response.headers)
        try:
            return begin(response)
        except OpenAIClientException as exc:
            self._tried.code = exc.error_code
            raise AttemptFailed(exc, may_cost=True) from exc.__cause__

    def begun(self, response: HeldResponse, events: Iterator[Meant]) -> Iterator[Meant]:
        """The events of a stream, the first of them held until one says something: until then another upstream can
        still answer in this one's place, and what this one has said so far would be told twice.

        Raises OpenAIClientException for a failure that comes before. Where nobody else can be asked nothing is held.
        """
        if not response.may_move:
            return events
        held: list[Meant] = []
        size = 0
        self._call.patience(response.attempt.upstream.settings.first_byte_seconds)
        for event, meaning in events:
            if (failure := told_failure(meaning.document)) is not None:
                raise failure
            held.append((event, meaning))
            size += len(event.raw)
            if meaning.written or meaning.is_end or len(held) >= HELD_EVENTS or size > HELD_BYTES:
                break
        self._call.patience(None)
        return itertools.chain(held, events)

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
            self.is_written = self._entry.wait_until_written(WRITTEN_SECONDS)

    def __enter__(self) -> Self:
        self._exchange.watchdog.add(self._call)
        return self

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        self._exchange.watchdog.discard(self._call)
        self.settle(*_ending(exc))

    def _take_slot(self, slots: Slots) -> None:
        began = time.monotonic()
        try:
            slots.acquire(self._call)
        finally:
            self.receipt.queue_seconds += time.monotonic() - began

    def _adapted(self, attempt: Attempt, asked: Asked, may_move: bool) -> HeldResponse:
        """Make one attempt, and one more each time the request can be changed to what upstream takes."""
        while True:
            try:
                return self._in_slot(attempt, asked, may_move)
            except AttemptFailed as failure:
                if not asked.again(failure.refused_parameter):
                    raise

    def _in_slot(self, attempt: Attempt, asked: Asked, may_move: bool) -> HeldResponse:
        upstream = attempt.upstream
        if may_move and upstream.slots is not None and upstream.slots.is_full:
            raise AttemptFailed(busy())
        taken: list[Callable[[], None]] = []
        try:
            for slots in (upstream.slots, self._exchange.slots):
                if slots is not None:
                    self._take_slot(slots)
                    taken.append(slots.release)
            upstream.load.begin(attempt.key)
            taken.append(functools.partial(upstream.load.end, attempt.key))
            response = self._attempt(attempt, asked)
        except BaseException:
            _give_back(taken)
            raise
        return HeldResponse(response, attempt, self.receipt, taken, may_move=may_move)

    def _attempt(self, attempt: Attempt, asked: Asked) -> Response:
        receipt, upstream = self.receipt, attempt.upstream.settings
        tried = self._tried = Tried(upstream.name if self._plan.is_listed else "", attempt.model, attempt.key)
        receipt.begin_attempt(tried)
        try:
            body = None if asked.body is None else asked.body.body
            request = UpstreamRequest(asked.path, body, asked.headers, attempt.model)
            response = attempt.upstream.send(request, attempt.key, self._call)
            self._call.patience(None)
            receipt.may_cost = True
            return response
        except AttemptFailed as failure:
            receipt.may_cost = failure.may_cost
            receipt.upstream_request_id = failure.upstream_request_id
            tried.code = failure.error.error_code
            raise
        finally:
            tried.seconds = time.monotonic() - tried.began
            receipt.upstream_seconds += tried.seconds
            attempt.upstream.load.recent.append(tried)


@dataclass(frozen=True)
class Asked:
    """What one upstream is asked; without a body it is a GET. `headers` are its dialect's. What was changed for a
    refusal stays changed for a retry and for the next key."""

    path: str
    body: AdaptedBody | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    def again(self, refused: str | None) -> bool:
        """Leave out the parameter that upstream has refused; False when the refusal is the answer."""
        return refused is not None and self.body is not None and self.body.again(refused) is not None


class HeldResponse:
    """Upstream's response while its slot is held; closing it gives the slot back. `may_move`: if it turns out to be no
    answer, another upstream can be asked."""

    def __init__(
        self, response: Response, attempt: Attempt, receipt: Receipt, taken: list[Callable[[], None]], *, may_move: bool
    ) -> None:
        self.headers = response.headers
        self.max_bytes = response.max_bytes
        self.attempt = attempt
        self.may_move = may_move
        self._response = response
        self._receipt = receipt
        self._taken = taken

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
        _give_back(self._taken)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _give_back(taken: list[Callable[[], None]]) -> None:
    """Give back what was taken last first, and each once."""
    while taken:
        taken.pop()()


ENDINGS = {"client_closed_request": "cancelled", "turn_interrupted": "cancelled", "upstream_timeout": "timeout"}


def _ending(exc: BaseException | None) -> tuple[str, str | None]:
    """Status and code of the row of a request that ended with `exc`."""
    if exc is None:
        return "ok", None
    if isinstance(exc, ServiceException):
        return ENDINGS.get(exc.error_code, "error"), exc.error_code
    if isinstance(exc, GeneratorExit):
        return "cancelled", "client_closed_request"
    return "error", "internal_error"
