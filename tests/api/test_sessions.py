"""Sessions: turns that are kept because a request asked for it, one after the other, with their row or not at all."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from app.ledger.accounts import Limits
from app.services.remembering import Remembering
from app.store.tables import sessions, turns
from app.web.services import service
from tests.conftest import EVERY_STORE
from tests.records import add_client, connected, settled
from tests.streams import read_events, response_events, stream
from tests.upstream import Upstream, delayed, reply, text

CHAT = "/api/v1/chat"
pytestmark = EVERY_STORE


def say(client: FlaskClient, user_message: str, session: str = "s-1", token: str = "", **members: Any) -> Any:
    body = {"user_message": user_message, "session_id": session, "remember": True, "free_mode": True} | members
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return client.post(CHAT, json=body, headers=headers)


def wait_for(is_so: Callable[[], bool]) -> None:
    give_up = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < give_up
        time.sleep(0.01)


def heard(upstream: Upstream) -> list[tuple[str, str]]:
    """What the upstream was sent last, without the system message."""
    messages = upstream.received[-1].json["input"]
    return [(message["role"], message["content"]) for message in messages if message["role"] != "system"]


def kept(url: str) -> list[dict[str, Any]]:
    with connected(url) as connection:
        return [
            dict(row._mapping) for row in connection.execute(turns.select().order_by(turns.c.session, turns.c.number))
        ]


def test_a_turn_is_remembered(client: FlaskClient, upstream: Upstream) -> None:
    """The next turn of the session is sent what was said before, in order, and says its number."""
    upstream.script(text("Hello Mina."), text("You are Mina."))
    first = say(client, "I am Mina.").get_json()
    second = say(client, "Who am I?").get_json()
    assert (first["turn"], first["dropped_turns"], first["summarised_turns"]) == (1, 0, 0)
    assert second["turn"] == 2
    assert heard(upstream) == [("user", "I am Mina."), ("assistant", "Hello Mina."), ("user", "Who am I?")]


def test_nothing_is_kept_unless_asked(client: FlaskClient, upstream: Upstream, database_url: str) -> None:
    """A session id alone names and keeps nothing, and the answer has no word of sessions."""
    answer = say(client, "Hello.", remember=False).get_json()
    assert not {"turn", "summarised_turns"} & answer.keys()
    settled(database_url)
    assert kept(database_url) == []
    say(client, "Hello.")
    assert heard(upstream) == [("user", "Hello.")]


def test_a_first_history_is_imported(client: FlaskClient, upstream: Upstream, database_url: str) -> None:
    """It comes with the first turn only and is kept with it, beginning with an answer or ending with a question too."""
    history = ["assistant: Welcome!", "user: Hi.", "user: Are you there?", "assistant: Yes."]
    first = say(client, "Good.", conversation_history=history).get_json()
    assert first["turn"] == 4
    assert heard(upstream) == [
        ("assistant", "Welcome!"),
        ("user", "Hi.\n\nAre you there?"),
        ("assistant", "Yes."),
        ("user", "Good."),
    ]
    refused = say(client, "More.", conversation_history=["user: Hi."])
    assert refused.status_code == 422
    assert "conversation_history" in refused.get_json()["errors"]["json"]
    assert say(client, "More.", conversation_history=[]).get_json()["turn"] == 5
    assert [(row["user_text"], row["answer_text"]) for row in kept(database_url)][:3] == [
        (None, "Welcome!"),
        ("Hi.", None),
        ("Are you there?", "Yes."),
    ]


def test_a_question_that_nobody_answered_is_asked_again(client: FlaskClient, upstream: Upstream) -> None:
    """Models take no two messages of a user in a row."""
    say(client, "And now?", conversation_history=["user: Hello?"])
    assert heard(upstream) == [("user", "Hello?\n\nAnd now?")]


@pytest.mark.parametrize("failure", [reply(500, {}), text(""), reply(400, {"error": {"message": "no"}})])
def test_a_turn_that_failed_leaves_nothing(
    client: FlaskClient, upstream: Upstream, database_url: str, failure: Any
) -> None:
    """Not even a session, when it was the first; its row in the ledger is there."""
    upstream.default = failure
    assert say(client, "Hello.").status_code >= 400
    assert settled(database_url)[-1]["status"] == "error"
    assert kept(database_url) == []
    with connected(database_url) as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(sessions)).scalar() == 0


def test_a_session_is_its_clients_own(make_app: Callable[..., Flask], upstream: Upstream, database_url: str) -> None:
    """Two clients that name their sessions alike have two."""
    from app.ledger.accounts import Limits

    client = make_app(auth_mode="token").test_client()
    mina, jun = (add_client(database_url, Limits(), name) for name in ("mina", "jun"))
    assert say(client, "I am Mina.", token=mina).get_json()["turn"] == 1
    assert say(client, "Who am I?", token=jun).get_json()["turn"] == 1
    assert heard(upstream) == [("user", "Who am I?")]


def test_a_remembered_turn_needs_a_session(client: FlaskClient) -> None:
    """One whose name can stand in a path."""
    for name in ("", "a/b", "..", "a\nb", None):
        assert "session_id" in say(client, "Hi.", session=name).get_json()["errors"]["json"]


def test_sessions_can_be_off(make_app: Callable[..., Flask], upstream: Upstream) -> None:
    """Then the refusal names the setting, for the preview too, and nothing is asked."""
    client = make_app(sessions=False).test_client()
    answer = say(client, "Hi.")
    assert answer.status_code == 422
    assert "SESSIONS" in answer.get_json()["errors"]["json"]["remember"][0]
    assert not upstream.received
    assert say(client, "Hi.", remember=False).status_code == 200


def test_a_stream_is_remembered(client: FlaskClient, upstream: Upstream, database_url: str) -> None:
    """As a whole, once it is whole; `done` says its number."""
    upstream.script(stream(response_events("Hel", "lo.")))
    events = read_events(say(client, "Hi.", stream=True).data)
    assert events[-1][0] == "done"
    assert events[-1][1]["turn"] == 1
    assert [(row["user_text"], row["answer_text"], bool(row["interrupted"])) for row in kept(database_url)] == [
        ("Hi.", "Hello.", False)
    ]


def test_a_cut_turn_keeps_what_was_delivered(
    make_app: Callable[..., Flask], upstream: Upstream, database_url: str
) -> None:
    """The deadline passes in the middle of a stream: the question, and the answer so far, marked."""
    client = make_app(stream_idle_seconds=0.3).test_client()
    upstream.script(stream(response_events("Once upon ", "a time.")[:2], pause=0.01, close=False))
    upstream.script(text("Go on."))
    events = read_events(say(client, "Tell me.", stream=True).data)
    assert events[-1][0] == "error"
    (row,) = kept(database_url)
    assert (row["user_text"], bool(row["interrupted"])) == ("Tell me.", True)
    assert row["answer_text"] == "".join(data["text"] for name, data in events if name == "delta")
    assert say(client, "And then?").get_json()["turn"] == 2


def test_turns_of_a_session_come_in_order(
    make_app: Callable[..., Flask], upstream: Upstream, database_url: str, threads: ThreadPoolExecutor
) -> None:
    """Whoever comes while a turn goes on waits for it, and is made of what it left."""
    app = make_app(max_queue_seconds=60)
    upstream.default = delayed(0.02, upstream.default)
    answers = list(threads.map(lambda number: say(app.test_client(), f"word{number}").get_json(), range(24)))
    assert sorted(answer["turn"] for answer in answers) == list(range(1, 25))
    said = [row["user_text"] for row in kept(database_url)]
    assert sorted(said) == sorted(f"word{number}" for number in range(24))
    for place, received in enumerate(upstream.received):
        messages = [m["content"] for m in received.json["input"] if m["role"] == "user"]
        assert messages == said[: place + 1]


def test_workers_see_each_others_turns(make_app: Callable[..., Flask], upstream: Upstream, database_url: str) -> None:
    """What one knows of a session is out of date once another has answered it, or it was deleted and begun again."""
    first, second = make_app().test_client(), make_app().test_client()
    for number, client in enumerate((first, second, first, first, second, second, first), start=1):
        assert say(client, f"word{number}").get_json()["turn"] == number
        assert [said for role, said in heard(upstream) if role == "user"] == [f"word{n}" for n in range(1, number + 1)]
    settled(database_url)
    with connected(database_url) as connection:
        connection.execute(turns.delete())
        connection.execute(sessions.delete())
    for number in range(1, 8):
        say(second, f"new{number}")
    assert say(first, "new8").get_json()["turn"] == 8
    assert [said for role, said in heard(upstream) if role == "user"] == [f"new{n}" for n in range(1, 9)]


def test_a_session_that_is_deleted_keeps_nothing_of_the_turn_that_goes_on(
    make_app: Callable[..., Flask], upstream: Upstream, database_url: str, threads: ThreadPoolExecutor
) -> None:
    """Nor does the session that has its place in the table then."""
    app = make_app()
    upstream.script(delayed(1, text("Late.")), text("New."))
    slow = threads.submit(say, app.test_client(), "Old question.")
    wait_for(lambda: bool(upstream.received))
    with connected(database_url) as connection:
        connection.execute(sessions.delete())
    assert say(make_app().test_client(), "New question.", session="s-2").status_code == 200
    assert not {"turn", "summarised_turns"} & slow.result().get_json().keys()
    assert [row["user_text"] for row in kept(database_url)] == ["New question."]
    assert service(Remembering, app)._open().recent.take((0, "s-1"), 0) is None


def test_more_turns_are_read_when_more_may_be_sent(client: FlaskClient, upstream: Upstream) -> None:
    """What is known of a session after a short prompt does not bound the next one."""
    for number in range(6):
        say(client, f"word{number}")
    say(client, "short", max_context_tokens=25)
    assert len(heard(upstream)) < 6
    assert say(client, "long").get_json()["dropped_turns"] == 0
    assert len(heard(upstream)) == 15


def test_a_turn_waits_so_long_and_no_longer(
    make_app: Callable[..., Flask], upstream: Upstream, threads: ThreadPoolExecutor
) -> None:
    """Then it is 409, which says when to come again."""
    app = make_app(max_queue_seconds=0.2)
    upstream.script(delayed(1.5, text("Late.")))
    slow = threads.submit(say, app.test_client(), "First.")
    wait_for(lambda: bool(upstream.received))
    answer = say(app.test_client(), "Second.")
    assert (answer.status_code, answer.get_json()["code"]) == (409, "session_busy")
    assert int(answer.headers["Retry-After"]) >= 1
    assert say(app.test_client(), "Third.", session="s-2").status_code == 200
    assert slow.result().get_json()["turn"] == 1


def test_old_turns_are_left_out(make_app: Callable[..., Flask], upstream: Upstream) -> None:
    """As many of the newest whole turns are sent as `max_context_tokens` allows; 8,000 where nobody says."""
    client = make_app(summary_model="none").test_client()
    long = "word " * 1200
    for number in range(12):
        answer = say(client, f"{number} {long}").get_json()
    sent = heard(upstream)
    assert answer["dropped_turns"] == 9
    assert [content.split()[0] for _, content in sent] == ["9", "9", "10", "10", "11"]
    answer = say(client, "short", max_context_tokens=40).get_json()
    assert answer["dropped_turns"] == 12
    assert heard(upstream) == [("user", "short")]


def test_the_preview_has_the_memory(client: FlaskClient, upstream: Upstream, database_url: str) -> None:
    """What a turn would send, to the byte; nothing is written by looking."""
    say(client, "I am Mina.")
    body = {"user_message": "Who am I?", "session_id": "s-1", "remember": True, "free_mode": True}
    shown = client.post(f"{CHAT}/preview", json=body).get_json()
    assert len(kept(database_url)) == 1
    client.post(CHAT, json=body)
    assert shown["upstream_body"] == upstream.received[-1].body.decode()
    body["session_id"] = "never"
    assert client.post(f"{CHAT}/preview", json=body).status_code == 200
    with connected(database_url) as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(sessions)).scalar() == 1


def test_the_session_has_its_bill(client: FlaskClient, upstream: Upstream, database_url: str) -> None:
    """Tokens and cost of all its turns, failed ones too."""
    say(client, "One.")
    say(client, "Two.")
    with connected(database_url) as connection:
        (row,) = connection.execute(sessions.select()).all()
    booked = settled(database_url)
    assert row.input_tokens == sum(item["input_tokens"] for item in booked)
    assert row.cost_nano == sum(item["cost_nano"] for item in booked) > 0


def test_the_memory_server_is_asked_and_told(
    make_app: Callable[..., Flask], upstream: Upstream, database_url: str
) -> None:
    """Before a remembered turn what it knows is added to the memories, and the turn is told to it; of others it hears
    nothing."""
    with Upstream() as memory:
        memory.script(reply(200, ["Mina likes tea."]), reply(204, b""))
        client = make_app(memory_url=f"{memory.base_url}/memories").test_client()
        say(client, "What do I drink?", remember=False)
        assert not memory.received
        say(client, "What do I drink?", user="mina", memory_context=["It is evening."])
        wait_for(lambda: len(memory.received) == 2)
        asked, told = memory.received
        assert (asked.method, told.method) == ("GET", "POST")
        assert {"session=s-1", "user=mina"} <= set(asked.path.partition("?")[2].split("&"))
        system = upstream.received[-1].json["input"][0]["content"]
        assert "- It is evening.\n- Mina likes tea." in system
        assert (told.json["turn"], told.json["user_message"], told.json["interrupted"]) == (
            1,
            "What do I drink?",
            False,
        )
        assert told.json["response_text"] == "What do I drink?"
        memory.default = reply(500, {})
        assert say(client, "And now?").get_json()["turn"] == 2


def test_a_character_opens_its_session(client: FlaskClient, upstream: Upstream, database_url: str) -> None:
    """What it says first is the first turn; turns and session say which version spoke."""
    character = {
        "nickname": "Mina",
        "first_message": "{{user}}, you came!",
        "lore": [{"keywords": ["tea"], "text": "Tea is at four."}],
    }
    assert client.put("/api/v1/characters/mina", json=character).status_code == 200
    first = say(client, "Hello.", character="mina", user_name="Jun").get_json()
    assert (first["turn"], first["character"]) == (2, "mina@1")
    assert heard(upstream) == [("assistant", "Jun, you came!"), ("user", "Hello.")]
    say(client, "I would like some tea.", character="mina", user_name="Jun")
    say(client, "When?", character="mina", user_name="Jun")
    assert "Tea is at four." in upstream.received[-1].json["input"][0]["content"]
    assert {row["character"] for row in kept(database_url)} == {"mina@1"}
    with connected(database_url) as connection:
        assert connection.execute(sa.select(sessions.c.character)).scalars().all() == ["mina@1"]
    assert [row["user_text"] for row in kept(database_url)][:2] == [None, "Hello."]


def test_a_session_is_held_by_its_own_turns_only(
    make_app: Callable[..., Flask], upstream: Upstream, database_url: str, threads: ThreadPoolExecutor
) -> None:
    """Callers choose the ids of their requests: one of the same id in another session, or another client's in a session
    of the same name, holds nobody up."""
    app = make_app(auth_mode="token", max_queue_seconds=0.3)
    mina, jun = (add_client(database_url, Limits(), name) for name in ("mina", "jun"))

    def ask(session: str, token: str) -> Any:
        body = {"user_message": "Hello.", "session_id": session, "remember": True, "free_mode": True}
        headers = {"X-Request-ID": "same", "Authorization": f"Bearer {token}"}
        return app.test_client().post(CHAT, json=body, headers=headers)

    assert ask("s-1", mina).get_json()["turn"] == 1
    upstream.script(delayed(2, text("Slow.")), delayed(2, text("Slow.")), text("Quick."))
    asked = [threads.submit(ask, *other) for other in (("s-2", mina), ("s-1", jun))]
    wait_for(lambda: len(upstream.received) == 3)
    assert ask("s-1", mina).get_json()["turn"] == 2
    assert [one.result(10).get_json()["turn"] for one in asked] == [1, 1]


def test_a_turn_that_is_over_holds_nothing(client: FlaskClient, upstream: Upstream, database_url: str) -> None:
    """Not even by its id: where all requests of a caller have one, each turn would look at the rows of all of them."""
    upstream.script(text("Hi."), reply(400, {"error": {"message": "No.", "type": "invalid_request_error"}}))
    assert [say(client, "Hello.").status_code for _ in range(2)] == [200, 400]
    with connected(database_url) as connection:
        assert connection.execute(sa.select(sessions.c.turn_request)).scalars().all() == [None]


def test_a_refused_first_turn_leaves_no_row(make_app: Callable[..., Flask], database_url: str) -> None:
    """A client that is over its limits cannot fill the database with sessions that never were."""
    client = make_app(auth_mode="token").test_client()
    token = add_client(database_url, Limits(requests_per_minute=1), "mina")
    assert say(client, "Hello.", "s-0", token).status_code == 200
    for number in range(1, 4):
        assert say(client, "Hello.", f"s-{number}", token).status_code == 429

    def names() -> list[str]:
        with connected(database_url) as connection:
            return list(connection.execute(sa.select(sessions.c.name)).scalars())

    wait_for(lambda: names() == ["s-0"])


def test_a_character_says_its_first_message_once(client: FlaskClient, upstream: Upstream, database_url: str) -> None:
    """Also where a summary covers every turn."""
    client.put("/api/v1/characters/mina", json={"first_message": "You came!", "examples": []})
    assert say(client, "Hello.", character="mina").get_json()["turn"] == 2
    settled(database_url)
    assert client.put("/api/v1/sessions/s-1/summary", json={"text": "They met.", "covers": 2}).status_code == 200
    say(client, "And now?", character="mina")
    assert heard(upstream) == [("user", "And now?")]
    assert "They met." in upstream.received[-1].json["input"][0]["content"]
