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
from app.errors import ServiceException
from app.ledger import settlement
from app.ledger.accounts import Accounts
from app.ledger.admission import MICROSECONDS, Admission, Admitted, Ask, Opening
from app.ledger.entry import Entry, unrecorded
from app.ledger.lease import is_gone, owner_name
from app.ledger.pricing import NoPrices, Prices
from app.models import ApiKey, Usage
from app.store.database import Database

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
        fingerprint_key: bytes = b"",
        booked: Callable[[Usage, int | None, str | None], None] = lambda *_: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.owner = owner_name()
        self.prices = prices
        self.unrecorded = 0
        self._database = database
        self._admission = Admission(accounts, self.owner, token_required=token_required, clock=clock)
        self._fails_open = fail_open and not token_required
        self._fingerprint_key = fingerprint_key
        self._booked = booked
        self._clock = clock
        self._entries: set[Entry] = set()

    def open(self, call: Call, ask: Ask) -> Entry:
        """Admit a request; the row is durable when this returns.

        Raises ServiceException: 401 `unauthorized`, 403 `model_not_allowed`, 429 `rate_limited`,
        `concurrency_limited` or `budget_exceeded`, 503 `store_unavailable`, or what has ended the call already.
        """
        call.token_checked = True
        call.check()
        worst = self.prices.cost_nano(ask.model, Usage(ask.prompt_tokens, ask.max_tokens)) if ask.server_pays else 0
        try:
            admitted: Admitted = self._database.write_with_others(
                self._admission.admit_all, Opening(call, ask, worst), undo=settlement.take_back
            )
        except ServiceException as exc:
            if exc.error_code != "store_unavailable" or not self._fails_open or call.token:
                raise
            self.unrecorded += 1
            logger.error("a request is not recorded: the database is away (LEDGER_FAIL_OPEN)")
            return unrecorded(call, ask)
        entry = Entry(call, ask, self.prices, lambda *ending: self._settle(admitted, *ending))
        self._entries.add(entry)
        return entry

    def settle_open(self, code: str) -> None:
        """Settle every row of this worker that is still open: it ends now."""
        for entry in tuple(self._entries):
            entry.settle("error", code)

    def sweep(self) -> int:
        """Settle as `abandoned` what nobody works on any more; give the number of rows."""

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

    def fingerprint(self, key: ApiKey | None) -> str | None:
        """A keyed digest that tells two keys apart and gives neither away."""
        if key is None:
            return None
        return hashlib.blake2b(key.secret.encode(), key=self._fingerprint_key, digest_size=8).hexdigest()

    def _settle(self, admitted: Admitted, entry: Entry, status: str, code: str | None) -> None:
        """Write down how a request ended, soon: the values of settlement.COLUMNS."""
        call, (usage, estimated), cost_nano = entry.call, entry.usage(), entry.cost_nano()
        if not entry.cached:
            self._booked(usage, cost_nano, call.api_key_source)
        timings, first_token = call.timings(), call.first_token_seconds
        values = (
            *(call.model_answered, call.paid_with.source if call.paid_with else None),
            *(self.fingerprint(call.paid_with), status, code, entry.cached, estimated),
            *(usage.input_tokens, usage.cached_tokens, usage.output_tokens, usage.reasoning_tokens),
            *(cost_nano, self.prices.version, timings["queue"], timings["upstream"]),
            *(None if first_token is None else round(first_token * 1000, 2), timings["total"]),
            *(call.upstream_request_id, self._now()),
        )
        server_paid = call.paid_with is not None and call.paid_with.source == "default"
        charged = (cost_nano or 0) if server_paid else 0
        self._entries.discard(entry)
        self._database.write_later(settlement.settle_all, settlement.Settlement(admitted, charged, values))

    def _now(self) -> int:
        return int(self._clock() * MICROSECONDS)


class NullLedger:
    """The ledger of plain Python: everybody may call, nothing is written down."""

    def open(self, call: Call, ask: Ask) -> Entry:
        """Admit."""
        return unrecorded(call, ask)
