"""Ledger: admits a request, opens its row before upstream is called, and settles it whatever way it ends.

One transaction admits: the token is valid, the model allowed, rate, concurrency and budget are within limits, the worst
case is reserved, the row is there as `pending`. That row is the request's lease too. What is left pending by a worker
that died is settled by a sweep once its lease has run out or its owner is gone.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable

import sqlalchemy as sa

from app.calls.call import Call
from app.calls.receipt import Receipt
from app.errors import ServiceException
from app.ledger import settlement
from app.ledger.accounts import Accounts, Principal
from app.ledger.admission import MAX_OUTPUT_TOKENS, Admission, Admitted
from app.ledger.entry import Entry, unrecorded
from app.ledger.lease import is_gone, owner_name
from app.ledger.limits import Ask, Opening
from app.ledger.pricing import NoPrices, Prices
from app.models import ApiKey, Usage
from app.store.database import Database
from app.units import MICROSECONDS, milliseconds

logger = logging.getLogger(__name__)


class Ledger:
    """The book of all requests of all workers that share the database."""

    def __init__(
        self,
        database: Database,
        accounts: Accounts,
        prices: Prices | NoPrices,
        *,
        token_required: bool,
        fail_open: bool = False,
        max_output_tokens: int = MAX_OUTPUT_TOKENS,
        fingerprint_key: bytes = b"",
        booked: Callable[[Usage, int | None, str | None], None] = lambda *_: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.owner = owner_name()
        self.prices = prices
        self.unrecorded = 0
        self._database = database
        self._admission = Admission(
            accounts, self.owner, token_required=token_required, max_output_tokens=max_output_tokens, clock=clock
        )
        self._fails_open = fail_open and not token_required
        self._fingerprint_key = fingerprint_key
        self._booked = booked
        self._clock = clock
        self._entries: set[Entry] = set()
        self._fingerprints: dict[ApiKey, str] = {}

    def open(self, ask: Ask, principal: Principal, call: Call, receipt: Receipt, *, server_pays: bool) -> Entry:
        """Admit a request; the row is durable when this returns. `server_pays`: the server's key may come to pay.

        Raises ServiceException: 401 `unauthorized`, 403 `model_not_allowed`, 429 `rate_limited`,
        `concurrency_limited` or `budget_exceeded`, 503 `store_unavailable`, or what has ended the call already.
        """
        call.check()

        def worst_nano(limit: int) -> int | None:
            return self.prices.cost_nano(ask.model, Usage(ask.prompt_tokens, limit * ask.choices))

        opening = Opening(call=call, principal=principal, ask=ask, server_pays=server_pays, worst_nano=worst_nano)
        try:
            admitted: Admitted = self._database.write_with_others(
                self._admission.admit_all, opening, undo=settlement.take_back
            )
        except ServiceException as exc:
            if exc.error_code != "store_unavailable" or not self._fails_open or principal.token_digest:
                raise
            self.unrecorded += 1
            logger.error("a request is not recorded: the database is away (LEDGER_FAIL_OPEN)")
            return unrecorded(ask, call, receipt)
        entry = Entry(ask, call, receipt, self.prices, lambda *ending: self._settle(admitted, *ending), admitted)
        self._entries.add(entry)
        return entry

    def settle_open(self, code: str) -> None:
        """Settle every row of this worker that is still open: it ends now."""
        for entry in tuple(self._entries):
            entry.settle("error", code)

    def sweep(self) -> int:
        """Settle as `abandoned` the rows that no worker works on any more; give their number."""

        def work(connection: sa.Connection) -> int:
            now = self._now()
            lost = [row for row in settlement.pending(connection) if row.lease_until < now or is_gone(row.owner)]
            if lost:
                settlement.abandon(connection, lost, now)
            return len(lost)

        return self._database.write(work)

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

    def _settle(self, admitted: Admitted, entry: Entry, status: str, code: str | None) -> None:
        """Write down how a request ended, soon."""
        receipt, (usage, estimated), cost_nano = entry.receipt, entry.usage(), entry.charge_nano()
        cached = bool(receipt.cache_hit)
        if not cached:
            self._booked(usage, cost_nano, receipt.key_source)
        times, key, first_token = entry.call.timings(), receipt.key, receipt.first_token_seconds
        row = {
            "model_answered": receipt.model,
            "api_key_source": key.source if key else None,
            "api_key_fingerprint": self.fingerprint(key) if key else None,
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
            "queue_ms": times["queue"],
            "upstream_ms": times["upstream"],
            "first_token_ms": None if first_token is None else milliseconds(first_token),
            "total_ms": times["total"],
            "upstream_request_id": receipt.upstream_request_id,
            "settled_at": self._now(),
        }
        charged = (cost_nano or 0) if key is not None and key.source == "default" else 0
        self._entries.discard(entry)
        self._database.write_later(settlement.settle_all, settlement.Settlement(admitted, charged, row))

    def _now(self) -> int:
        return int(self._clock() * MICROSECONDS)


class NullLedger:
    """The ledger of plain Python: everybody may call, nothing is written down."""

    def open(self, ask: Ask, principal: Principal, call: Call, receipt: Receipt, *, server_pays: bool) -> Entry:
        """Admit."""
        return unrecorded(ask, call, receipt)
