"""What a client may do, and how much of it it has used: models, free mode, rate, concurrency, budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import sqlalchemy as sa

from app.calls.call import Call
from app.errors import ChatServiceException, ValidationException
from app.ledger.accounts import Account, Principal
from app.ledger.allowances import CLOCK_SECONDS, IS_SUMMARY, SUMMARY_ROUTE, Allowance, of_client, of_user, refused
from app.ledger.beside import Beside
from app.ledger.lease import LEASE_SECONDS
from app.models import Usage
from app.store.statement import Statement
from app.store.tables import requests
from app.units import MICROSECONDS

_LEASED = Statement(
    sa.select(sa.func.count().label("leased")).where(
        requests.c.client_id == sa.bindparam("of_client"),
        requests.c.status == sa.literal_column("'pending'"),
        requests.c.lease_until > sa.bindparam("now"),
        requests.c.lease_until < sa.bindparam("until"),
        ~IS_SUMMARY,
    )
)


@dataclass(frozen=True, kw_only=True)
class Ask:
    """What a request wants, as far as admission and the ledger care.

    `prompt_tokens` is an estimate; `max_tokens` bounds each of its `choices`, None where it names no bound. `uncovered`
    names the first member whose cost or model nobody can know before. `cache_write`: for how long the prompt may be
    written to a cache, `5m` or `1h`, which costs more than to read it. `is_free`: it costs nothing, whatever its model.
    `is_unbounded`: what it costs does not go by tokens that could be known before.
    `is_listing`: it lists models, which is free and no request of a model. `end_user`: whom the client asks for, as
    app/ledger/end_users.py writes it down; `user_member` is the member that names it. `character`: which version of
    whom speaks.
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
    end_user: str | None = None
    user_member: str = "user"
    character: str = ""

    @property
    def is_counted(self) -> bool:
        """Whether it counts against a rate and a concurrency: a summary does not."""
        return self.route != SUMMARY_ROUTE

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
    with so many output tokens per choice; None when that is not known. `beside`: what is claimed in the transaction.
    """

    call: Call
    principal: Principal
    ask: Ask
    server_pays: bool
    worst_nano: Callable[[int], int | None]
    beside: Beside | None = None


@dataclass(frozen=True)
class Reservation:
    """What is kept for one request of a client's budget, of its end user's or of both, and of which periods of these;
    None where no such budget has to pay.

    `output_limit` is the bound that the request must be given because it named none.
    """

    nano: int = 0
    period_start: int | None = None
    user_period_start: int | None = None
    output_limit: int | None = None


def check_permission(account: Account, ask: Ask, *, server_pays: bool) -> None:
    """Check what the account may do at all, whatever it has used: free mode, models, what no limit can cover, and
    whether an end user is named whose limits hold. What is free may name none: `count_tokens` has no member for it.

    Raises ChatServiceException: 403 `free_mode_not_allowed` or `model_not_allowed`, 400 `not_covered`; and
    ValidationException, which names the member that is missing.
    """
    if server_pays and not account.free_mode:
        raise ChatServiceException("This client has to bring its own API key", "free_mode_not_allowed")
    if ask.is_listing:
        return
    if not account.allows_model(ask.model):
        raise ChatServiceException("This client may not use this model", "model_not_allowed")
    if ask.uncovered and server_pays and (account.models or account.has_budget):
        message = f"This client's limits cannot cover `{ask.uncovered}`"
        raise ChatServiceException(message, "not_covered", param=ask.uncovered)
    if ask.is_unbounded and server_pays and account.has_budget:
        raise ChatServiceException("This client's budget cannot cover this route", "not_covered")
    if account.limits_users and ask.end_user is None and not ask.is_free:
        message = f"must name the end user (`{ask.user_member}`): this client has limits for each of them"
        raise ValidationException(message, ask.user_member)


class Standing:
    """What one client has used of its limits: as the transaction finds it, and counted on while it admits.

    `max_output_tokens` is the bound that a request gets which names none and which a budget has to pay.
    """

    def __init__(self, connection: sa.Connection, account: Account, now: int, max_output_tokens: int) -> None:
        self._connection = connection
        self._account = account
        self._now = now
        self._max_output_tokens = max_output_tokens
        self._own = of_client(connection, account, now)
        self._users: dict[str, Allowance] = {}
        self._leased: int | None = None

    def admit(self, opening: Opening) -> Reservation:
        """Check everything that the account limits; give what is reserved of its budgets.

        Raises what check_permission does, and ChatServiceException: 403 `model_price_unknown`, 429 `rate_limited`,
        `user_rate_limited`, `concurrency_limited`, `budget_exceeded` or `user_budget_exceeded`. A refused request is
        not counted.
        """
        account, ask = self._account, opening.ask
        check_permission(account, ask, server_pays=opening.server_pays)
        if ask.is_listing:
            self._check_concurrency(account.concurrency)
            return Reservation()
        own, user = self._own, self._of_user(ask.end_user)
        if not ask.is_counted:
            return self._reserve(opening, own, user)
        rates = [one.rate for one in (own, user) if one is not None and one.rate is not None]
        for rate in rates:
            rate.check()
        self._check_concurrency(account.concurrency)
        reserved = self._reserve(opening, own, user)
        for rate in rates:
            rate.count()
        if self._leased is not None:
            self._leased += 1
        return reserved

    def save(self) -> None:
        """Write what was reserved, always in the same order."""
        for one in (self._own, *(allowance for _, allowance in sorted(self._users.items()))):
            if one.purse is not None:
                one.purse.save()

    def _of_user(self, name: str | None) -> Allowance | None:
        """What is left to an end user; None where none is named or none is limited, which costs nothing then."""
        if name is None or not self._account.limits_users:
            return None
        found = self._users.get(name)
        if found is None:
            found = self._users[name] = of_user(self._connection, self._account, name, self._now)
        return found

    def _check_concurrency(self, limit: int | None) -> None:
        if limit is None:
            return
        if self._leased is None:
            until = self._now + (LEASE_SECONDS + CLOCK_SECONDS) * MICROSECONDS
            (found,) = _LEASED.rows(self._connection, of_client=self._account.id, now=self._now, until=until)
            self._leased = found["leased"]
        if self._leased >= limit:
            raise refused("concurrency_limited", "Too many requests at once", limit, 1, 1)

    def _reserve(self, opening: Opening, own: Allowance, user: Allowance | None) -> Reservation:
        """Reserve the worst case of each budget that has to pay, or of none: the one with the least left decides."""
        purses = [one.purse for one in (own, user) if one is not None and one.purse is not None]
        if not purses or not opening.server_pays or opening.ask.is_free:
            return Reservation()
        limit = self._max_output_tokens if opening.ask.max_tokens is None else opening.ask.max_tokens
        worst = opening.worst_nano(limit)
        if worst is None:
            message = "This model has no known price, and this client has a budget"
            raise ChatServiceException(message, "model_price_unknown")
        tightest = min(purses, key=lambda purse: purse.left())
        left = tightest.left()
        if worst > left and opening.ask.max_tokens is None:
            limit = _affordable(opening.worst_nano, limit, left)
            worst = opening.worst_nano(limit) or 0
        if worst > left or (opening.ask.max_tokens is None and limit == 0):
            raise tightest.refusal(worst)
        for purse in purses:
            purse.reserve(worst)
        return Reservation(
            worst,
            own.purse.period_start if own.purse else None,
            user.purse.period_start if user and user.purse else None,
            limit if opening.ask.max_tokens is None else None,
        )


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
