"""Without its records the server says so: 503 to callers and to probes, never 401, and it recovers by itself."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from app.errors import ServiceException
from app.ledger.accounts import KNOWN_SECONDS, Accounts, Limits
from app.ledger.ledger import Ledger
from app.store.database import Database
from app.store.engine import make_engine
from app.store.tables import clients
from app.store.threads import wait_until
from app.web.services import service
from tests.conftest import DIGEST_KEY
from tests.postgres import Postgres
from tests.records import add_client, connected, file_of, locked, rows, settled
from tests.upstream import Upstream, delayed, text

TURN = {"user_message": "hi", "free_mode": True}
TIMEOUT = 0.4
SLACK_SECONDS = 1.5

Make = Callable[..., Flask]


def chat(app: Flask, token: str = "") -> Any:
    """One chat turn."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return app.test_client().post("/api/v1/chat", json=TURN, headers=headers)


def assert_away(app: Flask, token: str = "") -> None:
    """Both routes and the probe say 503 in time; who may be a client is not told 401."""
    began = time.monotonic()
    answer = chat(app, token)
    assert time.monotonic() - began < TIMEOUT + SLACK_SECONDS
    assert (answer.status_code, answer.get_json()["code"]) == (503, "store_unavailable")
    assert int(answer.headers["Retry-After"]) >= 1
    headers = {"X-Free-Mode": "true"} | ({"Authorization": f"Bearer {token}"} if token else {})
    passed = app.test_client().post("/v1/responses", json={}, headers=headers)
    assert (passed.status_code, passed.get_json()["error"]["code"]) == (503, "store_unavailable")
    ready = app.test_client().get("/readyz")
    assert (ready.status_code, ready.get_json()["code"]) == (503, "not_ready")
    assert app.test_client().get("/livez").status_code == 200


def assert_back(app: Flask, token: str = "", seconds: float = 5.0) -> None:
    """It works again, without a restart."""
    give_up = time.monotonic() + seconds
    while app.test_client().get("/readyz").status_code != 200:
        assert time.monotonic() < give_up
        time.sleep(0.02)
    assert chat(app, token).status_code == 200


@pytest.fixture
def app(make_app: Make) -> Flask:
    return make_app(auth_mode="token", database_timeout=TIMEOUT)


@pytest.fixture
def token(app: Flask) -> str:
    token: str = service(Accounts, app).add("web", Limits())
    return token


def test_locked(app: Flask, token: str, upstream: Upstream, database_url: str) -> None:
    """Upstream is not asked what could not be written down; reading goes on."""
    with locked(database_url):
        assert_away(app, token)
        headers = {"Authorization": f"Bearer {token}"}
        assert app.test_client().get("/api/v1/usage", headers=headers).status_code == 200
    assert not upstream.received
    assert_back(app, token)
    assert len(settled(database_url)) == len(upstream.received) == 1


def test_slow(app: Flask, token: str, database_url: str) -> None:
    """What takes less than DATABASE_TIMEOUT is waited for."""
    with locked(database_url):
        thread = threading.Thread(target=chat, args=(app, token))
        thread.start()
        time.sleep(TIMEOUT / 2)
    thread.join()
    assert [row["status"] for row in settled(database_url)] == ["ok"]


def test_slower_than_the_timeout(make_app: Make, postgresql_url: str) -> None:
    """Nobody waits longer than DATABASE_TIMEOUT, not even to read; the next write that is in time is served."""
    settings = {"database_url": postgresql_url, "token_digest_key": DIGEST_KEY, "database_timeout": TIMEOUT}
    token = add_client(postgresql_url, Limits())  # Without the short timeout: the tables are made here.
    app = make_app(auth_mode="token", **settings)
    assert chat(app, token).status_code == 200
    with connected(postgresql_url) as connection:
        connection.exec_driver_sql("LOCK TABLE clients, requests IN ACCESS EXCLUSIVE MODE")
        assert_away(app, token)
        began = time.monotonic()
        assert app.test_client().get("/api/v1/usage", headers={"Authorization": f"Bearer {token}"}).status_code == 503
        assert time.monotonic() - began < TIMEOUT + SLACK_SECONDS
    assert_back(app, token)
    assert [row["status"] for row in settled(postgresql_url)] == ["ok", "ok"]


def pending(url: str) -> list[str]:
    """The clients whose rows are still open."""
    return [row["client_name"] for row in rows(url) if row["status"] == "pending"]


@pytest.mark.parametrize(("budget", "pooled"), [(None, False), (10**12, False), (10**12, True)])
def test_one_client_is_locked(
    make_app: Make, postgresql_url: str, upstream: Upstream, budget: int | None, pooled: bool
) -> None:
    """By another transaction: the others are served meanwhile, and what was to be settled is when the lock is gone."""
    settings = {"database_url": postgresql_url, "token_digest_key": DIGEST_KEY, "database_timeout": 8}
    settings["database_prepared_statements"] = not pooled
    limits = Limits(budget_nano=budget, budget_period="day" if budget else None)
    stuck, free = add_client(postgresql_url, limits), add_client(postgresql_url, limits, name="free")
    app = make_app(auth_mode="token", **settings)
    assert [chat(app, token).status_code for token in (stuck, free)] == [200, 200]
    settled(postgresql_url)
    upstream.default = delayed(0.3, text("x"))
    with ThreadPoolExecutor(40) as threads:
        in_flight = threads.submit(chat, app, stuck)
        while len(upstream.received) < 3:
            time.sleep(0.01)
        with connected(postgresql_url) as connection:
            connection.execute(sa.select(clients).where(clients.c.name == "web").with_for_update())
            assert in_flight.result().status_code == 200
            refused = [threads.submit(chat, app, stuck) for _ in range(10)]
            served = [threads.submit(chat, app, free) for _ in range(20)]
            assert {answer.result().status_code for answer in served} == {200}
            began = time.monotonic()
            assert chat(app, free).status_code == 200
            assert time.monotonic() - began < 2
            assert {answer.result().get_json()["code"] for answer in refused} == {"store_unavailable"}
            left = ["web"] if budget else []
            wait_until(lambda: pending(postgresql_url) == left, 5)
            assert pending(postgresql_url) == left
        assert chat(app, stuck).status_code == 200
    assert {row["status"] for row in settled(postgresql_url)} == {"ok"}
    assert len(rows(postgresql_url)) == 2 + 1 + 21 + 1


def test_locked_between_admission_and_settlement(app: Flask, token: str, upstream: Upstream, database_url: str) -> None:
    """The caller gets the answer, and the row is settled when the database is there again."""
    upstream.default = delayed(0.3, text("x"))
    statuses: list[int] = []
    thread = threading.Thread(target=lambda: statuses.append(chat(app, token).status_code))
    thread.start()
    while not upstream.received:
        time.sleep(0.01)
    with locked(database_url):
        thread.join()
        assert statuses == [200]
        time.sleep(3 * TIMEOUT)
        assert [row["status"] for row in rows(database_url)] == ["pending"]
    (row,) = settled(database_url)
    assert (row["status"], row["input_tokens"]) == ("ok", 11)


def test_gone(app: Flask, token: str, database_url: str) -> None:
    """A file that was taken away is not replaced by an empty one, which would know no client; put back, it serves."""
    assert chat(app, token).status_code == 200
    settled(database_url)
    file = file_of(database_url)
    aside = file.parent / "aside"
    aside.mkdir()
    names = [path.name for path in file.parent.iterdir() if path.name.startswith(file.name)]
    for name in names:
        (file.parent / name).rename(aside / name)
    assert_away(app, token)
    # The worker remembers a client for a moment, and would tell it that it has brought no key.
    time.sleep(KNOWN_SECONDS)
    keyless = app.test_client().post(
        "/api/v1/chat", json={"user_message": "hi"}, headers={"Authorization": f"Bearer {token}"}
    )
    assert (keyless.status_code, keyless.get_json()["code"]) == (503, "store_unavailable")
    usage = app.test_client().get("/api/v1/usage", headers={"Authorization": f"Bearer {token}"})
    assert usage.status_code == 503
    assert not file.exists()
    for path in file.parent.glob(f"{file.name}*"):
        path.unlink()
    for name in sorted(names, key=len, reverse=True):
        (aside / name).rename(file.parent / name)
    assert_back(app, token)


def test_gone_between_a_look_and_a_connection(app: Flask, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever connects makes no file, however late it was taken away."""
    database, file = service(Database, app), file_of(database_url)
    database.read(lambda connection: None)
    monkeypatch.setattr(database, "_is_gone", lambda: False)
    file.rename(file.with_name("aside"))
    with pytest.raises(ServiceException, match="records are not available"):
        database.read(lambda connection: None)
    with pytest.raises(ServiceException, match="records are not available"):
        database.run_aside(lambda connection: None, writes=True)
    assert not file.exists()


@pytest.mark.parametrize("why", ["corrupt", "a directory", "no directory"])
def test_at_start(make_app: Make, tmp_path: Path, why: str) -> None:
    """The server starts, says 503, destroys nothing, and serves once the operator has cleared the way."""
    directory = tmp_path / "broken"
    file = directory / "x.db"
    if why == "no directory":
        directory.write_text("in the way")
    else:
        directory.mkdir()
        file.mkdir() if why == "a directory" else file.write_bytes(b"not a database, " * 1000)
    app = make_app(database_url=f"sqlite:///{file}", token_digest_key=DIGEST_KEY, database_timeout=TIMEOUT)
    assert_away(app)
    assert app.test_client().get("/api/v1/usage").status_code == 503
    if why == "corrupt":
        assert file.read_bytes() == b"not a database, " * 1000
    for path in [*directory.glob("x.db-*"), file] if directory.is_dir() else [directory]:
        path.rmdir() if path.is_dir() else path.unlink()
    assert_back(app)


def test_corrupt_pages(make_app: Make, database_url: str) -> None:
    """Where the ledger cannot be written the probe says so, though its own write would do; until the file is
    replaced."""
    file = file_of(database_url)
    good = file.with_suffix(".backup")
    with sqlite3.connect(file) as connection:
        ((page,),) = connection.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'requests'").fetchall()
        ((size,),) = connection.execute("PRAGMA page_size").fetchall()
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    good.write_bytes(file.read_bytes())
    with open(file, "r+b") as raw:
        raw.seek((page - 1) * size)
        raw.write(b"\xff" * size)
    app = make_app(database_timeout=TIMEOUT)
    assert chat(app).get_json()["code"] == "store_unavailable"
    for _ in range(3):
        assert_away(app)
    good.rename(file)
    assert_back(app)


def served_client(make_app: Make, postgresql_url: str) -> tuple[Flask, str]:
    """An app over PostgreSQL that has served a client, and the client's token."""
    token = add_client(postgresql_url, Limits())  # Without the short timeout: the tables are made here.
    settings = {"database_url": postgresql_url, "token_digest_key": DIGEST_KEY, "database_timeout": TIMEOUT}
    app = make_app(auth_mode="token", **settings)
    assert chat(app, token).status_code == 200
    settled(postgresql_url)
    return app, token


def test_postgresql_stops(make_app: Make, postgres: Postgres, postgresql_url: str) -> None:
    """And starts again: connections that broke are replaced."""
    app, token = served_client(make_app, postgresql_url)
    postgres.stop()
    try:
        assert_away(app, token)
        assert app.test_client().get("/api/v1/usage", headers={"Authorization": f"Bearer {token}"}).status_code == 503
    finally:
        postgres.start()
    assert_back(app, token)
    assert [row["status"] for row in settled(postgresql_url)] == ["ok", "ok"]


def test_postgresql_says_nothing(make_app: Make, postgres: Postgres, postgresql_url: str) -> None:
    """Every request is answered within the timeout, more of them than there are connections, and it recovers."""
    app, token = served_client(make_app, postgresql_url)
    time.sleep(KNOWN_SECONDS)
    with postgres.frozen(), ThreadPoolExecutor(20) as threads:
        began = time.monotonic()
        answers = list(threads.map(lambda _: chat(app, token).get_json()["code"], range(20)))
        assert answers == ["store_unavailable"] * 20
        assert time.monotonic() - began < TIMEOUT + 3
    assert_back(app, token)


def test_fail_open(make_app: Make, upstream: Upstream, database_url: str) -> None:
    """In open mode who has no token is served, unrecorded and counted; the cost is told all the same or unknown."""
    app = make_app(auth_mode="open", ledger_fail_open=True, database_timeout=TIMEOUT)
    assert chat(app).status_code == 200
    settled(database_url)
    with locked(database_url):
        assert [chat(app).status_code for _ in range(2)] == [200, 200]
        assert service(Ledger, app).unrecorded == 2
    assert_back(app)
    assert len(settled(database_url)) == 2
    assert len(upstream.received) == 4


def test_fail_open_is_not_for_tokens(make_app: Make, database_url: str) -> None:
    """Whose limits cannot be checked is not served."""
    for mode in ("token", "open"):
        app = make_app(auth_mode=mode, ledger_fail_open=True, database_timeout=TIMEOUT)
        token = service(Accounts, app).add(f"web-{mode}", Limits(budget_nano=1, budget_period="day"))
        with locked(database_url):
            assert_away(app, token)
        assert service(Ledger, app).unrecorded == 0


"""Root ignores modes, unless it lacks these capabilities."""


@pytest.mark.parametrize("prepared", [True, False])
def test_statements_behind_a_pooler(postgresql_url: str, prepared: bool) -> None:
    """With PgBouncer in transaction mode nothing may be prepared; what the URL says of the network stays."""
    engine = make_engine(sa.make_url(postgresql_url).update_query_dict({"keepalives_idle": "99"}), 1, prepared=prepared)
    with engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        for _ in range(20):
            connection.execute(sa.text("SELECT 1"))
        names = connection.execute(sa.text("SELECT count(*) FROM pg_prepared_statements")).scalar_one()
        assert (driver.prepare_threshold is not None, names > 0) == (prepared, prepared)
        assert driver.info.get_parameters()["keepalives_idle"] == "99"
    engine.dispose()
