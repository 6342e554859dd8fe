"""`flask db copy`, and a digest key that is changed: tokens stay valid."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flask import Flask

from app.ledger.accounts import Accounts, Limits
from app.store.database import Database
from app.store.tables import requests
from app.web.services import service
from tests.records import connected, file_of, rows, settled, spent

CHAT = "/api/v1/chat"
TURN = {"user_message": "hi", "free_mode": True}
KEY = "a-key-for-digests"


def chat(app: Flask, token: str) -> int:
    return app.test_client().post(CHAT, json=TURN, headers={"Authorization": f"Bearer {token}"}).status_code


@pytest.mark.parametrize("has_key_file", [True, False])
def test_from_sqlite_to_postgresql(
    make_app: Callable[..., Flask], sqlite_url: str, postgresql_url: str, has_key_file: bool
) -> None:
    """Clients, spending and ledger go along, new rows are numbered after the old ones, and tokens stay valid."""
    settings = {} if has_key_file else {"token_digest_key": KEY}
    old = make_app(database_url=sqlite_url, auth_mode="token", **settings)
    token = service(Accounts, old).add("web", Limits(budget_nano=10**12, budget_period="day", models="gpt-*"))
    assert [chat(old, token) for _ in range(3)] == [200] * 3
    before = settled(sqlite_url)
    service(Database, old).close()
    done = old.test_cli_runner().invoke(args=["db", "copy", sqlite_url, postgresql_url])
    assert done.exit_code == 0, done.output
    assert "clients: 1\n" in done.output
    assert rows(postgresql_url) == before
    assert spent(postgresql_url) == spent(sqlite_url)
    key = f"hex:{(file_of(sqlite_url).parent / 'token_digest.key').read_bytes().hex()}" if has_key_file else KEY
    new = make_app(database_url=postgresql_url, auth_mode="token", token_digest_key=key)
    assert service(Accounts, new).show("web") == service(Accounts, make_app(database_url=sqlite_url)).show("web")
    assert [chat(new, token) for _ in range(2)] == [200] * 2
    assert [row["id"] for row in settled(postgresql_url)] == [1, 2, 3, 4, 5]
    again = old.test_cli_runner().invoke(args=["db", "copy", sqlite_url, postgresql_url])
    assert again.exit_code == 1
    assert "TARGET is not empty" in again.output


def test_many_rows(make_app: Callable[..., Flask], sqlite_url: str, postgresql_url: str) -> None:
    """More than one batch."""
    app = make_app(database_url=sqlite_url)
    assert app.test_client().post(CHAT, json=TURN).status_code == 200
    (row,) = settled(sqlite_url)
    with connected(sqlite_url) as connection:
        connection.execute(requests.insert(), [row | {"id": number} for number in range(2, 2502)])
    assert app.test_cli_runner().invoke(args=["db", "copy", sqlite_url, postgresql_url]).exit_code == 0
    assert len(rows(postgresql_url)) == 2501


def test_a_changed_digest_key(make_app: Callable[..., Flask], database_url: str) -> None:
    """With the old key beside it every token stays valid, and after its first use without the old key, too."""
    old = make_app(auth_mode="token", token_digest_key=KEY)
    used, unused = (service(Accounts, old).add(name, Limits()) for name in ("used", "unused"))
    both = make_app(auth_mode="token", token_digest_key="another-key", token_digest_key_old=KEY)
    assert [chat(both, used) for _ in range(2)] == [200, 200]
    assert chat(both, used + "x") == 401
    service(Accounts, both).revoke("unused")
    assert chat(both, unused) == 401
    new = make_app(auth_mode="token", token_digest_key="another-key")
    assert [chat(new, used), chat(new, unused)] == [200, 401]
