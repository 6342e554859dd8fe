"""Admission: who may make one more request now, decided for many at once in the transaction that opens their rows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from app.call import Call
from app.errors import ChatServiceException, ServiceException
from app.services.accounts import Account, Accounts, period_end, period_start
from app.store.tables import requests, spending

MICROSECONDS = 1_000_000
RATE_WINDOW_SECONDS = 60
LONGEST_RETRY_SECONDS = 86_400
LEASE_GRACE_SECONDS = 5.0

_INSERT = requests.insert()
_NEXT_ID_SQLITE = sa.text("SELECT coalesce(max(id), 0) + 1 FROM requests")
_NEXT_IDS_POSTGRESQL = sa.text(
    "SELECT nextval(pg_get_serial_sequence('requests', 'id')) FROM generate_series(1, :wanted)"
)
_CLIENT = requests.c.client_id == sa.bindparam("client_id")
_RECENT = sa.select(sa.func.count(), sa.func.min(requests.c.created_at)).where(
    _CLIENT, requests.c.created_at > sa.bindparam("since")
)
_LEASED = sa.select(sa.func.count()).where(
    _CLIENT, requests.c.status == "pending", requests.c.lease_until > sa.bindparam("now")
)
_PERIOD = (spending.c.client_id == sa.bindparam("of_client")) & (spending.c.period_start == sa.bindparam("of_period"))
_USED = sa.select(spending.c.spent_nano + spending.c.reserved_nano).where(_PERIOD)
_OPEN_PERIOD = spending.insert()
_RESERVE = spending.update().where(_PERIOD).values(reserved_nano=spending.c.reserved_nano + sa.bindparam("reserved"))
_BLANK_ROW: dict[str, Any] = {
    **{"status": "pending", "cached": False, "estimated": False},
    **dict.fromkeys(("input_tokens", "cached_tokens", "output_tokens", "reasoning_tokens"), 0),
}


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
        admitted = [decision for decision in decisions if isinstance(decision, dict)]
        if admitted:
            ids = iter(_next_ids(connection, len(admitted)))
            for row in admitted:
                row["id"] = next(ids)
            connection.execute(_INSERT, admitted)
        for standing in standings.values():
            standing.save()
        return [_admitted(decision) if isinstance(decision, dict) else decision for decision in decisions]

    def _decide(
        self,
        connection: sa.Connection,
        opening: Opening,
        accounts: dict[str, Account],
        standings: dict[int, Standing],
        now: int,
    ) -> dict[str, Any] | ServiceException:
        """The row of an admitted request, without its id, or why it is refused."""
        account = accounts.get(opening.call.token)
        if account is None:
            if self._token_required or opening.call.token:
                return unauthorized()
            return self._row(opening, now, None, 0, None)
        try:
            standing = standings.setdefault(account.id, Standing(connection, account, now))
            reserved, period = standing.admit(opening.ask, opening.worst_nano)
        except ServiceException as exc:
            return exc
        return self._row(opening, now, account, reserved, period)

    def _row(
        self, opening: Opening, now: int, account: Account | None, reserved: int, period: int | None
    ) -> dict[str, Any]:
        call, ask = opening.call, opening.ask
        lease = int((call.deadline - time.monotonic() + LEASE_GRACE_SECONDS) * MICROSECONDS)
        return _BLANK_ROW | {
            "request_id": call.request_id,
            "client_id": account.id if account else None,
            "client_name": account.name if account else None,
            "created_at": now,
            "route": ask.route,
            "session_id": ask.session_id,
            "model": ask.model,
            "streamed": ask.streamed,
            "owner": self._owner,
            "lease_until": now + lease,
            "reserved_nano": reserved,
            "period_start": period,
        }


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
        row = {"client_id": self._account.id, "period_start": self._period_start}
        if self._period_is_open:
            values = {"of_client": self._account.id, "of_period": self._period_start, "reserved": self._reserved}
            self._connection.execute(_RESERVE, values)
        else:
            self._connection.execute(_OPEN_PERIOD, row | {"spent_nano": 0, "reserved_nano": self._reserved})

    @property
    def _period_start(self) -> int:
        assert self._account.budget_period is not None
        return period_start(self._account.budget_period, self._now)

    def _check_rate(self, limit: int | None) -> None:
        if limit is None:
            return
        if self._recent is None:
            values = {"client_id": self._account.id, "since": self._now - RATE_WINDOW_SECONDS * MICROSECONDS}
            made, oldest = self._connection.execute(_RECENT, values).one()
            self._recent = made, oldest or self._now
        made, oldest = self._recent
        if made >= limit:
            seconds = math.ceil((oldest - self._now) / MICROSECONDS) + RATE_WINDOW_SECONDS
            raise _refused("rate_limited", "Too many requests in a minute", limit, seconds, RATE_WINDOW_SECONDS)

    def _check_concurrency(self, limit: int | None) -> None:
        if limit is None:
            return
        if self._leased is None:
            values = {"client_id": self._account.id, "now": self._now}
            self._leased = self._connection.execute(_LEASED, values).scalar_one()
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
            found = self._connection.execute(_USED, {"of_client": self._account.id, "of_period": began}).scalar()
            self._period_is_open, self._used = found is not None, found or 0
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


def _admitted(row: dict[str, Any]) -> Admitted:
    return Admitted(row["id"], row["client_id"], row["reserved_nano"], row["period_start"])


def _next_ids(connection: sa.Connection, wanted: int) -> Sequence[int]:
    if connection.dialect.name == "postgresql":
        return connection.execute(_NEXT_IDS_POSTGRESQL, {"wanted": wanted}).scalars().all()
    first: int = connection.execute(_NEXT_ID_SQLITE).scalar_one()
    return range(first, first + wanted)


def _refused(code: str, message: str, limit: int, retry_after: int, window: int) -> ChatServiceException:
    """A 429 with the headers of draft-ietf-httpapi-ratelimit-headers: quota, window, what is left, when to return."""
    seconds = max(1, min(retry_after, LONGEST_RETRY_SECONDS))
    headers = {"RateLimit-Policy": f'"{code}";q={limit};w={window}', "RateLimit": f'"{code}";r=0;t={seconds}'}
    return ChatServiceException(message, code, {"retry_after": seconds, "headers": headers})
