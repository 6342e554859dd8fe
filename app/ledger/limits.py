"""What a client may do, and how much of it it has used: models, free mode, rate, concurrency, budget."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from app.calls.call import Call
from app.errors import ChatServiceException
from app.ledger.accounts import Account, Principal
from app.ledger.budgets import period_end, period_start
from app.ledger.lease import LEASE_SECONDS
from app.models import Usage
from app.store.statement import Statement
from app.store.tables import requests, spending
from app.units import MICROSECONDS, dollars

RATE_WINDOW_SECONDS = 60
LISTING_ROUTES: list[sa.ColumnElement[str]] = [
    sa.literal_column(f"'{route}'") for route in ("/v1/models", "/v1/models/<model>")
]
"""Their requests count against no rate."""
LONGEST_RETRY_SECONDS = 86_400
CLOCK_SECONDS = 5
"""How far ahead another worker's clock may be. What lies further ahead was written before the clock was set back, and
counts for nothing: else it would lock its client out until the clock is there again."""

_CLIENT = requests.c.client_id == sa.bindparam("of_client")
_PENDING = requests.c.status == sa.literal_column("'pending'")
_PERIOD = (spending.c.client_id == sa.bindparam("of_client")) & (spending.c.period_start == sa.bindparam("of_period"))
_RECENT = Statement(
    sa.select(sa.func.count().label("made"), sa.func.min(requests.c.created_at).label("oldest")).where(
        _CLIENT,
        requests.c.created_at > sa.bindparam("since"),
        requests.c.created_at < sa.bindparam("until"),
        requests.c.route.not_in(LISTING_ROUTES),
    )
)
_LEASED = Statement(
    sa.select(sa.func.count().label("leased")).where(
        _CLIENT,
        _PENDING,
        requests.c.lease_until > sa.bindparam("now"),
        requests.c.lease_until < sa.bindparam("until"),
    )
)
_USED = Statement(sa.select((spending.c.spent_nano + spending.c.reserved_nano).label("used_nano")).where(_PERIOD))
_OPEN_PERIOD = Statement(spending.insert(), ("client_id", "period_start", "spent_nano", "reserved_nano"))
_RESERVE = Statement(
    spending.update().where(_PERIOD).values(reserved_nano=spending.c.reserved_nano + sa.bindparam("more_nano"))
)


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What a request wants, as far as admission and the ledger care.

    `prompt_tokens` is an estimate; `max_tokens` bounds each of its `choices`, None where it names no bound. `uncovered`
    names the first member whose cost or model nobody can know before. `cache_write`: for how long the prompt may be
    written to a cache, `5m` or `1h`, which costs more than to read it. `is_free`: it costs nothing, whatever its model.
    `is_unbounded`: what it costs does not go by tokens that could be known before.
    `is_listing`: it lists models, which is free and no request of a model. `character`: which version of whom speaks.
    """

    route: str
    model: str = ""
    session_id: str = ""
    streamed: bool = False
    prompt_tokens: int = 0
    max_tokens: int | None = 0
    choices: int = 1
    uncovered: str | None = None
    cache_write: str = ""
    is_free: bool = False
    is_unbounded: bool = False
    is_listing: bool = False
    character: str = ""

    def most_usage(self, limit: int) -> Usage:
        """The most that the request may use with `limit` output tokens per choice."""
        sent, kept = self.prompt_tokens, self.cache_write
        return Usage(
            sent,
            limit * self.choices,
            cache_write_tokens=sent if kept == "5m" else 0,
            cache_write_1h_tokens=sent if kept == "1h" else 0,
        )


@dataclass(frozen=True, kw_only=True)
class Opening:
    """A request that asks to be admitted.

    `server_pays`: the server's key may come to pay. `worst_nano` says what the request may cost at most (nano-dollars)
    with so many output tokens per choice; None when that is not known.
    """

    call: Call
    principal: Principal
    ask: Ask
    server_pays: bool
    worst_nano: Callable[[int], int | None]


@dataclass(frozen=True)
class Reservation:
    """What is kept of a client's budget for one request, and of which period; None where no budget has to pay.

    `output_limit` is the bound that the request must be given because it named none.
    """

    nano: int = 0
    period_start: int | None = None
    output_limit: int | None = None


def check_permission(account: Account, ask: Ask, *, server_pays: bool) -> None:
    """Check what the account may do at all, whatever it has used: free mode, models, and what no limit can cover.

    Raises ChatServiceException: 403 `free_mode_not_allowed` or `model_not_allowed`, 400 `not_covered`.
    """
    if server_pays and not account.free_mode:
        raise ChatServiceException("This client has to bring its own API key", "free_mode_not_allowed")
    if ask.is_listing:
        return
    if not account.allows_model(ask.model):
        raise ChatServiceException("This client may not use this model", "model_not_allowed")
    if ask.uncovered and server_pays and (account.models or account.budget_nano is not None):
        message = f"This client's limits cannot cover `{ask.uncovered}`"
        raise ChatServiceException(message, "not_covered", param=ask.uncovered)
    if ask.is_unbounded and server_pays and account.budget_nano is not None:
        raise ChatServiceException("This client's budget cannot cover this route", "not_covered")


class Standing:
    """What one client has used of its limits: as the transaction finds it, and counted on while it admits.

    `max_output_tokens` is the bound that a request gets which names none and which a budget has to pay.
    """

    def __init__(self, connection: sa.Connection, account: Account, now: int, max_output_tokens: int) -> None:
        self._connection = connection
        self._account = account
        self._now = now
        self._max_output_tokens = max_output_tokens
        self._made: int | None = None
        self._oldest = now
        self._leased: int | None = None
        self._used: int | None = None
        self._period_is_open = False
        self._reserved = 0

    def admit(self, opening: Opening) -> Reservation:
        """Check everything that the account limits; give what is reserved of its budget.

        Raises ChatServiceException: what check_permission does, 403 `model_price_unknown`, 429 `rate_limited`,
        `concurrency_limited` or `budget_exceeded`. A refused request is not counted.
        """
        account, ask = self._account, opening.ask
        check_permission(account, ask, server_pays=opening.server_pays)
        if ask.is_listing:
            self._check_concurrency(account.concurrency)
            return Reservation()
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
            _RESERVE.run(self._connection, more_nano=self._reserved, of_client=client, of_period=period)
        else:
            opened = {"client_id": client, "period_start": period, "spent_nano": 0, "reserved_nano": self._reserved}
            _OPEN_PERIOD.run(self._connection, **opened)

    @property
    def _period_start(self) -> int:
        assert self._account.budget_period is not None
        return period_start(self._account.budget_period, self._now)

    def _check_rate(self, limit: int | None) -> None:
        if limit is None:
            return
        if self._made is None:
            since = self._now - RATE_WINDOW_SECONDS * MICROSECONDS
            until = self._now + CLOCK_SECONDS * MICROSECONDS
            (recent,) = _RECENT.rows(self._connection, of_client=self._account.id, since=since, until=until)
            self._made, self._oldest = recent["made"], recent["oldest"] or self._now
        if self._made >= limit:
            seconds = math.ceil((self._oldest - self._now) / MICROSECONDS) + RATE_WINDOW_SECONDS
            seconds = min(seconds, RATE_WINDOW_SECONDS)
            raise _refused("rate_limited", "Too many requests in a minute", limit, seconds, RATE_WINDOW_SECONDS)

    def _check_concurrency(self, limit: int | None) -> None:
        if limit is None:
            return
        if self._leased is None:
            until = self._now + (LEASE_SECONDS + CLOCK_SECONDS) * MICROSECONDS
            (found,) = _LEASED.rows(self._connection, of_client=self._account.id, now=self._now, until=until)
            self._leased = found["leased"]
        if self._leased >= limit:
            raise _refused("concurrency_limited", "Too many requests at once", limit, 1, 1)

    def _check_budget(self, opening: Opening) -> Reservation:
        budget, period = self._account.budget_nano, self._account.budget_period
        if budget is None or period is None or not opening.server_pays or opening.ask.is_free:
            return Reservation()
        limit = self._max_output_tokens if opening.ask.max_tokens is None else opening.ask.max_tokens
        worst = opening.worst_nano(limit)
        if worst is None:
            message = "This model has no known price, and this client has a budget"
            raise ChatServiceException(message, "model_price_unknown")
        left = budget - self._used_of(self._period_start)
        if worst > left and opening.ask.max_tokens is None:
            limit = _affordable(opening.worst_nano, limit, left)
            worst = opening.worst_nano(limit) or 0
        if worst > left or (opening.ask.max_tokens is None and limit == 0):
            raise self._budget_refusal(worst, left, budget)
        return Reservation(worst, self._period_start, limit if opening.ask.max_tokens is None else None)

    def _used_of(self, period: int) -> int:
        """Nano-dollars spent and reserved in this period."""
        if self._used is None:
            found = _USED.rows(self._connection, of_client=self._account.id, of_period=period)
            self._period_is_open, self._used = bool(found), found[0]["used_nano"] if found else 0
        return self._used

    def _budget_refusal(self, worst: int, left: int, budget: int) -> ChatServiceException:
        period, began = self._account.budget_period or "total", self._period_start
        ends = period_end(period, self._now)
        seconds = LONGEST_RETRY_SECONDS if ends is None else math.ceil((ends - self._now) / MICROSECONDS)
        window = math.ceil((ends - began) / MICROSECONDS) if ends else LONGEST_RETRY_SECONDS
        message = "The budget is used up"
        if left > 0:
            message = f"This request may cost up to ${dollars(worst)}, and ${dollars(left)} of the budget are left"
        return _refused("budget_exceeded", message, budget, seconds, window)

    def _count(self, reserved: int) -> None:
        """One more has been admitted."""
        if self._made is not None:
            self._made += 1
        if self._leased is not None:
            self._leased += 1
        if self._used is not None:
            self._used += reserved
        self._reserved += reserved


def _affordable(worst_nano: Callable[[int], int | None], most: int, nano: int) -> int:
    """The largest output limit up to `most` with which a request costs at most `nano`; 0 when there is none."""
    least = 0
    while least < most:
        middle = (least + most + 1) // 2
        if (worst_nano(middle) or 0) <= nano:
            least = middle
        else:
            most = middle - 1
    return least


def _refused(code: str, message: str, limit: int, retry_after: int, window: int) -> ChatServiceException:
    """A 429 with the headers of draft-ietf-httpapi-ratelimit-headers: quota, window, what is left, when to return."""
    seconds = max(1, min(retry_after, LONGEST_RETRY_SECONDS))
    headers = {"RateLimit-Policy": f'"{code}";q={limit};w={window}', "RateLimit": f'"{code}";r=0;t={seconds}'}
    return ChatServiceException(message, code, retry_after=seconds, headers=headers)
