"""The store, past the application: its rows, its lock, and clients that are added to it."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from app.calls.call import Call
from app.config import Config
from app.errors import ServiceException
from app.ledger.accounts import Accounts, Limits
from app.ledger.admission import Admission, Admitted
from app.ledger.client_rows import hold
from app.ledger.limits import Ask, Opening
from app.ledger.tokens import digest_key
from app.store.database import Database
from app.store.tables import requests, spending
from tests.conftest import DIGEST_KEY

Row = dict[str, Any]


@contextlib.contextmanager
def connected(url: str) -> Iterator[sa.Connection]:
    """A connection of the test's own, whose transaction is committed at the end."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        yield connection


def rows(url: str) -> list[Row]:
    """Every row, oldest first."""
    with connected(url) as connection:
        return [dict(row._mapping) for row in connection.execute(requests.select().order_by(requests.c.id))]


def settled(url: str, seconds: float = 10.0) -> list[Row]:
    """Every row, once none is pending any more; settlements are written a moment after the answer."""
    give_up = time.monotonic() + seconds
    while any(row["status"] == "pending" for row in rows(url)):
        assert time.monotonic() < give_up, "a row was never settled"
        time.sleep(0.01)
    return rows(url)


def spent(url: str) -> tuple[int, int]:
    """Nano-dollars spent and reserved, over all clients and periods."""
    with connected(url) as connection:
        found = connection.execute(sa.select(spending.c.spent_nano, spending.c.reserved_nano)).all()
    return sum(row.spent_nano for row in found), sum(row.reserved_nano for row in found)


def file_of(database_url: str) -> Path:
    return Path(database_url.removeprefix("sqlite:///"))


@contextlib.contextmanager
def locked(database_url: str) -> Iterator[None]:
    """Another program holds SQLite's write lock."""
    engine = sa.create_engine(database_url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
        yield
        connection.exec_driver_sql("ROLLBACK")


def add_client(database_url: str, limits: Limits, name: str = "web") -> str:
    """A client of a server that runs elsewhere, as `flask clients add` makes it; gives its token."""
    accounts, database = accounts_of(database_url)
    token = accounts.add(name, limits)
    database.close()
    return token


def accounts_of(url: str) -> tuple[Accounts, Database]:
    """The clients of a store, and the store, which the test closes."""
    shared = {} if url.startswith("sqlite") else {"token_digest_key": DIGEST_KEY}
    database = Database(url)
    return Accounts(database, digest_key(Config(database_url=url, **shared))), database


def admitted(
    accounts: Accounts, database: Database, token: str, users: Sequence[str | None], seen: list[str] | None = None
) -> list[str]:
    """Ask for a request of each of these end users in one transaction; `ok`, or the code of why it is refused.

    Each reserves 1,000 nano-dollars. `seen` gets the statements; only SQLite's driver tells them.
    """
    principal = accounts.principal(token)
    admission = Admission(accounts, "owner", token_required=True, max_output_tokens=10)
    openings = [
        Opening(
            call=Call(5),
            principal=principal,
            ask=Ask(route="/api/v1/chat", model="gpt-4o-mini", max_tokens=10, end_user=user),
            server_pays=True,
            worst_nano=lambda limit: 1000,
        )
        for user in users
    ]

    def work(connection: sa.Connection) -> list[Admitted | ServiceException]:
        driver: Any = connection.connection.dbapi_connection
        if seen is not None:
            driver.set_trace_callback(seen.append)
        assert principal.account is not None
        decided = admission.admit_all(connection, openings, hold(connection, [principal.account.id]))
        if seen is not None:
            driver.set_trace_callback(None)
        return decided

    return [one.error_code if isinstance(one, ServiceException) else "ok" for one in database.write(work)]
