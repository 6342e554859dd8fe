"""Admission: who may make one more request now, decided for many at once in the transaction that opens their rows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from app.calls.call import Call
from app.errors import ChatServiceException, ServiceException
from app.ledger.accounts import Account, Accounts, period_end, period_start
from app.store.statement import Statement
from app.store.tables import requests, spending

MICROSECONDS = 1_000_000
RATE_WINDOW_SECONDS = 60
LONGEST_RETRY_SECONDS = 86_400
LEASE_GRACE_SECONDS = 5.0

_PENDING = requests.c.status == sa.literal_column("'pending'")
_OPENED = (
    *("id", "request_id", "client_id", "client_name", "created_at", "route", "session_id", "model", "status"),
    *("streamed", "cached", "estimated", "input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens"),
    *("owner", "lease_until", "reserved_nano", "period_start"),
)
_INSERT = Statement(requests.insert(), *_OPENED)
_LAST_ID = Statement(sa.select(sa.func.max(requests.c.id)))
_NEXT_IDS = Statement(
    sa.text("SELECT nextval(pg_get_serial_sequence('requests', 'id')) FROM generate_series(1, :wanted)"), "wanted"
)
_RECENT = Statement(
    sa.select(sa.func.count(), sa.func.min(requests.c.created_at)).where(
        requests.c.client_id == sa.bindparam("client_id"), requests.c.created_at > sa.bindparam("since")
    ),
    *("client_id", "since"),
)
_LEASED = Statement(
    sa.select(sa.func.count()).where(
        requests.c.client_id == sa.bindparam("client_id"), _PENDING, requests.c.lease_until > sa.bindparam("now")
    ),
    *("client_id", "now"),
)
_PERIOD = (spending.c.client_id == sa.bindparam("of_client")) & (spending.c.period_start == sa.bindparam("of_period"))
_USED = Statement(sa.select(spending.c.spent_nano + spending.c.reserved_nano).where(_PERIOD), "of_client", "of_period")
_OPEN_PERIOD = Statement(spending.insert(), "client_id", "period_start", "spent_nano", "reserved_nano")
_RESERVE = Statement(
    spending.update().where(_PERIOD).values(reserved_nano=spending.c.reserved_nano + sa.bindparam("reserved")),
    *("reserved", "of_client", "of_period"),
)


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What a request wants, as far as admission and the ledger care. `prompt_tokens` is an estimate."""

    route: str
    model: str
    session_id: str = ""
    streamed: bool = False
    prompt_tokens: int = 0
    max_tokens: int = 0
    server_pays: bool = False


@dataclass(frozen=True)
class Opening:
    """One request before the door. `worst_nano`: what it may cost at most (nano-dollars), None when unknown."""

    call: Call
    ask: Ask
    worst_nano: int | None


@dataclass(frozen=True)
class Admitted:
    """What admission wrote down; `reserved_nano` (nano-dollars) stands against the budget of `period_start`."""

    row_id: int
    client_id: int | None = None
    reserved_nano: int = 0
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
        tokens = {opening.call.token for opening in openings if opening.call.token}
        accounts = self._accounts.authenticate_all(connection, tokens, lock=True) if tokens else {}
        standings: dict[int, Standing] = {}
        decisions = [self._decide(connection, opening, accounts, standings, now) for opening in openings]
        admitted = [decision for decision in decisions if isinstance(decision, Row)]
        if admitted:
            ids = _next_ids(connection, len(admitted))
            _INSERT.many(connection, [row.opened(row_id) for row, row_id in zip(admitted, ids, strict=True)])
            outcomes = iter([row.admitted(row_id) for row, row_id in zip(admitted, ids, strict=True)])
        for standing in standings.values():
            standing.save()
        return [next(outcomes) if isinstance(decision, Row) else decision for decision in decisions]

    def _decide(
        self,
        connection: sa.Connection,
        opening: Opening,
        accounts: dict[str, Account],
        standings: dict[int, Standing],
        now: int,
    ) -> Row | ServiceException:
        """The row of an admitted request, or why it is refused."""
        account = accounts.get(opening.call.token)
        if account is None:
            if self._token_required or opening.call.token:
                return unauthorized()
            return Row(opening, now, self._owner)
        try:
            standing = standings.setdefault(account.id, Standing(connection, account, now))
            reserved, period = standing.admit(opening.ask, opening.worst_nano)
        except ServiceException as exc:
            return exc
        return Row(opening, now, self._owner, account, reserved, period)


@dataclass(frozen=True)
class Row:
    """An admitted request's row, before it has a number."""

    opening: Opening
    now: int
    owner: str
    account: Account | None = None
    reserved_nano: int = 0
    period_start: int | None = None

    def opened(self, row_id: int) -> tuple[Any, ...]:
        """The values of _OPENED."""
        call, ask = self.opening.call, self.opening.ask
        client = (self.account.id, self.account.name) if self.account else (None, None)
        lease = int((call.deadline - time.monotonic() + LEASE_GRACE_SECONDS) * MICROSECONDS)
        return (
            *(row_id, call.request_id, *client, self.now, ask.route, ask.session_id, ask.model, "pending"),
            *(ask.streamed, False, False, 0, 0, 0, 0),
            *(self.owner, self.now + lease, self.reserved_nano, self.period_start),
        )

    def admitted(self, row_id: int) -> Admitted:
        """What the ledger has to remember of it."""
        return Admitted(row_id, self.account.id if self.account else None, self.reserved_nano, self.period_start)


class Standing:
    """What one client has used of its limits: as the transaction finds it, and counted on while it admits."""

    def __init__(self, connection: sa.Connection, account: Account, now: int) -> None:
        self._connection = connection
        self._account = account
        self._now = now
        self._recent: tuple[int, int] | None = None
        self._leased: int | None = None
        self._used: int | None = None
        self._period_is_open = False
        self._reserved = 0

    def admit(self, ask: Ask, worst_nano: int | None) -> tuple[int, int | None]:
        """Check everything that the account limits; give what was reserved (nano-dollars) and its budget's period.

        Raises ChatServiceException: 403 `model_not_allowed`, `free_mode_not_allowed` or `model_price_unknown`, 429
        `rate_limited`, `concurrency_limited` or `budget_exceeded`. Who is refused counts for nothing.
        """
        account = self._account
        if not account.allows_model(ask.model):
            raise ChatServiceException("This client may not use this model", "model_not_allowed")
        if ask.server_pays and not account.free_mode:
            raise ChatServiceException("This client has to bring its own API key", "free_mode_not_allowed")
        self._check_rate(account.requests_per_minute)
        self._check_concurrency(account.concurrency)
        reserved, period = self._check_budget(ask, worst_nano)
        self._count(reserved)
        return reserved, period

    def save(self) -> None:
        """Write what was reserved."""
        if not self._reserved:
            return
        client, period = self._account.id, self._period_start
        if self._period_is_open:
            _RESERVE.many(self._connection, [(self._reserved, client, period)])
        else:
            _OPEN_PERIOD.many(self._connection, [(client, period, 0, self._reserved)])

    @property
    def _period_start(self) -> int:
        assert self._account.budget_period is not None
        return period_start(self._account.budget_period, self._now)

    def _check_rate(self, limit: int | None) -> None:
        if limit is None:
            return
        if self._recent is None:
            since = self._now - RATE_WINDOW_SECONDS * MICROSECONDS
            ((made, oldest),) = _RECENT.rows(self._connection, self._account.id, since)
            self._recent = made, oldest or self._now
        made, oldest = self._recent
        if made >= limit:
            seconds = math.ceil((oldest - self._now) / MICROSECONDS) + RATE_WINDOW_SECONDS
            raise _refused("rate_limited", "Too many requests in a minute", limit, seconds, RATE_WINDOW_SECONDS)

    def _check_concurrency(self, limit: int | None) -> None:
        if limit is None:
            return
        if self._leased is None:
            ((self._leased,),) = _LEASED.rows(self._connection, self._account.id, self._now)
        if self._leased >= limit:
            raise _refused("concurrency_limited", "Too many requests at once", limit, 1, 1)

    def _check_budget(self, ask: Ask, worst_nano: int | None) -> tuple[int, int | None]:
        budget, period = self._account.budget_nano, self._account.budget_period
        if budget is None or period is None or not ask.server_pays:
            return 0, None
        if worst_nano is None:
            message = "This model has no known price, and this client has a budget"
            raise ChatServiceException(message, "model_price_unknown")
        began = self._period_start
        if self._used is None:
            found = _USED.rows(self._connection, self._account.id, began)
            self._period_is_open, self._used = bool(found), found[0][0] if found else 0
        if self._used + worst_nano > budget:
            ends = period_end(period, self._now)
            seconds = LONGEST_RETRY_SECONDS if ends is None else math.ceil((ends - self._now) / MICROSECONDS)
            window = math.ceil((ends - began) / MICROSECONDS) if ends else LONGEST_RETRY_SECONDS
            raise _refused("budget_exceeded", "The budget is used up", budget, seconds, window)
        return worst_nano, began

    def _count(self, reserved: int) -> None:
        """One more has been admitted."""
        if self._recent is not None:
            self._recent = self._recent[0] + 1, self._recent[1]
        if self._leased is not None:
            self._leased += 1
        if self._used is not None:
            self._used += reserved
        self._reserved += reserved


def unauthorized() -> ChatServiceException:
    """The answer to a missing, unknown, expired or revoked token; which of these it is, is nobody's business."""
    return ChatServiceException("A valid token is required: Authorization: Bearer llms_…", "unauthorized")


def _next_ids(connection: sa.Connection, wanted: int) -> Sequence[int]:
    if connection.dialect.name == "postgresql":
        return [row[0] for row in _NEXT_IDS.rows(connection, wanted)]
    # Nobody else inserts before this transaction ends.
    ((last,),) = _LAST_ID.rows(connection)
    return range((last or 0) + 1, (last or 0) + 1 + wanted)


def _refused(code: str, message: str, limit: int, retry_after: int, window: int) -> ChatServiceException:
    """A 429 with the headers of draft-ietf-httpapi-ratelimit-headers: quota, window, what is left, when to return."""
    seconds = max(1, min(retry_after, LONGEST_RETRY_SECONDS))
    headers = {"RateLimit-Policy": f'"{code}";q={limit};w={window}', "RateLimit": f'"{code}";r=0;t={seconds}'}
    return ChatServiceException(message, code, {"retry_after": seconds, "headers": headers})
