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
from app.store.statement import PLACE, RowsStatement
from app.store.tables import requests
from app.units import MICROSECONDS

LEASE_GRACE_SECONDS = 5.0

_NOTHING_USED: dict[str, sa.ColumnElement[Any]] = {
    "status": sa.literal_column("'pending'"),
    "cached": sa.false(),
    "estimated": sa.false(),
    "input_tokens": sa.literal_column("0"),
    "cached_tokens": sa.literal_column("0"),
    "output_tokens": sa.literal_column("0"),
    "reasoning_tokens": sa.literal_column("0"),
}
_COLUMNS = (
    "request_id",
    "client_id",
    "client_name",
    "created_at",
    "route",
    "session_id",
    "model",
    "streamed",
    "owner",
    "lease_until",
    "reserved_nano",
    "period_start",
    "end_user",
    "user_period_start",
    "character",
)
_INSERT = RowsStatement(
    lambda given: (
        requests.insert()
        .from_select(
            [*_COLUMNS, *_NOTHING_USED],
            # In the order of the rows: the ids are given in this order, and come back in any.
            sa.select(*(given.c[name] for name in _COLUMNS), *_NOTHING_USED.values()).order_by(given.c[PLACE]),
            include_defaults=False,
        )
        .returning(requests.c.id)
    ),
    {name: requests.c[name].type for name in _COLUMNS},
)


@dataclass(frozen=True)
class Admitted:
    """What admission wrote down; `reserved_nano` (nano-dollars) stands against the client's budget of `period_start`
    and against that of `end_user` of `user_period_start`."""

    row_id: int
    client_id: int | None = None
    reserved_nano: int = 0
    period_start: int | None = None
    output_limit: int | None = None
    end_user: str | None = None
    user_period_start: int | None = None

    @property
    def is_paid_of_a_budget(self) -> bool:
        """Whether something is reserved that has to be settled."""
        return self.period_start is not None or self.user_period_start is not None


@dataclass(frozen=True)
class Decision:
    """A request that is admitted: its row, still without its id, and what is reserved for it."""

    row: Mapping[str, Any]
    reserved: Reservation

    def admitted(self, row_id: int) -> Admitted:
        """What the ledger has to remember of it."""
        reserved, row = self.reserved, self.row
        return Admitted(
            row_id,
            row["client_id"],
            reserved.nano,
            reserved.period_start,
            reserved.output_limit,
            row["end_user"],
            reserved.user_period_start,
        )


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

    def admit_all(
        self, connection: sa.Connection, openings: Sequence[Opening], held: Sequence[Mapping[str, Any]]
    ) -> list[Admitted | ServiceException]:
        """For each its open row, or why it is refused: 401 `unauthorized`, or what Standing.admit raises.

        `held`: the rows of their clients, which the transaction holds. So no two admissions of a client run at once, in
        any worker or machine.
        """
        now = int(self._clock() * MICROSECONDS)
        digests = {digest for opening in openings if (digest := opening.principal.token_digest)}
        accounts = self._accounts.active(held, digests) if digests else {}
        standings: dict[int, Standing] = {}
        decisions = [self._decide(connection, opening, accounts, standings, now) for opening in openings]
        rows = [decision.row for decision in decisions if isinstance(decision, Decision)]
        ids = iter(sorted(row["id"] for row in _INSERT.rows(connection, rows)))
        for _, standing in sorted(standings.items()):
            standing.save()
        return [decision.admitted(next(ids)) if isinstance(decision, Decision) else decision for decision in decisions]

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
            return unauthorized() if self._token_required else self._open(connection, opening, now)
        account = accounts.get(digest)
        if account is None:
            return unauthorized()
        try:
            _claim(connection, opening)
            standing = standings.get(account.id)
            if standing is None:
                standing = Standing(connection, account, now, self._max_output_tokens)
                standings[account.id] = standing
            return self._row(opening, account, standing.admit(opening), now)
        except ServiceException as exc:
            return exc

    def _open(self, connection: sa.Connection, opening: Opening, now: int) -> Decision | ServiceException:
        """The row of a request that nobody limits, as no token is needed."""
        try:
            _claim(connection, opening)
        except ServiceException as exc:
            return exc
        return self._row(opening, None, Reservation(), now)

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
            "end_user": ask.end_user,
            "user_period_start": reserved.user_period_start,
            "character": ask.character or None,
        }
        return Decision(row, reserved)


def _claim(connection: sa.Connection, opening: Opening) -> None:
    if opening.beside is not None:
        opening.beside.claim(connection)
