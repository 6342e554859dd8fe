"""End users: how their names are written down, and what it costs to look at them."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from app.ledger.accounts import Accounts, Limits
from app.ledger.end_users import known_as
from app.store.database import Database
from tests.records import accounts_of, admitted, connected

USERS = Limits(per_user_rpm=9, per_user_budget_nano=10**9, per_user_budget_period="day")


@pytest.fixture
def store(database_url: str) -> Iterator[tuple[Accounts, Database]]:
    accounts, database = accounts_of(database_url)
    yield accounts, database
    database.close()


def test_end_users_are_written_down_apart() -> None:
    """As they are named where that fits; else cut, with a digest, which is the same each time."""
    assert [known_as(name) for name in ("ann", "u" * 128, "안나", " ")] == ["ann", "u" * 128, "안나", " "]
    assert [known_as(nobody) for nobody in (None, "", 7, ["ann"], {})] == [None] * 5
    shortened = ["u" * 129, "u" * 130, "안" * 200, "a\0b", "a\ud800b", "a\udfffb", "a?b\0", "\0"]
    known = [known_as(name) or "" for name in shortened]
    assert known == [known_as(name) for name in shortened]
    assert len({*known, "a?b", "ab"}) == len(shortened) + 2
    for name in known:
        assert 33 <= len(name) <= 128
        assert "\0" not in name
        assert name.encode()


@pytest.mark.parametrize("user", [None, "ann"])
def test_a_client_without_limits_per_user_is_asked_nothing(store: tuple[Accounts, Database], user: str | None) -> None:
    """Its requests run the same statements whether they name a user or not, and none over users."""
    accounts, database = store
    seen: list[str] = []
    token = accounts.add("web", Limits(requests_per_minute=9, budget_nano=10**9, budget_period="day"))
    assert admitted(accounts, database, token, [user] * 2, seen) == ["ok", "ok"]
    # Its row, its rate, its spending; the rows of the requests, what is reserved.
    assert [statement.split()[0] for statement in seen] == ["SELECT", "SELECT", "SELECT", "INSERT", "INSERT"]
    assert "user_spending" not in "".join(seen)


def test_a_user_costs_three_statements(store: tuple[Accounts, Database]) -> None:
    """However many requests of it are admitted together: its rate, its spending, what is reserved."""
    accounts, database = store
    seen: list[str] = []
    token = accounts.add("web", USERS)
    assert admitted(accounts, database, token, ["ann"] * 4, seen) == ["ok"] * 4
    assert [statement.split()[0] for statement in seen] == ["SELECT", "SELECT", "SELECT", "INSERT", "INSERT"]
    assert "user_spending" in seen[-1]


def test_a_user_is_found_among_any_number(store: tuple[Accounts, Database], database_url: str) -> None:
    """By an index that begins with the client and the user, whatever the client's other users do."""
    accounts, database = store
    seen: list[str] = []
    admitted(accounts, database, accounts.add("web", USERS), ["ann"], seen)
    asked = [statement for statement in seen if statement.startswith("SELECT") and "'ann'" in statement]
    with connected(database_url) as connection:
        plans = [str(connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}").all()) for statement in asked]
    rate, spending = plans
    assert "requests_by_user (client_id=? AND end_user=? AND created_at>?" in rate
    assert "(client_id=? AND end_user=? AND period_start=?)" in spending
