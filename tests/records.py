"""What the ledger holds, read by the tests past the application."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

from app.store.tables import requests, spending

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
