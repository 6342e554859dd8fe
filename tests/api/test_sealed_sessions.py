"""Sessions with SESSION_KEY: encrypted where they are stored, the same for those who call."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from app.errors import ChatServiceException
from app.sessions.rekeying import Rekeying
from app.sessions.seal import Seal
from app.store.database import Database
from app.store.tables import sessions, turns
from app.web.services import service
from tests.api.test_sessions import heard, kept, say
from tests.conftest import EVERY_STORE
from tests.records import connected, file_of, settled
from tests.streams import read_events, response_events, stream
from tests.upstream import Upstream, text

FIRST, SECOND = "GYdceDzzzwZjX7GLztvQb7xrsvR0VGqM8QRqHks6hLI=", "d4350d3a495e3c479890a0dec0d3ccff"
MakeApp = Callable[..., Flask]
pytestmark = EVERY_STORE


def texts(url: str) -> list[str]:
    """What is stored of all that was said."""
    return [row[name] for row in kept(url) for name in ("user_text", "answer_text") if row[name] is not None]


def rekey(make_app: MakeApp, **settings: Any) -> Any:
    return make_app(**settings).test_cli_runner().invoke(args=["sessions", "rekey"])


def describe(url: str, seal: Seal) -> None:
    """Give every session a title, metadata and a summary."""
    with connected(url) as connection:
        values = {
            "title": seal.close("Tea"),
            "metadata": seal.close('{"a": "b"}'),
            "summary": seal.close("She is Mina."),
        }
        connection.execute(sessions.update().values(values))


def described(url: str) -> list[str]:
    with connected(url) as connection:
        rows = connection.execute(sa.select(sessions.c.title, sessions.c.metadata, sessions.c.summary))
        return [value for row in rows for value in row]


@pytest.mark.parametrize("streamed", [False, True])
def test_turns_are_stored_sealed(make_app: MakeApp, upstream: Upstream, database_url: str, streamed: bool) -> None:
    """The next turn, of a worker that has to read them, is sent them as they were said."""
    upstream.script(stream(response_events("안녕, ", "Mina.")) if streamed else text("안녕, Mina."), text("Mina."))
    history = ["assistant: Welcome!", "user: Are you there?"]
    answer = say(make_app(session_key=FIRST).test_client(), "I am Mina.", conversation_history=history, stream=streamed)
    assert (read_events(answer.data)[-1][1] if streamed else answer.get_json())["turn"] == 3
    assert [one.split(":")[0] for one in texts(database_url)] == ["llms1"] * 4
    assert say(make_app(session_key=FIRST).test_client(), "Who am I?").get_json()["turn"] == 4
    assert heard(upstream) == [
        ("assistant", "Welcome!"),
        ("user", "Are you there?\n\nI am Mina."),
        ("assistant", "안녕, Mina."),
        ("user", "Who am I?"),
    ]


def test_texts_of_several_keys_lie_side_by_side(make_app: MakeApp, upstream: Upstream, database_url: str) -> None:
    """Those of before there was a key, those of another key, and a summary; and a key can be taken away again."""
    every: list[dict[str, Any]] = [
        {},
        {"session_key": FIRST},
        {"session_key": SECOND, "session_key_old": (FIRST,)},
        {"session_key_old": (FIRST, SECOND)},
    ]
    for number, settings in enumerate(every, start=1):
        assert say(make_app(**settings).test_client(), f"word{number}").get_json()["turn"] == number
    assert [said for role, said in heard(upstream) if role == "user"] == ["word1", "word2", "word3", "word4"]
    assert [one.split(":")[0] for one in texts(database_url)[::2]] == ["word1", "llms1", "llms1", "word4"]
    describe(database_url, Seal(FIRST))
    with connected(database_url) as connection:
        connection.execute(sessions.update().values(summary_turns=3))
    say(make_app(**every[-1]).test_client(), "word5")
    assert "She is Mina." in upstream.received[-1].json["input"][0]["content"]


@pytest.mark.parametrize(
    "settings", [{}, {"session_key": SECOND}, {"session_key": SECOND, "session_key_old": (SECOND,)}]
)
@pytest.mark.parametrize("streamed", [False, True])
def test_a_session_that_cannot_be_read(
    make_app: MakeApp, upstream: Upstream, database_url: str, settings: dict[str, Any], streamed: bool
) -> None:
    """An error of its own for that session alone, before anything is asked or written; the server goes on."""
    say(make_app(session_key=FIRST).test_client(), "I am Mina.")
    before, client = kept(database_url), make_app(**settings).test_client()
    asked = len(upstream.received)
    answer = say(client, "Who am I?", stream=streamed)
    assert (answer.status_code, answer.get_json()["code"]) == (500, "session_unreadable")
    assert "세션" in answer.get_json()["error_message"]
    assert "Retry-After" not in answer.headers
    assert (len(upstream.received), kept(database_url)) == (asked, before)
    assert say(client, "Who am I?", session="s-2").get_json()["turn"] == 1
    assert say(client, "Who am I?", remember=False).status_code == 200
    assert {row["status"] for row in settled(database_url)} <= {"ok", "error"}
    assert say(make_app(session_key=FIRST).test_client(), "Who am I?").get_json()["turn"] == 2


def test_a_damaged_turn(make_app: MakeApp, upstream: Upstream, database_url: str) -> None:
    """The session is served again where it is not read: a shorter prompt leaves it out."""
    for number in range(4):
        say(make_app(session_key=FIRST).test_client(), f"word{number} " * 100)
    with connected(database_url) as connection:
        damaged = kept(database_url)[0]["user_text"][:-8] + "AAAAAAA="
        connection.execute(turns.update().where(turns.c.number == 1).values(user_text=damaged))
    client = make_app(session_key=FIRST).test_client()
    assert say(client, "word5").get_json()["code"] == "session_unreadable"
    assert say(client, "word5", max_context_tokens=600).get_json()["turn"] == 5


def every_text(url: str) -> list[str]:
    return texts(url) + described(url)


def test_rekeying(make_app: MakeApp, upstream: Upstream, database_url: str) -> None:
    """Plain texts get the key, then another one, then none: all of them, and each means what it did."""
    for session in ("s-1", "s-2", "s-3"):
        for number in range(3):
            say(make_app().test_client(), f"word{number}", session=session)
    describe(database_url, Seal())
    meant = every_text(database_url)
    assert len(meant) == 27
    steps: list[tuple[dict[str, Any], Seal]] = [
        ({"session_key": FIRST}, Seal(FIRST)),
        ({"session_key": SECOND, "session_key_old": (FIRST,)}, Seal(SECOND)),
        ({"session_key_old": (SECOND,)}, Seal()),
    ]
    changes = sa.select(sessions.c.revision, sessions.c.updated_at).order_by(sessions.c.id)
    for settings, seal in steps:
        with connected(database_url) as connection:
            before = connection.execute(changes).all()
        for renewed in (27, 0):
            done = rekey(make_app, **settings)
            assert (done.exit_code, done.output) == (0, f"stored anew: {renewed}\nwere so already: {27 - renewed}\n")
        assert all(map(seal.is_newest, every_text(database_url)))
        assert [seal.open(one) for one in every_text(database_url)] == meant
        with connected(database_url) as connection:
            assert connection.execute(changes).all() == before
    assert every_text(database_url) == meant


def test_rekeying_needs_a_key(make_app: MakeApp) -> None:
    """It says which settings it wants."""
    done = rekey(make_app)
    assert done.exit_code == 1
    assert "SESSION_KEY" in done.output


def test_what_rekeying_cannot_open_stays(make_app: MakeApp, upstream: Upstream, database_url: str) -> None:
    """It is counted, everything else is stored anew, and the missing key helps later."""
    say(make_app(session_key=FIRST).test_client(), "I am Mina.")
    say(make_app().test_client(), "I am Jun.", session="s-2")
    before = texts(database_url)
    done = rekey(make_app, session_key=SECOND)
    assert done.exit_code == 1
    assert "stored anew: 2\n" in done.output
    assert "cannot be opened: 2" in done.output
    assert texts(database_url)[:2] == before[:2]
    assert rekey(make_app, session_key=SECOND, session_key_old=(FIRST,)).exit_code == 0
    assert [Seal(SECOND).open(one) for one in texts(database_url)][::2] == ["I am Mina.", "I am Jun."]


@pytest.mark.parametrize("batch_rows", [1, 2, 3, 7, 8, 100])
def test_rekeying_goes_on_where_it_was_ended(
    make_app: MakeApp, upstream: Upstream, database_url: str, batch_rows: int
) -> None:
    """Whatever the batches; every text is stored anew once."""
    app = make_app()
    for number in range(4):
        say(app.test_client(), f"word{number}", session="s-1")
        say(app.test_client(), f"word{number}", session="s-2")
    database = service(Database, app)

    class Ended(Seal):
        """Fails at some text, as a process that is killed."""

        left = 5

        def close(self, text: str) -> str:
            self.left -= 1
            if self.left < 0:
                raise KeyboardInterrupt
            return super().close(text)

    with pytest.raises(KeyboardInterrupt):
        Rekeying(database, Ended(FIRST), batch_rows).run()
    done = Rekeying(database, Seal(FIRST), batch_rows).run()
    assert (done.renewed + done.untouched, done.unreadable) == (16, 0)
    assert done.untouched == 2 * (2 // batch_rows * batch_rows)
    assert [Seal(FIRST).open(one) for one in texts(database_url)[::2]] == [f"word{number}" for number in range(4)] * 2


def test_rekeying_leaves_what_has_changed(make_app: MakeApp, upstream: Upstream, database_url: str) -> None:
    """What others write between its look and its change is not undone, and a session that is deleted stays away."""
    app = make_app()
    for session in ("s-1", "s-2", "s-3"):
        say(app.test_client(), "word", session=session)
    describe(database_url, Seal())

    class Slow(Seal):
        """Others change the rows before the first text is closed."""

        is_first = True

        def close(self, text: str) -> str:
            if self.is_first:
                self.is_first = False
                with connected(database_url) as connection:
                    first, second, _ = connection.execute(sa.select(sessions.c.id).order_by(sessions.c.id)).scalars()
                    connection.execute(turns.update().where(turns.c.session == first).values(user_text="new"))
                    connection.execute(turns.delete().where(turns.c.session == second))
                    connection.execute(sessions.delete().where(sessions.c.id == second))
            return super().close(text)

    done = Rekeying(service(Database, app), Slow(FIRST)).run()
    assert done.renewed == 1 + 2 + 6
    assert [row["user_text"] for row in kept(database_url)][:1] == ["new"]
    assert [Seal(FIRST).open(one) for one in texts(database_url)] == ["new", "word", "word", "word"]


def test_rekeying_beside_turns(
    make_app: MakeApp, upstream: Upstream, database_url: str, threads: ThreadPoolExecutor
) -> None:
    """Turns go on while it runs, again and again and back: none fails, none is lost, each is made of all before it."""
    app = make_app(session_key=FIRST, session_key_old=(SECOND,), max_queue_seconds=60)
    rekeyed = [threads.submit(lambda: _back_and_forth(make_app, 3)) for _ in range(1)]
    sent = [(f"s-{number % 3}", f"word{number}") for number in range(60)]
    answers = list(threads.map(lambda one: say(app.test_client(), one[1], session=one[0]).status_code, sent))
    assert set(answers) == {200}
    assert [unreadable for future in rekeyed for unreadable in future.result()] == [0] * 6
    assert rekey(make_app, session_key=SECOND, session_key_old=(FIRST,)).exit_code == 0
    seal = Seal(SECOND)
    assert sorted(seal.open(row["user_text"]) for row in kept(database_url)) == sorted(said for _, said in sent)
    assert all(seal.is_newest(one) for one in texts(database_url))


def _back_and_forth(make_app: MakeApp, times: int) -> list[int]:
    database = service(Database, make_app())
    keys = [(SECOND, FIRST), (FIRST, SECOND)] * times
    return [Rekeying(database, Seal(newest, [old]), batch_rows=4).run().unreadable for newest, old in keys]


def test_nothing_plain_is_left_in_the_file(make_app: MakeApp, upstream: Upstream, database_url: str) -> None:
    """Of SQLite, after rekeying: neither where texts were stored nor in the log, while the server has it open."""
    if not database_url.startswith("sqlite"):
        pytest.skip("PostgreSQL overwrites it with VACUUM FULL")
    client = make_app().test_client()
    for number in range(30):
        say(client, f"canary {number}" * 40, session=f"s-{number % 4}")
    assert "canary" in raw(database_url)
    assert rekey(make_app, session_key=FIRST).exit_code == 0
    assert "canary" not in raw(database_url)


def raw(url: str) -> str:
    return b"".join(path.read_bytes() for path in file_of(url).parent.iterdir()).decode("latin-1")


def test_rekeying_without_a_database(make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    """One line."""

    def fail(self: Rekeying) -> None:
        raise ChatServiceException("The database does not answer", "store_unavailable")

    monkeypatch.setattr(Rekeying, "run", fail)
    done = rekey(make_app, session_key=FIRST)
    assert (done.exit_code, done.output) == (1, "Error: The database does not answer\n")


def test_titles_that_cannot_be_read(make_app: MakeApp, upstream: Upstream, database_url: str) -> None:
    """The list has every session, that one without its title and metadata; it can be deleted, others be read."""
    sealed, plain = make_app(session_key=FIRST).test_client(), make_app().test_client()
    say(sealed, "I am Mina.", session="s-1")
    say(plain, "I am Jun.", session="s-2")
    for client, session in ((sealed, "s-1"), (plain, "s-2")):
        changed = client.patch(f"/api/v1/sessions/{session}", json={"title": "Tea", "metadata": {"a": "b"}})
        assert changed.get_json()["title"] == "Tea"
    assert described(database_url)[0].startswith("llms1:")

    def listed(client: FlaskClient) -> dict[str, Any]:
        found = client.get("/api/v1/sessions").get_json()["sessions"]
        return {one["session_id"]: (one["title"], one["metadata"]) for one in found}

    assert listed(sealed) == {"s-1": ("Tea", {"a": "b"}), "s-2": ("Tea", {"a": "b"})}
    assert listed(plain) == {"s-1": (None, None), "s-2": ("Tea", {"a": "b"})}
    assert "(session_unreadable)" in make_app().test_cli_runner().invoke(args=["sessions", "list"]).output
    for path in ("", "/export"):
        refused = plain.get(f"/api/v1/sessions/s-1{path}")
        assert (refused.status_code, refused.get_json()["code"]) == (500, "session_unreadable")
        assert plain.get(f"/api/v1/sessions/s-2{path}").status_code == 200
    assert plain.delete("/api/v1/sessions/s-1").status_code == 204
    assert listed(sealed).keys() == {"s-2"}


def test_what_is_taken_in_is_sealed(make_app: MakeApp, upstream: Upstream, database_url: str) -> None:
    """An export is plain; of an import, a summary and a title nothing lies in the clear."""
    plain, sealed = make_app().test_client(), make_app(session_key=FIRST).test_client()
    say(plain, "I am Mina.")
    plain.patch("/api/v1/sessions/s-1", json={"title": "Tea", "metadata": {"a": "b"}})
    plain.put("/api/v1/sessions/s-1/summary", json={"text": "She is Mina.", "covers": 1})
    lines = plain.get("/api/v1/sessions/s-1/export").data
    assert plain.delete("/api/v1/sessions/s-1").status_code == 204
    sent = {"data": lines, "content_type": "application/x-ndjson"}
    assert sealed.post("/api/v1/sessions/s-2/import", **sent).status_code == 201
    assert all(one.startswith("llms1:") for one in every_text(database_url))
    again = sealed.get("/api/v1/sessions/s-2/export").data
    assert [json.loads(line)["response_text"] for line in again.splitlines()[1:]] == ["I am Mina."]
    assert json.loads(again.splitlines()[0])["summary"]["text"] == "She is Mina."
