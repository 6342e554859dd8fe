"""Ledger: admits a request, opens its row before upstream is called, and settles it whatever way it ends.

One transaction admits: the token is valid, the model allowed, rate, concurrency and budget are within limits, the worst
case is reserved, the row is there as `pending`. That row is the request's lease too: its worker renews it while the
call lasts. What is left pending by a worker that died is settled by a sweep, at once where the machine can tell that
the worker is gone, elsewhere when the lease has run out.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import sqlalchemy as sa

from app.calls.call import Call
from app.calls.receipt import Receipt
from app.errors import ServiceException
from app.ledger import attempts, settlement
from app.ledger.accounts import Accounts, Principal
from app.ledger.admission import Admission, Admitted
from app.ledger.beside import Beside, Ending
from app.ledger.client_rows import hold
from app.ledger.entry import Entry, Written, unrecorded
from app.ledger.lease import LEASE_SECONDS, Owner, look_up, owner_name
from app.ledger.limits import Ask, Opening
from app.ledger.pricing import NoPrices, Prices
from app.models import ApiKey, Usage
from app.store.database import Database
from app.store.fitting import whole
from app.units import MICROSECONDS, MICROSECONDS_PER_DAY, milliseconds

logger = logging.getLogger(__name__)

Priced = Sequence[tuple[str, str]]
RENEW_SECONDS = 20.0
"""How old a lease is when it is renewed: well before its LEASE_SECONDS are over."""
KEPT_DAYS = 40
"""How long after its beginning a period of an end user's budget is kept: a month, and what may be settled late."""
AWAY_SECONDS = 15.0
"""After the database was away for so long, every lease may have run out, and other machines renew theirs first."""


class Ledger:
    """The book of all requests of all workers that share the database."""

    def __init__(
        self,
        database: Database,
        accounts: Accounts,
        prices: Prices | NoPrices,
        *,
        token_required: bool,
        max_output_tokens: int,
        fail_open: bool = False,
        fingerprint_key: bytes = b"",
        booked: Callable[[Usage, int | None, str | None], None] = lambda *_: None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.owner = owner_name()
        self.prices = prices
        self.unrecorded = 0
        self._database = database
        self._clock = clock or database.clock
        self._admission = Admission(
            accounts,
            self.owner,
            token_required=token_required,
            max_output_tokens=max_output_tokens,
            clock=self._clock,
        )
        self._fails_open = fail_open and not token_required
        self._fingerprint_key = fingerprint_key
        self._booked = booked
        self._entries: dict[Entry, _Lease] = {}
        self._swept_at: float | None = None
        self._fingerprints: dict[ApiKey, str] = {}

    def open(
        self,
        ask: Ask,
        principal: Principal,
        call: Call,
        receipt: Receipt,
        *,
        server_pays: bool,
        priced: Priced = (),
        beside: Beside | None = None,
    ) -> Entry:
        """Admit a request; the row is durable when this returns. `server_pays`: the server's key may come to pay.
        `priced`: the models that may come to answer and at which upstream; the dearest is reserved. `beside`: what is
        claimed and settled in the same transactions.

        Raises ServiceException: 401 `unauthorized`, what Standing.admit raises, 503 `store_unavailable`, or what has
        ended the call already.
        """
        call.check()

        def worst_nano(limit: int) -> int | None:
            usage = ask.most_usage(limit)
            models = priced or ((ask.model, ""),)
            costs = [self.prices.cost_nano(model, usage, upstream=upstream) for model, upstream in models]
            known = [cost for cost in costs if cost is not None]
            return max(known) if len(known) == len(costs) else None

        opening = Opening(
            call=call, principal=principal, ask=ask, server_pays=server_pays, worst_nano=worst_nano, beside=beside
        )
        try:
            admitted: Admitted = self._database.write_with_others(self._work_all, opening, undo=settlement.take_back)
        except ServiceException as exc:
            if exc.error_code != "store_unavailable" or not self._fails_open or principal.token_digest or beside:
                raise
            self.unrecorded += 1
            logger.error("a request is not recorded: the database is away (LEDGER_FAIL_OPEN)")
            return unrecorded(ask, call, receipt)
        settle = functools.partial(self._settle, admitted, beside)
        entry = Entry(ask, call, receipt, self.prices, settle, admitted)
        self._entries[entry] = _Lease(admitted.row_id)
        return entry

    def settle_open(self, code: str) -> None:
        """Settle every row of this worker that is still open: it ends now."""
        for entry in tuple(self._entries):
            entry.settle("error", code)

    def sweep(self) -> int:
        """Renew the leases of this worker's calls; settle as `abandoned` what no worker works on any more; forget some
        of what end users spent in periods that are over.

        Gives the number of rows that were settled.
        """
        now_here = time.monotonic()
        was_away = self._swept_at is not None and now_here - self._swept_at > AWAY_SECONDS
        due = [lease for lease in tuple(self._entries.values()) if now_here - lease.renewed_at > RENEW_SECONDS]

        def work(connection: sa.Connection) -> int:
            self._database.read_clock(connection)
            now = self._now()
            settlement.renew(connection, [lease.row_id for lease in due], now + LEASE_SECONDS * MICROSECONDS)
            lost = self._lost(connection, now, trust_leases=not was_away)
            abandoned = settlement.abandon(connection, lost, now) if lost else 0
            settlement.forget_periods(connection, now - KEPT_DAYS * MICROSECONDS_PER_DAY)
            return abandoned

        swept = self._database.write(work)
        self._swept_at = now_here
        for lease in due:
            lease.renewed_at = now_here
        return swept

    def _lost(self, connection: sa.Connection, now: int, *, trust_leases: bool) -> list[int]:
        """The ids of open rows that nobody works on. A worker that runs on this machine looks after its own."""
        owners = {name: look_up(name) for name in settlement.owners(connection)}
        gone = [name for name, state in owners.items() if state is Owner.GONE]
        elsewhere = [name for name, state in owners.items() if state is Owner.ELSEWHERE and name != self.owner]
        lost = list(settlement.held_by(connection, gone))
        if trust_leases:
            lost += settlement.held_by(connection, elsewhere, ended_before=now)
        own = {lease.row_id for lease in tuple(self._entries.values())}
        ended = settlement.held_by(connection, [self.owner], ended_before=now)
        return lost + [row_id for row_id in ended if row_id not in own]

    def forget(self, before: int) -> int:
        """Delete a batch of settled rows older than the moment `before`; give the number of rows."""
        return self._database.write(lambda connection: settlement.forget(connection, before))

    def checkpoint(self) -> None:
        """Let the database tidy its own files."""
        self._database.checkpoint()

    def fingerprint(self, key: ApiKey) -> str:
        """A keyed digest that tells two keys apart and gives neither away. The server's own is made once."""
        found = self._fingerprints.get(key)
        if found is None:
            found = hashlib.blake2b(key.secret.encode(), key=self._fingerprint_key, digest_size=8).hexdigest()
            if key.source == "default":
                self._fingerprints[key] = found
        return found

    def _settle(
        self, admitted: Admitted, beside: Beside | None, entry: Entry, status: str, code: str | None
    ) -> Written | None:
        """Write down how a request ended, soon; where something is settled beside it, give what waits for that."""
        receipt, (usage, estimated), cost_nano = entry.receipt, entry.usage(), entry.charge_nano()
        cost_nano = None if cost_nano is None else whole(cost_nano)
        cached = bool(receipt.cache_hit)
        if not cached:
            self._booked(usage, cost_nano, receipt.key_source)
        spent, key, first_token = entry.call.spent(), receipt.key, receipt.first_token_seconds
        tried = tuple(attempts.rows_of(entry, status, code, self.fingerprint))
        row = {
            "row_id": admitted.row_id,
            "model_answered": receipt.model,
            "api_key_source": key.source if key else None,
            "api_key_fingerprint": self.fingerprint(key) if key and key.secret else None,
            "status": status,
            "code": code,
            "cached": cached,
            "estimated": estimated,
            "input_tokens": usage.input_tokens,
            "cached_tokens": usage.cached_tokens,
            "output_tokens": usage.output_tokens,
            "reasoning_tokens": usage.reasoning_tokens,
            "cost_nano": cost_nano,
            "price_version": self.prices.version,
            "queue_ms": milliseconds(spent.queue),
            "upstream_ms": milliseconds(spent.upstream),
            "first_token_ms": None if first_token is None else milliseconds(first_token),
            "total_ms": milliseconds(spent.total),
            "upstream_request_id": receipt.upstream_request_id,
            "response_id": receipt.response_id,
            "settled_at": self._now(),
            **attempts.in_row(receipt, tried),
        }
        charged = (cost_nano or 0) if key is not None and key.source == "default" else 0
        self._entries.pop(entry, None)
        if beside is None:
            self._database.write_later(self._work_all, settlement.Settlement(admitted, charged, row, tried))
            return None
        ending = Ending(code, usage.input_tokens, usage.output_tokens, cost_nano, receipt.model)
        settled = settlement.Settlement(admitted, charged, row, tried, beside, beside.settled(ending))
        return self._database.write_and_tell(self._work_all, settled)

    def _work_all(
        self, connection: sa.Connection, items: Sequence[Opening | settlement.Settlement]
    ) -> list[Admitted | ServiceException | None]:
        """Settle and admit in one transaction; a batch for Writer.

        The clients of both are locked first, in one order. Else two workers could wait for each other: one has settled
        for a client and admits for another, the other worker does the reverse.
        """
        settled = [item for item in items if isinstance(item, settlement.Settlement)]
        openings = [item for item in items if isinstance(item, Opening)]
        held = hold(
            connection,
            (opening.principal.account.id for opening in openings if opening.principal.account is not None),
            beside=(item.admitted.client_id for item in settled if item.admitted.is_paid_of_a_budget),
        )
        besides = [item.beside for item in items if item.beside is not None]
        if besides:
            besides[0].hold(connection, {beside.key for beside in besides})
        settlement.settle_all(connection, settled)
        decisions = iter(self._admission.admit_all(connection, openings, held) if openings else ())
        return [next(decisions) if isinstance(item, Opening) else None for item in items]

    def _now(self) -> int:
        return int(self._clock() * MICROSECONDS)


@dataclass
class _Lease:
    """The row of a call in flight, and when its lease began or was renewed (monotonic seconds)."""

    row_id: int
    renewed_at: float = field(default_factory=time.monotonic)


class NullLedger:
    """The ledger of plain Python: everybody may call, nothing is written down."""

    def open(self, ask: Ask, principal: Principal, call: Call, receipt: Receipt, **_: object) -> Entry:
        """Admit."""
        return unrecorded(ask, call, receipt)

    def fingerprint(self, key: ApiKey) -> str:
        """There is nothing to compare it with."""
        return ""
