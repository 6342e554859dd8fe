"""The store: what fits its columns, whose its files are, which it refuses; and how a worker is told apart."""

from __future__ import annotations

import contextlib
import math
import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from app.config import Config
from app.errors import ConfigurationException, ServiceException
from app.ledger.accounts import Accounts, Limits
from app.ledger.lease import Owner, look_up, owner_name
from app.ledger.tokens import digest_key
from app.store.database import Database
from app.store.engine import make_engine
from app.store.fitting import WHOLE_MAX
from app.store.revision import NewerDatabase, check_file
from app.store.statement import PLACE, RowsStatement
from app.store.tables import metadata, requests
from tests.conftest import EVERY_STORE
from tests.postgres import Postgres
from tests.records import connected


@pytest.mark.parametrize(
    ("column", "value", "stored"),
    [
        ("model", "gpt-4o", "gpt-4o"),
        ("model", "모델", "모델"),
        ("model", "a\0b", "ab"),
        ("model", "m" * 300, "m" * 256),
        ("model", "\0" * 10 + "m" * 300, "m" * 256),
        ("model", "\ud83d x", "? x"),
        ("model", {"a": 1}, "{'a': 1}"),
        ("model", None, None),
        ("upstream_request_id", "r" * 500, "r" * 128),
        ("output_tokens", 10**30, WHOLE_MAX),
        ("output_tokens", -(10**30), -WHOLE_MAX),
        ("cost_nano", 2**63, WHOLE_MAX),
        ("cost_nano", 5, 5),
        ("total_ms", math.inf, None),
        ("total_ms", math.nan, None),
        ("total_ms", 1.5, 1.5),
        ("cached", True, True),
    ],
)
def test_values_fit_their_columns(column: str, value: Any, stored: Any) -> None:
    """Texts are cut, NUL and half surrogates go, numbers stay within bounds."""
    written = RowsStatement(sa.select, {column: requests.c[column].type})
    engine = make_engine(sa.make_url("sqlite://"), 1)
    with engine.begin() as connection:
        (found,) = written.rows(connection, [{column: value}])
    engine.dispose()
    assert found[column] == stored


def test_a_name_is_this_process_and_no_other() -> None:
    """The same process is found again, also by another one; the host's name, which machines share, is not in it."""
    name = owner_name()
    machine, pid, started = name.split(":")
    assert len(name) <= 64
    assert socket.gethostname()[:32] not in name.split(":")
    assert look_up(name) is Owner.RUNS
    assert look_up(f"{machine}:{pid}:{int(started) - 1}") is Owner.GONE
    code = "import sys; from app.ledger.lease import look_up; print(look_up(sys.argv[1]).name)"
    seen = subprocess.run([sys.executable, "-c", code, name], check=True, capture_output=True, text=True)
    assert seen.stdout.strip() == "RUNS"


def test_a_process_that_has_ended_is_gone() -> None:
    """Also while its parent has not asked for its end yet."""
    code = "from app.ledger.lease import owner_name; print(owner_name(), flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        name = process.stdout.readline().decode().strip()
        assert look_up(name) is Owner.RUNS
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert look_up(name) is Owner.GONE
    assert look_up(name) is Owner.GONE


@pytest.mark.parametrize(
    "owner",
    ["elsewhere:1:1", "0000000000000000:{pid}:1", "{host}:999999:1", "", "a", "a:b:c:d", "::"],
)
def test_of_other_machines_nothing_is_known(owner: str) -> None:
    """Neither that it runs nor that it is gone, whatever its name looks like."""
    assert look_up(owner.format(pid=os.getpid(), host=socket.gethostname()[:32])) is Owner.ELSEWHERE


def test_files_are_their_owners(tmp_path: Path) -> None:
    """The directory that is made, the database, its log and the digest key."""
    file = tmp_path / "new" / "deeper" / "llm.db"
    database = Database(f"sqlite:///{file}")
    digest_key(Config(database_url=f"sqlite:///{file}"))
    Accounts(database, b"key").add("web", Limits())
    modes = {found.name: found.stat().st_mode & 0o777 for found in file.parent.iterdir()}
    database.close()
    assert {"llm.db", "llm.db-wal", "token_digest.key"} <= modes.keys()
    assert set(modes.values()) == {0o600}
    assert file.parent.stat().st_mode & 0o777 == 0o700


def test_a_newer_database(tmp_path: Path) -> None:
    """It is refused with a sentence, by whoever reads or writes it, and before gunicorn starts."""
    url = f"sqlite:///{tmp_path}/llm.db"
    old = Database(url)
    accounts = Accounts(old, b"key")
    accounts.add("web", Limits())
    check_file(url)
    old.write(lambda connection: connection.execute(sa.text("UPDATE alembic_version SET version_num = '9999'")))
    old.close()
    for use in (lambda known: known.all(), lambda known: known.add("other", Limits())):
        newer = Database(url)
        with pytest.raises(ServiceException, match="newer version of this server"):
            use(Accounts(newer, b"key"))
        newer.close()
    with pytest.raises(NewerDatabase, match="9999"):
        check_file(url)


@pytest.mark.parametrize("size", [0, 1, 31, 33, 100])
def test_a_digest_key_of_an_odd_size(tmp_path: Path, size: int) -> None:
    """An empty one would key nothing, and a longer one is none of ours."""
    (tmp_path / "token_digest.key").write_bytes(b"k" * size)
    with pytest.raises(ConfigurationException, match="must hold 32 bytes"):
        digest_key(Config(database_url=f"sqlite:///{tmp_path}/llm.db"))


# SQLAlchemy does not read indexes on expressions back; where they matter there is a test of the query.
@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression-based index")
@pytest.mark.filterwarnings("ignore:autogenerate skipping metadata-specified expression-based index")
@EVERY_STORE
def test_the_migrations_make_the_tables(database_url: str) -> None:
    """Those that the code knows, with their columns, keys and indexes."""
    database = Database(database_url)
    database.migrate()
    database.close()
    with connected(database_url) as connection:
        assert compare_metadata(MigrationContext.configure(connection), metadata) == []


@EVERY_STORE
def test_the_migrations_make_the_indexes_of_some_rows(database_url: str) -> None:
    """With the conditions that the code knows."""
    database = Database(database_url)
    database.migrate()
    database.close()
    known = (
        "SELECT name, sql FROM sqlite_master"
        if "sqlite" in database_url
        else ("SELECT indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'")
    )
    with connected(database_url) as connection:
        made = {name: text or "" for name, text in connection.exec_driver_sql(known)}
    conditions = {
        index.name: index.info.get("condition") for table in metadata.sorted_tables for index in table.indexes
    }
    assert sum(condition is not None for condition in conditions.values()) == 4
    for name, condition in conditions.items():
        made_with = re.sub(r"[()]|::\w+( varying)?", "", made[name].partition(" WHERE ")[2])
        assert made_with == (condition or ""), name


@EVERY_STORE
def test_what_fails_aside_fails_alone(database_url: str, caplog: pytest.LogCaptureFixture) -> None:
    """No request's write or read is taken for one to a database that is away."""
    database = Database(database_url)
    for writes in (True, False):
        with pytest.raises(ServiceException) as failed:
            database.run_aside(lambda connection: connection.execute(sa.text("SELECT 1 FROM nothing")), writes=writes)
        assert failed.value.error_code == "store_unavailable"
        assert database.is_writable()
    assert caplog.text == ""
    database.close()


def test_what_hangs_aside_hangs_alone(postgres: Postgres, postgresql_url: str) -> None:
    """As many threads as there were tries would be missing for the reads of requests else."""
    database, began = Database(postgresql_url, timeout_seconds=0.5), list[float]()

    def work(connection: sa.Connection) -> int:
        return int(connection.execute(sa.text("SELECT 1")).scalar_one())

    assert database.run_aside(work, writes=False) == 1
    with postgres.frozen():
        for _ in range(3):
            began.append(time.monotonic())
            with pytest.raises(ServiceException):
                database.run_aside(work, writes=False)
        assert time.monotonic() - began[1] < 0.4
    give_up = time.monotonic() + 10
    while time.monotonic() < give_up:
        with contextlib.suppress(ServiceException):
            if database.run_aside(work, writes=True) == 1:
                break
    assert time.monotonic() < give_up
    database.close()


@EVERY_STORE
def test_what_is_aside_of_one_thing_does_not_wait_for_another(database_url: str) -> None:
    """While who rests is asked, interruptions can be looked for; one question about each goes on at a time."""
    database = Database(database_url)

    def work(connection: sa.Connection) -> int:
        with pytest.raises(ServiceException):
            database.run_aside(work, writes=False, about="one")
        return database.run_aside(lambda other: int(other.execute(sa.text("SELECT 1")).scalar_one()), writes=False)

    for _ in range(2):
        assert database.run_aside(work, writes=False, about="one") == 1
    database.close()


@EVERY_STORE
def test_what_is_read_while_a_database_is_closed(database_url: str) -> None:
    """It is read to its end. After that nobody makes a connection that would never be closed."""
    database, begun, found = Database(database_url), threading.Event(), list[int]()
    database.migrate()

    def work(connection: sa.Connection) -> int:
        begun.set()
        time.sleep(0.1)
        return int(connection.execute(sa.text("SELECT 1")).scalar_one())

    reading = threading.Thread(target=lambda: found.append(database.read(work)))
    reading.start()
    begun.wait(5)
    database.close()
    assert not database._running
    reading.join()
    assert found == [1]
    for ask in (database.read, lambda work: database.run_aside(work, writes=True)):
        with pytest.raises(ServiceException) as refused:
            ask(work)
        assert refused.value.error_code == "store_unavailable"


@EVERY_STORE
def test_rows_are_written_as_they_are(database_url: str) -> None:
    """Whatever is in them and however many they are, and in their order."""
    texts = ['"', "\\", "\\u0000", "'", "%s", ":a", "?", "a\nb", "모델 🙂", "", None]
    rows = [
        {
            "text": texts[number % len(texts)],
            "number": (-1) ** number * (WHOLE_MAX - number),
            "yes": not number % 2,
            "real": number / 7,
        }
        for number in range(70)
    ]
    kinds = {"text": sa.String(64), "number": sa.BigInteger(), "yes": sa.Boolean(), "real": sa.Float()}
    told = RowsStatement(lambda given: sa.select(*(given.c[name] for name in kinds)).order_by(given.c[PLACE]), kinds)
    database = Database(database_url)
    assert database.read(lambda connection: told.rows(connection, rows)) == rows
    assert database.read(lambda connection: told.rows(connection, [])) == []
    database.close()


@pytest.mark.parametrize(("rows", "calls"), [(0, 0), (1, 1), (64, 1), (100, 3), (200, 4)])
def test_many_rows_are_one_call(rows: int, calls: int) -> None:
    """One for as many rows as a statement takes, and every row is written with its own values."""
    table = sa.Table("t", sa.MetaData(), sa.Column("id", sa.Integer), sa.Column("text", sa.String(8)))
    columns: dict[str, sa.types.TypeEngine[Any]] = {"id": table.c.id.type, "text": table.c.text.type}
    insert = RowsStatement(
        lambda given: table.insert().from_select(["id", "text"], sa.select(given.c.id, given.c.text)), columns
    )
    change = RowsStatement(
        lambda given: table.update().where(table.c.id == given.c.id).values(text=given.c.text), columns
    )
    engine, seen = make_engine(sa.make_url("sqlite://"), 1), list[str]()
    with engine.begin() as connection:
        connection.execute(sa.schema.CreateTable(table))
        driver: Any = connection.connection.driver_connection
        driver.set_trace_callback(seen.append)
        insert.run(connection, [{"id": number, "text": None} for number in range(rows)])
        change.run(connection, [{"text": f"new {number}", "id": number} for number in range(rows)])
        driver.set_trace_callback(None)
        found = connection.execute(table.select()).all()
    assert len(seen) == 2 * calls
    assert [tuple(row) for row in found] == [(number, f"new {number}") for number in range(rows)]
