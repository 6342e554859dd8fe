"""How connections to SQLite and PostgreSQL are made."""

from __future__ import annotations

import math
import os
import sqlite3
import time
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from app.store.threads import give_system_locks, pause

ASK_SECONDS = 0.001
CHECKPOINT_PAGES = 20_000
"""SQLite's own checkpoint would stop a request's commit for it; housekeeping does it beside them. This is for when
nobody does."""
PRAGMAS = ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON", f"wal_autocheckpoint={CHECKPOINT_PAGES}")
WRITING_PRAGMAS = ("busy_timeout=1", "secure_delete=ON")
"""What is deleted is overwritten: else it would lie in the file until its place is used again (`test_deleting.py`)."""


def make_engine(url: sa.URL, timeout_seconds: float, *, reading: bool = False, prepared: bool = True) -> sa.Engine:
    """An engine for `url`, to read or to write; `timeout_seconds` bounds the wait for a lock, and a whole read.

    A write has no such bound: its caller stops waiting by itself (Writer.write), and making the tables may take long.
    """
    give_system_locks("sqlalchemy")
    if url.get_backend_name() != "sqlite":
        engine = sa.create_engine(
            url,
            # What the URL itself says stays.
            connect_args={name: value for name, value in _network(prepared).items() if name not in url.query},
            pool_pre_ping=True,
            pool_size=4,
            max_overflow=4,
            pool_timeout=timeout_seconds,
        )
        give_system_locks("psycopg")
        if reading:
            limit = f"SET LOCAL statement_timeout = {math.ceil(timeout_seconds * 1000)}"
            sa.event.listen(engine, "begin", lambda connection: connection.exec_driver_sql(limit))
        return engine
    options = {"check_same_thread": False, "timeout": timeout_seconds}
    engine = sa.create_engine(_existing(url), connect_args=options, poolclass=NullPool)

    @sa.event.listens_for(engine, "connect")
    def configure(connection: Any, _: Any) -> None:
        # The driver's own transaction handling begins too late for us; see "begin" below.
        connection.isolation_level = None
        try:
            for pragma in (*PRAGMAS, *(() if reading else WRITING_PRAGMAS)):
                connection.execute(f"PRAGMA {pragma}")
        except Exception:
            # The exception would keep the connection alive, and its locks would hold up every later one.
            connection.close()
            raise

    @sa.event.listens_for(engine, "begin")
    def begin_transaction(connection: sa.Connection) -> None:
        # Immediate: a transaction that reads before it writes must not fail when another has written meanwhile.
        if reading:
            connection.exec_driver_sql("BEGIN")
        else:
            _begin_writing(connection, timeout_seconds)

    return engine


def _existing(url: sa.URL) -> sa.URL:
    """The same file, which is not made where there is none: an empty one in place of ours would know no client."""
    if not url.database or url.query or url.database == ":memory:":
        return url
    return url.set(database="file:" + quote(os.path.abspath(url.database)), query={"mode": "rw", "uri": "true"})


def bound_lock_wait(connection: sa.Connection, seconds: float, *, scope: str) -> None:
    """Wait for a lock on a row at most so long, then PostgreSQL gives up (writer.py, LOCKED). SQLite locks no rows.

    `scope`: LOCAL, until the transaction ends, or SESSION, which behind PgBouncer is another one in each transaction.
    """
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(f"SET {scope} lock_timeout = {math.ceil(seconds * 1000)}")


def _begin_writing(connection: sa.Connection, seconds: float) -> None:
    """Begin, asking for SQLite's lock every millisecond until it is free, for so long.

    SQLite itself asks ever more seldom, ten times a second in the end. Beside a worker that writes all the time it
    never finds the moment in which nobody does: `test_two_workers_write_in_turn`.
    """
    driver: Any = connection.connection.driver_connection
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        try:
            driver.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY:
                break
        pause(ASK_SECONDS)
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _network(prepared: bool) -> dict[str, object]:
    """How psycopg and libpq use the network.

    Statements are not prepared behind PgBouncer in transaction mode: the next transaction may be on another connection.
    A connection whose packets are lost is noticed within 15 s, not after the kernel's two hours. Source: the manual of
    PostgreSQL, "Parameter Key Words"; psycopg, `prepare_threshold`.
    """
    alive: dict[str, object] = {
        "keepalives_idle": 10,
        "keepalives_interval": 2,
        "keepalives_count": 2,
        "tcp_user_timeout": 15_000,
    }
    return alive if prepared else alive | {"prepare_threshold": None}
