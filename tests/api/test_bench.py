"""The benchmark's PostgreSQL: what it reads from it."""

from __future__ import annotations

import contextlib
import threading

import sqlalchemy as sa

from bench.postgresql import Running
from tests.postgres import Postgres


def test_a_deadlock_is_counted(postgres: Postgres, postgresql_url: str) -> None:
    """Two transactions that wait for each other's lock are one deadlock of their database, and of no other."""
    store = Running(postgresql_url, postgres)
    engine = sa.create_engine(postgresql_url, poolclass=sa.NullPool)
    both_hold_one = threading.Barrier(2)

    def transaction(first: int, second: int) -> None:
        with contextlib.suppress(sa.exc.OperationalError), engine.begin() as connection:
            connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({first})"))
            both_hold_one.wait()
            connection.execute(sa.text(f"SELECT pg_advisory_xact_lock({second})"))

    threads = [threading.Thread(target=transaction, args=locks) for locks in ((1, 2), (2, 1))]
    assert store.deadlocks() == 0
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with postgres.database() as other:
        assert (store.deadlocks(), Running(other, postgres).deadlocks()) == (1, 0)


def test_what_postgresql_computes_shows(postgres: Postgres, postgresql_url: str) -> None:
    """The processor time is that of all its processes, the one of a connection that works included."""
    store = Running(postgresql_url, postgres)
    with sa.create_engine(postgresql_url, poolclass=sa.NullPool).connect() as connection:
        before = store.cpu_seconds
        connection.execute(sa.text("SELECT count(*) FROM generate_series(1, 3000000)"))
        assert store.cpu_seconds > before + 0.1
