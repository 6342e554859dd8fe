"""Admission: whether a client may make one more request now, decided inside the transaction that opens its row."""

from __future__ import annotations

import math
from dataclasses import dataclass

import sqlalchemy as sa

from app.errors import ChatServiceException
from app.services.accounts import Account, period_end, period_start
from app.store.tables import requests, spending

MICROSECONDS = 1_000_000
RATE_WINDOW_SECONDS = 60
LONGEST_RETRY_SECONDS = 86_400


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


def check_limits(
    connection: sa.Connection, account: Account, ask: Ask, worst_nano: int | None, now: int
) -> tuple[int, int | None]:
    """Check everything that `account` limits; give what was reserved (nano-dollars) and its budget's period.

    Nothing is written before the last check has passed. Raises ChatServiceException: 403 `model_not_allowed`,
    `free_mode_not_allowed` or `model_price_unknown`, 429 `rate_limited`, `concurrency_limited` or `budget_exceeded`.
    """
    if not account.allows_model(ask.model):
        raise ChatServiceException("This client may not use this model", "model_not_allowed")
    if ask.server_pays and not account.free_mode:
        raise ChatServiceException("This client has to bring its own API key", "free_mode_not_allowed")
    _check_rate(connection, account, now)
    _check_concurrency(connection, account, now)
    if account.budget_nano is None or account.budget_period is None or not ask.server_pays:
        return 0, None
    if worst_nano is None:
        message = "This model has no known price, and this client has a budget"
        raise ChatServiceException(message, "model_price_unknown")
    return worst_nano, _reserve(connection, account, worst_nano, now)


def _check_rate(connection: sa.Connection, account: Account, now: int) -> None:
    limit = account.requests_per_minute
    if limit is None:
        return
    recent = (requests.c.client_id == account.id) & (requests.c.created_at > now - RATE_WINDOW_SECONDS * MICROSECONDS)
    query = sa.select(sa.func.count(), sa.func.min(requests.c.created_at)).where(recent)
    made, oldest = connection.execute(query).one()
    if made >= limit:
        seconds = math.ceil(((oldest or now) - now) / MICROSECONDS) + RATE_WINDOW_SECONDS
        raise _refused("rate_limited", "Too many requests in a minute", limit, seconds, RATE_WINDOW_SECONDS)


def _check_concurrency(connection: sa.Connection, account: Account, now: int) -> None:
    limit = account.concurrency
    if limit is None:
        return
    leased = (requests.c.client_id == account.id) & (requests.c.status == "pending") & (requests.c.lease_until > now)
    if connection.execute(sa.select(sa.func.count()).where(leased)).scalar_one() >= limit:
        raise _refused("concurrency_limited", "Too many requests at once", limit, 1, 1)


def _reserve(connection: sa.Connection, account: Account, worst_nano: int, now: int) -> int:
    assert account.budget_nano is not None
    assert account.budget_period is not None
    began = period_start(account.budget_period, now)
    row = (spending.c.client_id == account.id) & (spending.c.period_start == began)
    used = connection.execute(sa.select(spending.c.spent_nano + spending.c.reserved_nano).where(row)).scalar()
    if (used or 0) + worst_nano > account.budget_nano:
        ends = period_end(account.budget_period, now)
        seconds = LONGEST_RETRY_SECONDS if ends is None else math.ceil((ends - now) / MICROSECONDS)
        window = math.ceil((ends - began) / MICROSECONDS) if ends else LONGEST_RETRY_SECONDS
        raise _refused("budget_exceeded", "The budget is used up", account.budget_nano, seconds, window)
    if used is None:
        values = {"client_id": account.id, "period_start": began, "spent_nano": 0, "reserved_nano": worst_nano}
        connection.execute(spending.insert().values(values))
    else:
        connection.execute(spending.update().where(row).values(reserved_nano=spending.c.reserved_nano + worst_nano))
    return began


def _refused(code: str, message: str, limit: int, retry_after: int, window: int) -> ChatServiceException:
    """A 429 with the headers of draft-ietf-httpapi-ratelimit-headers: quota, window, what is left, when to return."""
    seconds = max(1, min(retry_after, LONGEST_RETRY_SECONDS))
    headers = {"RateLimit-Policy": f'"{code}";q={limit};w={window}', "RateLimit": f'"{code}";r=0;t={seconds}'}
    return ChatServiceException(message, code, {"retry_after": seconds, "headers": headers})
