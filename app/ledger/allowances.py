"""Allowances: how many requests, and how much money, a client or one of its end users may still use.

Both are kept by the same code, from two tables of spending and by two codes of refusal: a limit per end user is a
promise as the client's own is.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from app.errors import ChatServiceException
from app.ledger.accounts import Account
from app.ledger.budgets import period_end, period_start
from app.store.fitting import WHOLE_MAX, whole
from app.store.statement import Statement
from app.store.tables import requests, spending, user_spending
from app.units import MICROSECONDS, dollars

RATE_WINDOW_SECONDS = 60
SUMMARY_ROUTE = "session-summary"
"""Of the requests that the server makes itself to summarise a session. They count against no rate and take no place of
a client's concurrency: else they would have its turns refused. Its budget pays for them."""
IS_SUMMARY = requests.c.route == sa.literal_column(f"'{SUMMARY_ROUTE}'")
UNCOUNTED_ROUTES: list[sa.ColumnElement[str]] = [
    sa.literal_column(f"'{route}'") for route in ("/v1/models", "/v1/models/<model>", SUMMARY_ROUTE)
]
"""Their requests count against no rate."""
LONGEST_RETRY_SECONDS = 86_400
CLOCK_SECONDS = 5
"""How far ahead another worker's clock may be. What lies further ahead was written before the clock was set back, and
counts for nothing: else it would lock its client out until the clock is there again."""

Owner = Mapping[str, Any]
"""Whose it is, as the statements take it: `of_client_id`, and for an end user `of_end_user`."""


class SpendingTable:
    """The statements of a table of spending, whose primary key says whose a row is and of which period."""

    def __init__(self, table: sa.Table) -> None:
        keys = [column.name for column in table.primary_key]
        spent, reserved = table.c.spent_nano, table.c.reserved_nano
        this = sa.and_(*(table.c[name] == sa.bindparam(f"of_{name}") for name in keys))
        self._used = Statement(sa.select((spent + reserved).label("used_nano")).where(this))
        self._open = Statement(table.insert(), (*keys, "spent_nano", "reserved_nano"))
        self._reserve = Statement(table.update().where(this).values(reserved_nano=reserved + sa.bindparam("more_nano")))
        # Sums stay within 64 bits, whatever upstream says that it has used.
        is_full = spent > sa.literal_column(str(WHOLE_MAX))
        more = spent + sa.bindparam("spent", type_=sa.BigInteger)
        self._settle = Statement(
            table.update()
            .where(this)
            .values(spent_nano=sa.case((is_full, spent), else_=more), reserved_nano=reserved - sa.bindparam("reserved"))
        )

    def used(self, connection: sa.Connection, owner: Owner, period: int) -> int | None:
        """Nano-dollars spent and reserved in this period; None when it has no row yet."""
        found = self._used.rows(connection, **owner, of_period_start=period)
        return found[0]["used_nano"] if found else None

    def open(self, connection: sa.Connection, owner: Owner, period: int, reserved_nano: int) -> None:
        """Begin a period."""
        whose = {name.removeprefix("of_"): value for name, value in owner.items()}
        self._open.run(connection, **whose, period_start=period, spent_nano=0, reserved_nano=reserved_nano)

    def reserve(self, connection: sa.Connection, owner: Owner, period: int, more_nano: int) -> None:
        """Reserve more in a period that has a row."""
        self._reserve.run(connection, **owner, of_period_start=period, more_nano=more_nano)

    def settle(self, connection: sa.Connection, owner: Owner, period: int, spent_nano: int, reserved_nano: int) -> None:
        """Turn what was reserved into what was spent."""
        self._settle.run(connection, **owner, of_period_start=period, spent=whole(spent_nano), reserved=reserved_nano)


@dataclass(frozen=True)
class Kind:
    """What differs between the allowances of clients and of end users: where they are kept, how a refusal is told."""

    spending: SpendingTable
    recent: Statement
    codes: str
    rate_told: str
    budget_told: str


def _recent(*whose: str) -> Statement:
    """How many requests somebody made in a minute, and when the oldest of them."""
    return Statement(
        sa.select(sa.func.count().label("made"), sa.func.min(requests.c.created_at).label("oldest")).where(
            *(requests.c[name] == sa.bindparam(f"of_{name}") for name in whose),
            requests.c.created_at > sa.bindparam("since"),
            requests.c.created_at < sa.bindparam("until"),
            requests.c.route.not_in(UNCOUNTED_ROUTES),
        )
    )


CLIENTS = Kind(SpendingTable(spending), _recent("client_id"), "", "Too many requests in a minute", "The budget")
USERS = Kind(
    SpendingTable(user_spending),
    _recent("client_id", "end_user"),
    "user_",
    "Too many requests of this end user in a minute",
    "The end user's budget",
)


class Rate:
    """At most `limit` requests in any minute: as the transaction finds them, and counted on while it admits."""

    def __init__(self, connection: sa.Connection, kind: Kind, owner: Owner, limit: int, now: int) -> None:
        self._connection = connection
        self._kind = kind
        self._owner = owner
        self._limit = limit
        self._now = now
        self._made: int | None = None
        self._oldest = now

    def check(self) -> None:
        """Raises ChatServiceException, 429 `rate_limited` or `user_rate_limited`, when no more may be made now."""
        if self._made is None:
            since = self._now - RATE_WINDOW_SECONDS * MICROSECONDS
            until = self._now + CLOCK_SECONDS * MICROSECONDS
            (recent,) = self._kind.recent.rows(self._connection, **self._owner, since=since, until=until)
            self._made, self._oldest = recent["made"], recent["oldest"] or self._now
        if self._made >= self._limit:
            seconds = math.ceil((self._oldest - self._now) / MICROSECONDS) + RATE_WINDOW_SECONDS
            seconds, code = min(seconds, RATE_WINDOW_SECONDS), f"{self._kind.codes}rate_limited"
            raise refused(code, self._kind.rate_told, self._limit, seconds, RATE_WINDOW_SECONDS)

    def count(self) -> None:
        """One more has been admitted."""
        if self._made is not None:
            self._made += 1


class Purse:
    """A budget in its present period: as the transaction finds it, and counted on while it admits."""

    def __init__(
        self, connection: sa.Connection, kind: Kind, owner: Owner, budget_nano: int, period: str, now: int
    ) -> None:
        self._connection = connection
        self._kind = kind
        self._owner = owner
        self._budget = budget_nano
        self._period = period
        self._now = now
        self.period_start = period_start(period, now)
        self._used: int | None = None
        self._is_open = False
        self._reserved = 0

    def left(self) -> int:
        """Nano-dollars that are neither spent nor reserved; below 0 where the budget was made smaller."""
        if self._used is None:
            used = self._kind.spending.used(self._connection, self._owner, self.period_start)
            self._is_open, self._used = used is not None, used or 0
        return self._budget - self._used

    def reserve(self, nano: int) -> None:
        """Keep some of what is left."""
        assert self._used is not None
        self._used += nano
        self._reserved += nano

    def refusal(self, worst: int) -> ChatServiceException:
        """The answer to a request that may cost `worst` nano-dollars, more than is left."""
        ends = period_end(self._period, self._now)
        seconds = LONGEST_RETRY_SECONDS if ends is None else math.ceil((ends - self._now) / MICROSECONDS)
        window = math.ceil((ends - self.period_start) / MICROSECONDS) if ends else LONGEST_RETRY_SECONDS
        budget, left = self._kind.budget_told, self.left()
        message = f"{budget} is used up"
        if left > 0:
            of = f"{budget[0].lower()}{budget[1:]}"
            message = f"This request may cost up to ${dollars(worst)}, and ${dollars(left)} of {of} are left"
        return refused(f"{self._kind.codes}budget_exceeded", message, self._budget, seconds, window)

    def save(self) -> None:
        """Write what was reserved."""
        if self._reserved:
            write = self._kind.spending.reserve if self._is_open else self._kind.spending.open
            write(self._connection, self._owner, self.period_start, self._reserved)


@dataclass(frozen=True)
class Allowance:
    """A rate and a budget; None is no limit."""

    rate: Rate | None
    purse: Purse | None


def of_client(connection: sa.Connection, account: Account, now: int) -> Allowance:
    """What a client may still use, all its users together."""
    limits = account.requests_per_minute, account.budget_nano, account.budget_period
    return _allowance(connection, CLIENTS, {"of_client_id": account.id}, *limits, now)


def of_user(connection: sa.Connection, account: Account, user: str, now: int) -> Allowance:
    """What one end user of a client may still use."""
    owner = {"of_client_id": account.id, "of_end_user": user}
    limits = account.per_user_rpm, account.per_user_budget_nano, account.per_user_budget_period
    return _allowance(connection, USERS, owner, *limits, now)


def _allowance(
    connection: sa.Connection,
    kind: Kind,
    owner: Owner,
    rpm: int | None,
    budget_nano: int | None,
    period: str | None,
    now: int,
) -> Allowance:
    rate = None if rpm is None else Rate(connection, kind, owner, rpm, now)
    if budget_nano is None or period is None:
        return Allowance(rate, None)
    return Allowance(rate, Purse(connection, kind, owner, budget_nano, period, now))


def refused(code: str, message: str, limit: int, retry_after: int, window: int) -> ChatServiceException:
    """A 429 with the headers of draft-ietf-httpapi-ratelimit-headers: quota, window, what is left, when to return."""
    seconds = max(1, min(retry_after, LONGEST_RETRY_SECONDS))
    headers = {"RateLimit-Policy": f'"{code}";q={limit};w={window}', "RateLimit": f'"{code}";r=0;t={seconds}'}
    return ChatServiceException(message, code, retry_after=seconds, headers=headers)
