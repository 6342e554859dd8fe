"""`flask sessions …`: the operator lists, shows, exports and deletes what is kept, whoever has kept it."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
from flask import Flask

from app.ledger.accounts import Accounts, Limits
from app.web.services import service
from tests.api.test_accounts import run
from tests.api.test_sessions import kept, say
from tests.conftest import EVERY_STORE
from tests.records import settled
from tests.upstream import Upstream

pytestmark = EVERY_STORE


@pytest.fixture
def app(make_app: Callable[..., Flask], upstream: Upstream, database_url: str) -> Flask:
    """With a session of a client's and one of nobody's, both named alike; sessions are off for callers by now."""
    app = make_app(auth_mode="open")
    client = app.test_client()
    say(client, "open secret", "s-1")
    say(client, "mina's secret", "s-1", service(Accounts, app).add("mina", Limits()))
    client.patch("/api/v1/sessions/s-1", json={"title": "서울"})
    settled(database_url)
    return make_app(sessions=False)


def test_sessions_are_listed_and_shown(app: Flask) -> None:
    """With their bill; their turns are in the export."""
    header, line = run(app, "sessions list").splitlines()
    assert header.split() == ["session", "turns", "updated", "cost_usd", "character", "title"]
    assert line.split()[:2] == ["s-1", "1"]
    assert line.endswith("서울")
    shown = dict(line.split(maxsplit=1) for line in run(app, "sessions show s-1").splitlines())
    assert (shown["session_id"], shown["title"], shown["turn_count"]) == ('"s-1"', '"서울"', "1")
    assert "open secret" not in run(app, "sessions show s-1")
    assert "서울" not in run(app, "sessions list --client mina")


def test_a_session_is_exported(app: Flask) -> None:
    """As the route does it."""
    header, turn = (json.loads(line) for line in run(app, "sessions export s-1 --client mina").splitlines())
    assert (header["session_id"], turn["user_message"]) == ("s-1", "mina's secret")


def test_a_session_is_deleted(app: Flask, database_url: str) -> None:
    """The one that is named, and no other."""
    assert run(app, "sessions delete s-1 --client mina") == "s-1: deleted\n"
    assert [row["user_text"] for row in kept(database_url)] == ["open secret"]
    run(app, "sessions delete s-1")
    assert run(app, "sessions list") == "nothing yet\n"


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("sessions show none", "There is no such session"),
        ("sessions export none", "There is no such session"),
        ("sessions delete none", "There is no such session"),
        ("sessions list --client nobody", "is not the name of a client"),
        ("sessions delete s-1 --client nobody", "is not the name of a client"),
    ],
)
def test_mistakes(app: Flask, database_url: str, command: str, told: str) -> None:
    """One line that says what is wrong, exit status 1, nothing changed."""
    error = run(app, command, fails=True)
    assert told in error
    assert len(error.splitlines()) == 1
    assert len(kept(database_url)) == 2


def test_usage_by_session(app: Flask) -> None:
    """And a name that a caller chose commands no terminal."""
    say(app.test_client(), "x", "\x1b[2J\u202ebad", remember=False)
    printed = run(app, "usage report --by session")
    assert printed.splitlines()[0].split()[0] == "session"
    assert [line.split()[:2] for line in printed.splitlines()[1:]] == [["\ufffd[2J\ufffdbad", "1"], ["s-1", "2"]]
