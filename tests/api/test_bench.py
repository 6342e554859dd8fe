"""The benchmark: what it reads from its PostgreSQL, and how much its remembered turns send."""

from __future__ import annotations

import contextlib
import threading

import sqlalchemy as sa
from flask import Flask

from bench import wire
from bench.growth import brings, remembers
from bench.postgresql import Running
from tests.postgres import Postgres
from tests.upstream import Upstream, text


def test_both_send_as_many_past_turns_however_often_they_are_asked(app: Flask, upstream: Upstream) -> None:
    """Ten turns that a request brings, and the ten newest of a session that grows with each request."""
    upstream.default = text(wire.ANSWER)
    client = app.test_client()
    for _ in range(40):
        assert client.post(wire.NATIVE, data=remembers("own-1", 10), content_type="application/json").status_code == 200
    assert client.post(wire.NATIVE, data=brings(10), content_type="application/json").status_code == 200
    *_, remembered, brought = (received.json["input"] for received in upstream.received)
    assert remembered == brought
    assert len(brought) == 1 + 2 * 10 + 1


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
