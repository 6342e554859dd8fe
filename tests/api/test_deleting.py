"""What is deleted of sessions is gone: rows, and with SQLite the bytes of its file and its log."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from app.ledger.accounts import Accounts, Limits
from app.process.housekeeping import Housekeeping
from app.sessions.changes import FORGET_MAX, SessionChanges
from app.sessions.sessions import EMPTY_SECONDS
from app.store.database import Database
from app.store.tables import sessions
from app.web.services import service
from tests.api.test_sessions import kept, say
from tests.conftest import EVERY_STORE
from tests.records import connected, file_of, settled
from tests.upstream import Upstream, text

SESSIONS = "/api/v1/sessions"
SECONDS_PER_DAY = 86_400


def on_disk(url: str, secret: bytes) -> list[str]:
    """Which of SQLite's files have it."""
    file = file_of(url)
    return [path.name for path in sorted(file.parent.glob(f"{file.name}*")) if secret in path.read_bytes()]


def fill(client: FlaskClient, upstream: Upstream, name: str) -> None:
    """A session with its name's own secret in all that is kept of it."""
    upstream.script(text(f"SECRET-{name}-answer " * 300), text(f"SECRET-{name}-answer"))
    for length in (1, 300):
        say(client, f"SECRET-{name}-question " * length, name)
    client.patch(f"{SESSIONS}/{name}", json={"title": f"SECRET-{name}-t", "metadata": {"k": f"SECRET-{name}-m"}})
    client.put(f"{SESSIONS}/{name}/summary", json={"text": f"SECRET-{name}-s", "covers": 1})


def test_a_deleted_session_is_gone_from_the_disk(client: FlaskClient, upstream: Upstream, database_url: str) -> None:
    """Out of the file and out of the log, once DELETE has answered; the others are there."""
    for name in ("a", "b", "c"):
        fill(client, upstream, name)
    settled(database_url)
    assert on_disk(database_url, b"SECRET-b-")
    assert client.delete(f"{SESSIONS}/b").status_code == 204
    assert on_disk(database_url, b"SECRET-b-") == []
    assert on_disk(database_url, b"SECRET-a-")
    assert client.get(f"{SESSIONS}/c").get_json()["turn_count"] == 2
    assert client.delete(f"{SESSIONS}/a/summary").status_code == 204
    assert on_disk(database_url, b"SECRET-a-s") == []


@pytest.mark.parametrize("kind", ["title", "summary", "answer"])
def test_what_is_replaced_is_gone_with_the_next_checkpoint(
    app: Flask, upstream: Upstream, database_url: str, kind: str
) -> None:
    """A title, a summary, and the end of an answer that was never heard."""
    client = app.test_client()
    say(client, "Hello.")
    service(Database, app).checkpoint()
    if kind == "answer":
        upstream.script(text("Heard. OLD " + "x" * 300))
        say(client, "Go on.")
        client.post(f"{SESSIONS}/s-1/interrupt", json={"heard_characters": 6})
    for told in ("OLD text", "NEW text") if kind != "answer" else ():
        if kind == "title":
            client.patch(f"{SESSIONS}/s-1", json={"title": told})
        else:
            client.put(f"{SESSIONS}/s-1/summary", json={"text": told, "covers": 1})
    service(Database, app).checkpoint()
    assert on_disk(database_url, b"OLD ") == []
    shown = client.get(f"{SESSIONS}/s-1").get_json()
    kept_now = {"title": shown["title"], "summary": (shown["summary"] or {}).get("text")}
    assert kept_now.get(kind, shown["turns"][-1]["response_text"]) == ("Heard." if kind == "answer" else "NEW text")


def test_sessions_of_a_deleted_client_are_gone(
    make_app: Callable[..., Flask], upstream: Upstream, database_url: str
) -> None:
    """As those that it deleted itself."""
    app = make_app(auth_mode="token")
    accounts = service(Accounts, app)
    say(app.test_client(), "SECRET", token=accounts.add("mina", Limits()))
    settled(database_url)
    accounts.delete("mina")
    assert on_disk(database_url, b"SECRET") == []


def test_a_reader_is_waited_for(client: FlaskClient, app: Flask, upstream: Upstream, database_url: str) -> None:
    """The log cannot be emptied while somebody reads in it; that is waited for so long, and tried again later."""
    fill(client, upstream, "a")
    settled(database_url)
    with connected(database_url) as reading:
        reading.exec_driver_sql("BEGIN")
        reading.exec_driver_sql("SELECT count(*) FROM turns").all()
        service(Database, app).erase(lambda connection: connection.execute(sessions.delete()), seconds=0.2)
        assert on_disk(database_url, b"SECRET-a-")
        reading.exec_driver_sql("ROLLBACK")
    assert kept(database_url) == []
    service(Housekeeping, app).checkpoint()
    assert on_disk(database_url, b"SECRET-a-") == []


def test_what_another_worker_left_is_emptied(client: FlaskClient, upstream: Upstream, database_url: str) -> None:
    """One that was killed between the deletion and the emptying of the log: the next one that starts does it."""
    fill(client, upstream, "a")
    settled(database_url)
    with connected(database_url) as connection:
        connection.exec_driver_sql("PRAGMA foreign_keys=ON")
        connection.exec_driver_sql("PRAGMA secure_delete=ON")
        connection.execute(sessions.delete())
    assert on_disk(database_url, b"SECRET-a-")
    another = Database(database_url)
    another.read(lambda connection: None)
    another.checkpoint()
    another.close()
    assert on_disk(database_url, b"SECRET-a-") == []


def aged(url: str, seconds: float) -> None:
    """As if all sessions had had their last turn so long ago."""
    with connected(url) as connection:
        connection.execute(sessions.update().values(updated_at=sessions.c.updated_at - int(seconds * 1_000_000)))


@EVERY_STORE
class TestHousekeeping:
    """What goes by itself."""

    def test_old_sessions_go(self, make_app: Callable[..., Flask], upstream: Upstream, database_url: str) -> None:
        """So long after their last turn, in batches; not while a turn goes on, and not when it is not asked for."""
        client = make_app(session_retention_days=30).test_client()
        app = make_app(session_retention_days=30)
        for number in range(3):
            say(client, f"SECRET-{number}", f"s-{number}")
        settled(database_url)
        aged(database_url, 29 * SECONDS_PER_DAY)
        service(Housekeeping, app).tidy()
        assert len(kept(database_url)) == 3
        aged(database_url, 2 * SECONDS_PER_DAY)
        say(client, "again", "s-1")
        service(Housekeeping, make_app()).tidy()
        assert len(kept(database_url)) == 4
        service(Housekeeping, app).tidy()
        assert [row["user_text"] for row in kept(database_url)] == ["SECRET-1", "again"]
        assert service(SessionChanges, app).forget(2**53) == 1

    def test_a_turn_that_goes_on_keeps_its_session(self, client: FlaskClient, app: Flask, database_url: str) -> None:
        """However old the last one is."""
        say(client, "x")
        settled(database_url)
        with connected(database_url) as connection:
            connection.exec_driver_sql("UPDATE requests SET status = 'pending'")
            connection.exec_driver_sql("UPDATE sessions SET turn_request = (SELECT request_id FROM requests)")
        changes = service(SessionChanges, app)
        assert changes.forget(2**53) == 0
        with connected(database_url) as connection:
            connection.exec_driver_sql("UPDATE requests SET status = 'ok'")
        assert changes.forget(2**53) == 1

    def test_sessions_without_turns_go(self, app: Flask, client: FlaskClient, database_url: str) -> None:
        """Some time after they began, as their first turn may still go on; those with turns stay."""
        say(client, "x")
        settled(database_url)
        aged(database_url, 2 * EMPTY_SECONDS)
        row = {"owner": 0, "created_at": 0}
        now = int(time.time() * 1_000_000)
        old = [row | {"name": f"e-{number}", "updated_at": number} for number in range(FORGET_MAX + 3)]
        with connected(database_url) as connection:
            connection.execute(sessions.insert(), [*old, row | {"name": "new", "updated_at": now}])
        aged(database_url, EMPTY_SECONDS / 2)
        service(Housekeeping, app).tidy()
        with connected(database_url) as connection:
            assert set(connection.execute(sa.select(sessions.c.name)).scalars()) == {"s-1", "new"}

    def test_what_housekeeping_looks_for_has_an_index(self, app: Flask, database_url: str) -> None:
        """It looks every few seconds, and there may be 100,000 sessions."""
        if not database_url.startswith("sqlite"):
            return
        seen: list[str] = []
        database = service(Database, app)
        database.read(lambda connection: None)

        @sa.event.listens_for(database._reading, "before_cursor_execute")
        def note(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
            if statement.startswith("SELECT sessions.id"):
                plan = cursor.connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters).fetchall()
                seen.append("; ".join(row[3] for row in plan if "requests" not in row[3]))

        service(SessionChanges, app).forget(1)
        service(SessionChanges, app).forget_empty(1)
        assert [re.sub(r"CORRELATED.*", "", plan) for plan in seen] == [
            "SEARCH sessions USING INDEX sessions_by_update (updated_at<?); ",
            "SEARCH sessions USING INDEX sessions_empty (updated_at<?); ",
        ]


def test_secure_delete_is_for_those_who_write(tmp_path: Path) -> None:
    """Every connection that may delete overwrites what it deletes."""
    database = Database(f"sqlite:///{tmp_path}/x.db")
    assert database.write(lambda connection: connection.exec_driver_sql("PRAGMA secure_delete").scalar()) == 1
    database.close()
