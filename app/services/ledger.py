"""Ledger: admits a request, opens its row before upstream is called, and settles it whatever way it ends.

One transaction admits: the token is valid, the model allowed, rate, concurrency and budget are within limits, the worst
case is reserved, the row is there as `pending`. That row is the request's lease too. What is left pending by a worker
that died is settled by a sweep once its lease has run out or its owner is gone.
"""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import psutil
import sqlalchemy as sa

from app.call import Call
from app.errors import ChatServiceException, ServiceException
from app.models import ApiKey, Usage
from app.services.accounts import Account, Accounts
from app.services.admission import Ask, check_limits
from app.services.pricing import NoPrices, Prices
from app.services.tokens import estimate_tokens
from app.store.database import Database
from app.store.tables import requests, spending

logger = logging.getLogger(__name__)

LEASE_GRACE_SECONDS = 5.0
SWEEP_MAX = 500
ENDINGS = {"client_closed_request": "cancelled", "upstream_timeout": "timeout"}


@dataclass(frozen=True)
class Admitted:
    """What admission wrote down."""

    row_id: int
    account: Account | None
    reserved_nano: int
    period_start: int | None


class Entry:
    """One request's row, from admission to settlement. A context manager: leaving it settles."""

    def __init__(self, ledger: Ledger, call: Call, ask: Ask, admitted: Admitted) -> None:
        self._ledger = ledger
        self._call = call
        self._ask = ask
        self._admitted = admitted
        self._settled = False
        self.cached = False

    def cost_nano(self) -> int | None:
        """What the request has cost so far: 0 from the cache and where upstream was not asked, None if unknown."""
        usage, _ = self._usage()
        if self.cached or not usage.total_tokens:
            return 0
        return self._ledger.prices.cost_nano(self._call.model_answered or "", usage, asked=self._ask.model)

    def settle(self, status: str, code: str | None = None) -> None:
        """Close the row; only the first call counts."""
        if self._settled:
            return
        self._settled = True
        usage, estimated = self._usage()
        call, timings, cost_nano = self._call, self._call.timings(), self.cost_nano()
        if not self.cached:
            self._ledger.booked(usage, cost_nano, call.api_key_source)
        self._ledger.settle(
            self._admitted,
            charged=call.paid_with is not None and call.paid_with.source == "default",
            status=status,
            code=code,
            cached=self.cached,
            estimated=estimated,
            model_answered=call.model_answered,
            api_key_source=call.paid_with.source if call.paid_with else None,
            api_key_fingerprint=self._ledger.fingerprint(call.paid_with),
            input_tokens=usage.input_tokens,
            cached_tokens=usage.cached_tokens,
            output_tokens=usage.output_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            cost_nano=cost_nano,
            queue_ms=timings["queue"],
            upstream_ms=timings["upstream"],
            first_token_ms=None if call.first_token_seconds is None else round(call.first_token_seconds * 1000, 2),
            total_ms=timings["total"],
            upstream_request_id=call.upstream_request_id,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if exc is None:
            self.settle("ok")
        elif isinstance(exc, ServiceException):
            self.settle(ENDINGS.get(exc.error_code, "error"), exc.error_code)
        elif isinstance(exc, GeneratorExit):
            self.settle("cancelled", "client_closed_request")
        else:
            self.settle("error", "internal_error")

    def _usage(self) -> tuple[Usage, bool]:
        """Tokens as upstream counted them; estimated where it was asked and then did not come to tell."""
        if self._call.usage is not None or not self._call.sent:
            return self._call.usage or Usage(), False
        sent, written = self._ask.prompt_tokens, estimate_tokens(self._call.text_seen)
        return Usage(sent, written, sent + written), bool(sent + written)


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
        self._database = database
        self._accounts = accounts
        self.prices = prices
        self._token_required = token_required
        self._fail_open = fail_open
        self._fingerprint_key = fingerprint_key
        self.booked = booked
        self._clock = clock
        self.owner = owner_name()
        self.unrecorded = 0

    def open(self, call: Call, ask: Ask) -> Entry | NullEntry:
        """Admit a request; the row is durable when this returns.

        Raises ServiceException: 401 `unauthorized`, 403 `model_not_allowed`, 429 `rate_limited`,
        `concurrency_limited` or `budget_exceeded`, 503 `store_unavailable`.
        """
        worst = self.prices.cost_nano(ask.model, Usage(ask.prompt_tokens, ask.max_tokens)) if ask.server_pays else 0
        made: list[Admitted] = []

        def admit(connection: sa.Connection) -> Admitted:
            made[:] = [self._admit(connection, call, ask, worst)]
            return made[0]

        try:
            admitted = self._database.write(admit, undo=lambda connection: self._take_back(connection, made[0]))
        except ServiceException as exc:
            if exc.error_code != "store_unavailable" or not self._fail_open or self._token_required or call.token:
                raise
            self.unrecorded += 1
            logger.error("a request is not recorded: the database is away (LEDGER_FAIL_OPEN)")
            return NullEntry()
        return Entry(self, call, ask, admitted)

    def settle(self, admitted: Admitted, *, charged: bool, cost_nano: int | None, **values: Any) -> None:
        """Write how a request ended, and turn what was reserved for it into what was spent."""
        values |= {"cost_nano": cost_nano, "price_version": self.prices.version, "settled_at": self._now()}

        def work(connection: sa.Connection) -> None:
            row = (requests.c.id == admitted.row_id) & (requests.c.status == "pending")
            if connection.execute(requests.update().where(row).values(values)).rowcount and admitted.account:
                self._spend(connection, admitted, (cost_nano or 0) if charged else 0)

        self._database.write_later(work)

    def sweep(self) -> int:
        """Settle as `abandoned` what nobody works on any more; give the number of rows."""

        def work(connection: sa.Connection) -> int:
            lost = [row for row in self._pending(connection) if row.lease_until < self._now() or is_gone(row.owner)]
            for row in lost:
                self._abandon(connection, row)
            return len(lost)

        return self._database.write(work)

    def forget(self, before: int) -> int:
        """Delete a batch of settled rows older than the moment `before`; give the number of rows."""
        old = sa.select(requests.c.id).where((requests.c.created_at < before) & (requests.c.status != "pending"))
        delete = requests.delete().where(requests.c.id.in_(old.limit(SWEEP_MAX)))
        return self._database.write(lambda connection: int(connection.execute(delete).rowcount))

    def fingerprint(self, key: ApiKey | None) -> str | None:
        """A keyed digest that tells two keys apart and gives neither away."""
        if key is None:
            return None
        return hashlib.blake2b(key.secret.encode(), key=self._fingerprint_key, digest_size=8).hexdigest()

    def _admit(self, connection: sa.Connection, call: Call, ask: Ask, worst: int | None) -> Admitted:
        now = self._now()
        account = self._accounts.authenticate(connection, call.token, lock=True) if call.token else None
        if account is None and (self._token_required or call.token):
            raise unauthorized()
        reserved, began = 0, None
        if account is not None:
            reserved, began = check_limits(connection, account, ask, worst, now)
        inserted = connection.execute(
            requests.insert().values(
                request_id=call.request_id,
                client_id=account.id if account else None,
                client_name=account.name if account else None,
                created_at=now,
                route=ask.route,
                session_id=ask.session_id,
                model=ask.model,
                status="pending",
                streamed=ask.streamed,
                cached=False,
                estimated=False,
                input_tokens=0,
                cached_tokens=0,
                output_tokens=0,
                reasoning_tokens=0,
                owner=self.owner,
                lease_until=now + int((call.deadline - time.monotonic() + LEASE_GRACE_SECONDS) * 1_000_000),
                reserved_nano=reserved,
                period_start=began,
            )
        )
        (row_id,) = inserted.inserted_primary_key or (0,)
        return Admitted(row_id, account, reserved, began)

    def _take_back(self, connection: sa.Connection, admitted: Admitted) -> None:
        """Remove the row of a request that was refused because its admission took too long."""
        connection.execute(requests.delete().where(requests.c.id == admitted.row_id))
        self._spend(connection, admitted, 0)

    def _spend(self, connection: sa.Connection, admitted: Admitted, cost_nano: int) -> None:
        if admitted.account is None or admitted.period_start is None:
            return
        row = (spending.c.client_id == admitted.account.id) & (spending.c.period_start == admitted.period_start)
        connection.execute(
            spending.update()
            .where(row)
            .values(
                spent_nano=spending.c.spent_nano + cost_nano,
                reserved_nano=spending.c.reserved_nano - admitted.reserved_nano,
            )
        )

    def _pending(self, connection: sa.Connection) -> list[Any]:
        return list(connection.execute(requests.select().where(requests.c.status == "pending").limit(SWEEP_MAX)))

    def _abandon(self, connection: sa.Connection, row: Any) -> None:
        """What a dead worker's call has cost is not known; its reservation is charged, so no budget is exceeded."""
        values = {"status": "abandoned", "code": "worker_lost", "estimated": True, "settled_at": self._now()}
        connection.execute(requests.update().where(requests.c.id == row.id).values(values))
        if row.client_id is not None and row.period_start is not None:
            connection.execute(
                spending.update()
                .where((spending.c.client_id == row.client_id) & (spending.c.period_start == row.period_start))
                .values(
                    spent_nano=spending.c.spent_nano + row.reserved_nano,
                    reserved_nano=spending.c.reserved_nano - row.reserved_nano,
                )
            )

    def _now(self) -> int:
        return int(self._clock() * 1_000_000)


class NullEntry:
    """A request that is not recorded."""

    cached = False

    def cost_nano(self) -> int | None:
        """Unknown."""
        return None

    def settle(self, status: str, code: str | None = None) -> None:
        """Nothing to settle."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Nothing to settle."""


class NullLedger:
    """The ledger of plain Python: everybody may call, nothing is written down."""

    def open(self, call: Call, ask: Ask) -> NullEntry:
        """Admit."""
        return NullEntry()


def unauthorized() -> ChatServiceException:
    """The answer to a missing, unknown, expired or revoked token; which of these it is, is nobody's business."""
    return ChatServiceException("A valid token is required: Authorization: Bearer llms_…", "unauthorized")


def owner_name() -> str:
    """This process, told apart from an earlier one with the same pid."""
    return f"{socket.gethostname()[:32]}:{os.getpid()}:{int(psutil.Process().create_time())}"


def is_gone(owner: str) -> bool:
    """Tell whether `owner` was a process of this machine that no longer runs."""
    host, pid, born = owner.rsplit(":", 2)
    if host != socket.gethostname()[:32]:
        return False
    try:
        return int(psutil.Process(int(pid)).create_time()) != int(born)
    except psutil.NoSuchProcess:
        return True
