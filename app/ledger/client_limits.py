"""A client as operators know it: its limits in their words, its state, and what its budget has spent.

The commands (`flask clients`), the API and the console all read and tell them here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from app.ledger.accounts import Account, Accounts
from app.ledger.budgets import parse_budget, period_end
from app.units import dollars

FIELDS = {
    "rpm": "requests_per_minute",
    "per_user_rpm": "per_user_rpm",
    "concurrency": "concurrency",
    "free_mode": "free_mode",
    "admin": "admin",
    "expires_at": "expires_at",
}
"""Which field of Limits a word sets as it is."""
BUDGETS = {
    "budget_usd": ("budget_nano", "budget_period"),
    "per_user_budget_usd": ("per_user_budget_nano", "per_user_budget_period"),
}
"""Which fields a budget sets."""


def read_limits(given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of Limits that the words name; None is no limit. `models`: patterns; `expires_at`: microseconds.

    Raises ValidationException for a budget that is none, by its word.
    """
    limits: dict[str, Any] = {FIELDS[name]: value for name, value in given.items() if name in FIELDS}
    if "models" in given:
        limits["models"] = ",".join(given["models"] or ())
    for name in BUDGETS.keys() & given.keys():
        text = given[name]
        limits |= dict(zip(BUDGETS[name], (None, None) if text is None else parse_budget(text, name), strict=True))
    return limits


def describe(accounts: Accounts, clients: Sequence[Account]) -> list[dict[str, Any]]:
    """These clients, in the words in which limits are given; None is no limit. Moments are microseconds since 1970.

    What the present period of a budget has spent, and reserved for requests in flight, is read for all at once.
    """
    spent = accounts.spending(*clients)
    return [_described(accounts, client, *spent.get(client.id, (0, 0))) for client in clients]


def _described(accounts: Accounts, client: Account, spent_nano: int, reserved_nano: int) -> dict[str, Any]:
    period = client.budget_period
    return {
        "name": client.name,
        "state": _state(accounts, client),
        "rpm": client.requests_per_minute,
        "concurrency": client.concurrency,
        "budget_usd": _budget(client.budget_nano, period),
        "spent_usd": dollars(spent_nano) if period else None,
        "reserved_usd": dollars(reserved_nano) if period else None,
        "renews_at": period_end(period, accounts.now()) if period else None,
        "per_user_rpm": client.per_user_rpm,
        "per_user_budget_usd": _budget(client.per_user_budget_nano, client.per_user_budget_period),
        "models": client.models.split(",") if client.models else None,
        "free_mode": client.free_mode,
        "admin": client.admin,
        "created_at": client.created_at,
        "expires_at": client.expires_at,
    }


def _budget(nano: int | None, period: str | None) -> str | None:
    return None if nano is None else f"{dollars(nano)}/{period}"


def _state(accounts: Accounts, client: Account) -> str:
    """One of CLIENT_STATES."""
    if client.revoked_at is not None:
        return "revoked"
    if not client.is_active(accounts.now()):
        return "expired"
    return "active" if accounts.knows_key_of(client) else "key_changed"
