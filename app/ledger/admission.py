"""Admission: who may make one more request now, decided for many at once in the transaction that opens their rows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from app.calls.call import Call
from app.errors import ChatServiceException, ServiceException
from app.ledger.accounts import Account, Accounts, Principal, period_end, period_start, unauthorized
from app.store.statement import Statement
from app.store.tables import requests, spending
from app.units import MICROSECONDS

RATE_WINDOW_SECONDS = 60
LONGEST_RETRY_SECONDS = 86_400
LEASE_GRACE_SECONDS = 5.0

_CLIENT = requests.c.client_id == sa.bindparam("of_client")
_PENDING = requests.c.status == sa.literal_column("'pending'")
_PERIOD = (spending.c.client_id == sa.bindparam("of_client")) & (spending.c.period_start == sa.bindparam("of_period"))
_LAST_ID = Statement(sa.select(sa.func.max(requests.c.id).label("last")))
_NEXT_IDS = Statement(
    sa.text("SELECT nextval(pg_get_serial_sequence('requests', 'id')) AS id FROM generate_series(1, :wanted)")
)
_RECENT = Statement(
    sa.select(sa.func.count().label("made"), sa.func.min(requests.c.created_at).label("oldest")).where(
        _CLIENT, requests.c.created_at > sa.bindparam("since")
    )
)
_LEASED = Statement(
    sa.select(sa.func.count().label("leased")).where(_CLIENT, _PENDING, requests.c.lease_until > sa.bindparam("now"))
)
_USED = Statement(sa.select((spending.c.spent_nano + spending.c.reserved_nano).label("used_nano")).where(_PERIOD))
_OPEN_PERIOD = Statement(spending.insert(), ("client_id", "period_start", "spent_nano", "reserved_nano"))
_RESERVE = Statement(
    spending.update().where(_PERIOD).values(reserved_nano=spending.c.reserved_nano + sa.bindparam("more_nano"))
)


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What a request wants, as far as admission and the ledger care. `prompt_tokens` is an estimate."""

    route: str
    model: str = ""
    session_id: str = ""
    streamed: bool = False
    prompt_tokens: int = 0
    max_tokens: int = 0


@dataclass(frozen=True, kw_only=True)
class Opening:
    """A request that asks to be admitted.

    `server_pays`: the server's key may come to pay. `worst_nano`: what the request may cost the server at most
    (nano-dollars), None when that is not known.
    """

    call: Call
    principal: Principal
    ask: Ask
    server_pays: bool
    worst_nano: int | None


@dataclass(frozen=True)
class Admitted:
    """What admission wrote down; `reserved_nano` (nano-dollars) stands against the budget of `period_start`."""

    row_id: int
    client_id: int | None = None
    reserved_nano: int = 0
    period_start: int | None = None


@dataclass(frozen=True)
class Reservation:
    """What is kept of a client's budget for one request, and of which period; None where no budget has to pay."""

    nano: int = 0
    period_start: int | None = None


class Admission:
    """Admits requests on behalf of `owner`, a worker."""

    def __init__(
        self, accounts: Accounts, owner: str, *, token_required: bool, clock: Callable[[], float] = time.time
    ) -> None:
        self._accounts = accounts
        self._owner = owner
        self._token_required = token_required
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
        rows = [decision for decision in decisions if not isinstance(decision, ServiceException)]
        for row, row_id in zip(rows, _next_ids(connection, len(rows)), strict=True):
            row["id"] = row_id
        if rows:
            _INSERT.many(connection, rows)
        for standing in standings.values():
            standing.save()
        return [decision if isinstance(decision, ServiceException) else _admitted(decision) for decision in decisions]

    def _decide(
        self,
        connection: sa.Connection,
        opening: Opening,
        accounts: Mapping[str, Account],
        standings: dict[int, Standing],
        now: int,
    ) -> dict[str, Any] | ServiceException:
        """The row of an admitted request, still without its id, or why it is refused."""
        digest = opening.principal.token_digest
        if digest is None:
            return unauthorized() if self._token_required else self._row(opening, None, Reservation(), now)
        account = accounts.get(digest)
        if account is None:
            return unauthorized()
        try:
            standing = standings.setdefault(account.id, Standing(connection, account, now))
            return self._row(opening, account, standing.admit(opening), now)
        except ServiceException as exc:
            return exc

    def _row(self, opening: Opening, account: Account | None, reserved: Reservation, now: int) -> dict[str, Any]:
        """The open row of a request, by column."""
        call, ask = opening.call, opening.ask
        lease_seconds = call.deadline - time.monotonic() + LEASE_GRACE_SECONDS
        return _NOTHING_USED | {
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
_INSERT = Statement(
    requests.insert(),
    (
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
    ),
)


def _admitted(row: Mapping[str, Any]) -> Admitted:
    return Admitted(row["id"], row["client_id"], row["reserved_nano"], row["period_start"])


class Standing:
    """What one client has used of its limits: as the transaction finds it, and counted on while it admits."""

    def __init__(self, connection: sa.Connection, account: Account, now: int) -> None:
        self._connection = connection
        self._account = account
        self._now = now
        self._made: int | None = None
        self._oldest = now
        self._leased: int | None = None
        self._used: int | None = None
        self._period_is_open = False
        self._reserved = 0

    def admit(self, opening: Opening) -> Reservation:
        """Check everything that the account limits; give what is reserved of its budget.

        Raises ChatServiceException: 403 `model_not_allowed`, `free_mode_not_allowed` or `model_price_unknown`, 429
        `rate_limited`, `concurrency_limited` or `budget_exceeded`. A refused request is not counted.
        """
        account = self._account
        if not account.allows_model(opening.ask.model):
            raise ChatServiceException("This client may not use this model", "model_not_allowed")
        if opening.server_pays and not account.free_mode:
            raise ChatServiceException("This client has to bring its own API key", "free_mode_not_allowed")
        self._check_rate(account.requests_per_minute)
        self._check_concurrency(account.concurrency)
        reserved = self._check_budget(opening)
        self._count(reserved.nano)
        return reserved

    def save(self) -> None:
        """Write what was reserved."""
        if not self._reserved:
            return
        client, period = self._account.id, self._period_start
        if self._period_is_open:
            _RESERVE.many(self._connection, [{"more_nano": self._reserved, "of_client": client, "of_period": period}])
        else:
            opened = {"client_id": client, "period_start": period, "spent_nano": 0, "reserved_nano": self._reserved}
            _OPEN_PERIOD.many(self._connection, [opened])

    @property
    def _period_start(self) -> int:
        assert self._account.budget_period is not None
        return period_start(self._account.budget_period, self._now)

    def _check_rate(self, limit: int | None) -> None:
        if limit is None:
            return
        if self._made is None:
            since = self._now - RATE_WINDOW_SECONDS * MICROSECONDS
            (recent,) = _RECENT.rows(self._connection, of_client=self._account.id, since=since)
            self._made, self._oldest = recent["made"], recent["oldest"] or self._now
        if self._made >= limit:
            seconds = math.ceil((self._oldest - self._now) / MICROSECONDS) + RATE_WINDOW_SECONDS
            raise _refused("rate_limited", "Too many requests in a minute", limit, seconds, RATE_WINDOW_SECONDS)

    def _check_concurrency(self, limit: int | None) -> None:
        if limit is None:
            return
        if self._leased is None:
            (found,) = _LEASED.rows(self._connection, of_client=self._account.id, now=self._now)
            self._leased = found["leased"]
        if self._leased >= limit:
            raise _refused("concurrency_limited", "Too many requests at once", limit, 1, 1)

    def _check_budget(self, opening: Opening) -> Reservation:
        budget, period = self._account.budget_nano, self._account.budget_period
        if budget is None or period is None or not opening.server_pays:
            return Reservation()
        if opening.worst_nano is None:
            message = "This model has no known price, and this client has a budget"
            raise ChatServiceException(message, "model_price_unknown")
        began = self._period_start
        if self._used is None:
            found = _USED.rows(self._connection, of_client=self._account.id, of_period=began)
            self._period_is_open, self._used = bool(found), found[0]["used_nano"] if found else 0
        if self._used + opening.worst_nano > budget:
            ends = period_end(period, self._now)
            seconds = LONGEST_RETRY_SECONDS if ends is None else math.ceil((ends - self._now) / MICROSECONDS)
            window = math.ceil((ends - began) / MICROSECONDS) if ends else LONGEST_RETRY_SECONDS
            raise _refused("budget_exceeded", "The budget is used up", budget, seconds, window)
        return Reservation(opening.worst_nano, began)

    def _count(self, reserved: int) -> None:
        """One more has been admitted."""
        if self._made is not None:
            self._made += 1
        if self._leased is not None:
            self._leased += 1
        if self._used is not None:
            self._used += reserved
        self._reserved += reserved


def _next_ids(connection: sa.Connection, wanted: int) -> Sequence[int]:
    if not wanted:
        return ()
    if connection.dialect.name == "postgresql":
        return [row["id"] for row in _NEXT_IDS.rows(connection, wanted=wanted)]
    # Nobody else inserts before this transaction ends.
    (found,) = _LAST_ID.rows(connection)
    first = (found["last"] or 0) + 1
    return range(first, first + wanted)


def _refused(code: str, message: str, limit: int, retry_after: int, window: int) -> ChatServiceException:
    """A 429 with the headers of draft-ietf-httpapi-ratelimit-headers: quota, window, what is left, when to return."""
    seconds = max(1, min(retry_after, LONGEST_RETRY_SECONDS))
    headers = {"RateLimit-Policy": f'"{code}";q={limit};w={window}', "RateLimit": f'"{code}";r=0;t={seconds}'}
    return ChatServiceException(message, code, retry_after=seconds, headers=headers)
