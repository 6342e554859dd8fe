"""Admission: who may make one more request now, decided for many at once in the transaction that opens their rows."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from app.errors import ServiceException
from app.ledger.accounts import Account, Accounts, unauthorized
from app.ledger.lease import LEASE_SECONDS
from app.ledger.limits import Opening, Reservation, Standing
from app.store.fitting import Fitting
from app.store.statement import RowsStatement, Statement
from app.store.tables import requests
from app.units import MICROSECONDS

LEASE_GRACE_SECONDS = 5.0

_LAST_ID = Statement(sa.select(sa.func.max(requests.c.id).label("last")))
_NEXT_IDS = Statement(
    sa.text("SELECT nextval(pg_get_serial_sequence('requests', 'id')) AS id FROM generate_series(1, :wanted)")
)


@dataclass(frozen=True)
class Admitted:
    """What admission wrote down; `reserved_nano` (nano-dollars) stands against the budget of `period_start`."""

    row_id: int
    client_id: int | None = None
    reserved_nano: int = 0
    period_start: int | None = None
    output_limit: int | None = None


@dataclass(frozen=True)
class Decision:
    """A request that is admitted: its row, which gets its id last, and what is reserved for it."""

    row: dict[str, Any]
    reserved: Reservation

    def admitted(self) -> Admitted:
        """What the ledger has to remember of it."""
        reserved = self.reserved
        row_id, client_id = self.row["id"], self.row["client_id"]
        return Admitted(row_id, client_id, reserved.nano, reserved.period_start, reserved.output_limit)


class Admission:
    """Admits requests on behalf of `owner`, a worker."""

    def __init__(
        self,
        accounts: Accounts,
        owner: str,
        *,
        token_required: bool,
        max_output_tokens: int,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._accounts = accounts
        self._owner = owner
        self._token_required = token_required
        self._max_output_tokens = max_output_tokens
        self._clock = clock

    def admit_all(self, connection: sa.Connection, openings: Sequence[Opening]) -> list[Admitted | ServiceException]:
        """For each its open row, or why it is refused: 401 `unauthorized`, or what Standing.admit raises.

        A batch for Writer. No two admissions of a client run at once, in any worker or machine: SQLite's transaction
        excludes others, PostgreSQL locks the clients' rows.
        """
        now = int(self._clock() * MICROSECONDS)
        digests = {digest for opening in openings if (digest := opening.principal.token_digest)}
        accounts = self._accounts.active(connection, digests, lock=True) if digests else {}
        standings: dict[int, Standing] = {}
        decisions = [self._decide(connection, opening, accounts, standings, now) for opening in openings]
        rows = [decision.row for decision in decisions if isinstance(decision, Decision)]
        for row, row_id in zip(rows, _next_ids(connection, len(rows)), strict=True):
            row["id"] = row_id
        if rows:
            _INSERT.run(connection, rows)
        for _, standing in sorted(standings.items()):
            standing.save()
        return [decision.admitted() if isinstance(decision, Decision) else decision for decision in decisions]

    def _decide(
        self,
        connection: sa.Connection,
        opening: Opening,
        accounts: Mapping[str, Account],
        standings: dict[int, Standing],
        now: int,
    ) -> Decision | ServiceException:
        """The row of an admitted request, still without its id, or why it is refused."""
        digest = opening.principal.token_digest
        if digest is None:
            return unauthorized() if self._token_required else self._row(opening, None, Reservation(), now)
        account = accounts.get(digest)
        if account is None:
            return unauthorized()
        try:
            standing = standings.setdefault(account.id, Standing(connection, account, now, self._max_output_tokens))
            return self._row(opening, account, standing.admit(opening), now)
        except ServiceException as exc:
            return exc

    def _row(self, opening: Opening, account: Account | None, reserved: Reservation, now: int) -> Decision:
        """The open row of a request, by column."""
        call, ask = opening.call, opening.ask
        last = call.stream_deadline if ask.streamed else call.deadline
        lease_seconds = min(last - time.monotonic() + LEASE_GRACE_SECONDS, LEASE_SECONDS)
        row = {
            "request_id": call.request_id,
            "client_id": account.id if account else None,
            "client_name": account.name if account else None,
            "created_at": now,
            "route": ask.route,
            "session_id": ask.session_id,
            "model": ask.model,
            "streamed": ask.streamed,
            "owner": self._owner,
            "lease_until": now + int(lease_seconds * MICROSECONDS),
            "reserved_nano": reserved.nano,
            "period_start": reserved.period_start,
        }
        return Decision(_NOTHING_USED | _fitted(row), reserved)


_fitted = Fitting(requests)
_NOTHING_USED = {
    "id": 0,
    "status": "pending",
    "cached": False,
    "estimated": False,
    "input_tokens": 0,
    "cached_tokens": 0,
    "output_tokens": 0,
    "reasoning_tokens": 0,
}
_COLUMNS = (
    "id",
    "request_id",
    "client_id",
    "client_name",
    "created_at",
    "route",
    "session_id",
    "model",
    "status",
    "streamed",
    "cached",
    "estimated",
    "input_tokens",
    "cached_tokens",
    "output_tokens",
    "reasoning_tokens",
    "owner",
    "lease_until",
    "reserved_nano",
    "period_start",
)
_INSERT = RowsStatement(
    lambda given: requests.insert().from_select(_COLUMNS, sa.select(given), include_defaults=False),
    {name: requests.c[name].type for name in _COLUMNS},
)


def _next_ids(connection: sa.Connection, wanted: int) -> Sequence[int]:
    if not wanted:
        return ()
    if connection.dialect.name == "postgresql":
        return [row["id"] for row in _NEXT_IDS.rows(connection, wanted=wanted)]
    # No other transaction inserts before this one ends.
    (found,) = _LAST_ID.rows(connection)
    first = (found["last"] or 0) + 1
    return range(first, first + wanted)
