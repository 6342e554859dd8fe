"""Interruption: a session's answer is cut where its listener stopped, and what was never heard is not remembered."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.ledger.accounts import Limits
from app.services.turn_stream import MAX_WAITING_EVENTS
from tests.api.test_sessions import heard, kept, say
from tests.conftest import EVERY_STORE
from tests.records import add_client, rows, settled
from tests.streams import endless, read_events, response_events, stream
from tests.upstream import Upstream, delayed, reply, silence, text

STORY = "Once upon a time there was a fox. It lived in a wood."
WITHIN_SECONDS = 1.0
pytestmark = EVERY_STORE


def interrupt(client: FlaskClient, characters: int | None = None, session: str = "s-1", token: str = "") -> Any:
    body = {} if characters is None else {"heard_characters": characters}
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return client.post(f"/api/v1/sessions/{session}/interrupt", json=body, headers=headers)


class Running:
    """A streamed turn that is read in a thread, and that has brought some text."""

    def __init__(self, client: FlaskClient, threads: ThreadPoolExecutor, expected: str, **members: Any) -> None:
        self.seen = b""
        self._has_come = threading.Event()
        self._expected = expected
        self._answer: Future[list[tuple[str, Any]]] = threads.submit(self._read, client, members)
        assert self._has_come.wait(10)

    def _read(self, client: FlaskClient, members: dict[str, Any]) -> list[tuple[str, Any]]:
        for piece in say(client, "Tell me.", stream=True, **members).response:
            self.seen += piece
            if self._expected in "".join(data.get("text", "") for _, data in read_events(self.seen)):
                self._has_come.set()
        return read_events(self.seen)

    @property
    def request_id(self) -> str:
        """As its first event says it."""
        return str(read_events(self.seen)[0][1]["request_id"])

    def events(self) -> list[tuple[str, Any]]:
        """All of them, once the stream is over."""
        return self._answer.result(10)


def test_a_running_answer_is_cut(
    app: Flask, upstream: Upstream, database_url: str, threads: ThreadPoolExecutor
) -> None:
    """Upstream is closed within a second, the stream says so, and what was heard is remembered; the bill stays."""
    upstream.script(endless("Once upon ", "a time."))
    running = Running(app.test_client(), threads, "a time.")
    began = time.monotonic()
    answer = interrupt(app.test_client(), 9)
    assert answer.status_code == 200
    assert answer.get_json() == {"turn": 1, "answer_text": "Once upon", "interrupted": True, "was_running": True}
    assert [(name, data.get("code")) for name, data in running.events()][-1] == ("error", "turn_interrupted")
    while upstream.received[0].left_early is None:
        assert time.monotonic() - began < WITHIN_SECONDS
    (row,) = rows(database_url)
    assert (row["status"], row["code"]) == ("cancelled", "turn_interrupted")
    assert row["output_tokens"] > 0
    assert row["cost_nano"] > 0
    (turn,) = kept(database_url)
    assert (turn["user_text"], turn["answer_text"], bool(turn["interrupted"])) == ("Tell me.", "Once upon", True)
    assert say(app.test_client(), "Go on.").get_json()["turn"] == 2
    assert heard(upstream) == [("user", "Tell me."), ("assistant", "Once upon"), ("user", "Go on.")]


@pytest.mark.parametrize(("characters", "left"), [(None, "Once upon a time."), (500, "Once upon a time."), (0, None)])
def test_how_much_of_a_running_answer_is_kept(
    app: Flask, upstream: Upstream, threads: ThreadPoolExecutor, characters: int | None, left: str | None
) -> None:
    """Without a number, or with one that is too large, what was delivered; with 0 the question alone."""
    upstream.script(endless("Once upon ", "a time."))
    running = Running(app.test_client(), threads, "a time.")
    answer = interrupt(app.test_client(), characters).get_json()
    assert answer == {"turn": 1, "answer_text": left, "interrupted": True, "was_running": True}
    running.events()
    say(app.test_client(), "Go on.")
    past = [("user", "Tell me."), ("assistant", left), ("user", "Go on.")]
    assert heard(upstream) == (past if left else [("user", "Tell me.\n\nGo on.")])


def test_a_plain_answer_is_cut(app: Flask, upstream: Upstream, database_url: str, threads: ThreadPoolExecutor) -> None:
    """Its caller is told, and the question is kept."""
    upstream.script(silence())
    asked = threads.submit(say, app.test_client(), "Tell me.")
    while not upstream.received:
        time.sleep(0.01)
    answer = interrupt(app.test_client(), 9).get_json()
    assert answer == {"turn": 1, "answer_text": None, "interrupted": True, "was_running": True}
    told = asked.result(10)
    assert (told.status_code, told.get_json()["code"]) == (409, "turn_interrupted")
    assert [(turn["user_text"], turn["answer_text"]) for turn in kept(database_url)] == [("Tell me.", None)]


def test_the_last_answer_is_trimmed(client: FlaskClient, upstream: Upstream, database_url: str) -> None:
    """Where none runs, to what was heard and never longer again; as often as one likes. The bill is not trimmed."""
    upstream.script(text("First."), text(STORY))
    say(client, "Hello.")
    say(client, "Tell me.")
    booked = settled(database_url)
    whole = {"turn": 2, "answer_text": STORY, "interrupted": False, "was_running": False}
    for characters in (None, len(STORY), 10_000):
        assert interrupt(client, characters).get_json() == whole
    for characters, left in ((9, "Once upon"), (9, "Once upon"), (20, "Once upon"), (4, "Once"), (None, "Once")):
        trimmed = {"turn": 2, "answer_text": left, "interrupted": True, "was_running": False}
        assert interrupt(client, characters).get_json() == trimmed
    assert [turn["answer_text"] for turn in kept(database_url)] == ["First.", "Once"]
    assert rows(database_url) == booked
    say(client, "Go on.")
    assert heard(upstream)[-2:] == [("assistant", "Once"), ("user", "Go on.")]


def test_what_is_left_is_sealed(make_app: Callable[..., Flask], upstream: Upstream, database_url: str) -> None:
    """With SESSION_KEY a trimmed answer is stored as every other one."""
    client = make_app(session_key="d4350d3a495e3c479890a0dec0d3ccff").test_client()
    upstream.script(text(STORY))
    say(client, "Tell me.")
    assert interrupt(client, 9).get_json()["answer_text"] == "Once upon"
    assert "Once" not in kept(database_url)[0]["answer_text"]
    say(client, "Go on.")
    assert heard(upstream)[-2] == ("assistant", "Once upon")


def test_nothing_was_heard(client: FlaskClient, upstream: Upstream, database_url: str) -> None:
    """Then nothing of the answer is kept, and the question is."""
    say(client, "Tell me.")
    answer = {"turn": 1, "answer_text": None, "interrupted": True, "was_running": False}
    assert interrupt(client, 0).get_json() == interrupt(client).get_json() == answer
    say(client, "Go on.")
    assert heard(upstream) == [("user", "Tell me.\n\nGo on.")]


def test_characters_are_code_points(client: FlaskClient, upstream: Upstream) -> None:
    """As in the `end` of a segment: an emoji is one, whatever UTF-8 or UTF-16 need for it."""
    upstream.script(stream(response_events("안녕 🦊", "! 또 만나요. Bye.")))
    events = read_events(say(client, "Hi.", stream=True, segments=True).data)
    ends = [data["end"] for name, data in events if name == "segment"]
    assert interrupt(client, ends[0]).get_json()["answer_text"] == "안녕 🦊! "
    assert interrupt(client, 4).get_json()["answer_text"] == "안녕 🦊"


def test_a_trim_reaches_every_worker(make_app: Callable[..., Flask], upstream: Upstream) -> None:
    """What a worker knows of a session is out of date once its last answer was trimmed."""
    first, second = make_app().test_client(), make_app().test_client()
    upstream.script(text(STORY))
    say(first, "Tell me.")
    interrupt(second, 4)
    say(first, "Go on.")
    assert heard(upstream)[-2:] == [("assistant", "Once"), ("user", "Go on.")]


def test_a_turn_in_another_worker_is_cut(
    make_app: Callable[..., Flask], upstream: Upstream, threads: ThreadPoolExecutor
) -> None:
    """It finds the mark; upstream is closed within a second."""
    first, second = make_app(), make_app()
    upstream.script(endless("Once upon ", "a time."))
    running = Running(first.test_client(), threads, "a time.")
    began = time.monotonic()
    answer = interrupt(second.test_client(), 4).get_json()
    assert answer == {"turn": 1, "answer_text": "Once", "interrupted": True, "was_running": True}
    assert (upstream.received[0].left_early or 0) - began < WITHIN_SECONDS
    assert running.events()[-1][1]["code"] == "turn_interrupted"


def test_a_caller_that_stops_reading(app: Flask, upstream: Upstream, database_url: str) -> None:
    """As it may at the moment in which it interrupts: the turn does not wait for it. What it reads later is an end."""
    upstream.script(endless(*["word "] * (2 * MAX_WAITING_EVENTS)))
    unread = say(app.test_client(), "Tell me.", stream=True)
    time.sleep(0.5)
    assert interrupt(app.test_client(), 9).get_json()["answer_text"] == "word word"
    events = read_events(b"".join(unread.response))
    assert events[-1][1]["code"] == "turn_interrupted"
    assert len(events) > MAX_WAITING_EVENTS


def test_a_turn_is_interrupted_twice(
    app: Flask, upstream: Upstream, database_url: str, threads: ThreadPoolExecutor
) -> None:
    """Both are answered with the same turn, and the least that was heard counts."""
    upstream.script(endless("Once upon ", "a time."))
    Running(app.test_client(), threads, "a time.")
    numbers = [9, 4, None, 12]
    answers = list(threads.map(lambda number: interrupt(app.test_client(), number).get_json(), numbers))
    assert {answer["turn"] for answer in answers} == {1}
    assert all(answer["interrupted"] for answer in answers)
    assert [turn["answer_text"] for turn in kept(database_url)] == ["Once"]


def test_the_turn_that_waits_sees_what_is_left(
    make_app: Callable[..., Flask], upstream: Upstream, threads: ThreadPoolExecutor
) -> None:
    """In the same worker and in another one."""
    first, second = make_app(max_queue_seconds=30), make_app(max_queue_seconds=30)
    for place, app in enumerate((first, second)):
        session = f"s-{place}"
        upstream.script(endless("Once upon ", "a time."))
        Running(first.test_client(), threads, "a time.", session=session)
        waiting = threads.submit(say, app.test_client(), "Go on.", session)
        time.sleep(0.2)
        assert interrupt(first.test_client(), 4, session).get_json()["turn"] == 1
        assert waiting.result(10).get_json()["turn"] == 2
        assert heard(upstream) == [("user", "Tell me."), ("assistant", "Once"), ("user", "Go on.")]


@pytest.mark.parametrize("streamed", [False, True])
def test_an_interruption_as_the_answer_ends(
    make_app: Callable[..., Flask], upstream: Upstream, database_url: str, threads: ThreadPoolExecutor, streamed: bool
) -> None:
    """Whichever comes first: no turn is lost, none is there twice, and no more is remembered than was heard."""
    apps = [make_app(), make_app()]
    answer = stream(response_events("Once upon ", "a time.")) if streamed else text("Once upon a time.")
    upstream.default = delayed(0.05, answer)
    was_running = set()
    for number in range(1, 25):
        said = threads.submit(say, apps[0].test_client(), f"word{number}", stream=streamed)
        while len(upstream.received) < number:
            time.sleep(0.001)
        time.sleep(0.03 + 0.002 * number)
        told = interrupt(apps[number % 2].test_client(), 4).get_json()
        said.result(10)
        was_running.add(told["was_running"])
        assert told["turn"] == number
        assert told["answer_text"] in {"Once", None}
    settled(database_url)
    turns = kept(database_url)
    assert [turn["user_text"] for turn in turns] == [f"word{number}" for number in range(1, 25)]
    assert {turn["answer_text"] for turn in turns} <= {"Once", None}
    sent = [message for received in upstream.received for message in received.json["input"]]
    assert {message["content"] for message in sent if message["role"] == "assistant"} <= {"Once"}


def test_an_earlier_mark_is_no_mark(app: Flask, upstream: Upstream, threads: ThreadPoolExecutor) -> None:
    """Also where a caller gives all its requests one id."""
    client, same = app.test_client(), {"X-Request-ID": "same"}
    body = {"user_message": "Tell me.", "session_id": "s-1", "remember": True, "free_mode": True}
    upstream.script(silence(), text(STORY))
    asked = threads.submit(app.test_client().post, "/api/v1/chat", json=body, headers=same)
    while not upstream.received:
        time.sleep(0.01)
    assert interrupt(client, 4).get_json()["was_running"] is True
    asked.result(10)
    assert client.post("/api/v1/chat", json=body, headers=same).get_json()["turn"] == 2
    assert interrupt(client).get_json()["answer_text"] == STORY


def test_a_turn_that_fails_leaves_nothing_to_trim(
    app: Flask, upstream: Upstream, database_url: str, threads: ThreadPoolExecutor
) -> None:
    """The turn before is not touched."""
    upstream.script(text(STORY), delayed(0.5, reply(400, {"error": {"message": "no"}})))
    say(app.test_client(), "Tell me.")
    asked = threads.submit(say, app.test_client(), "Go on.")
    while len(upstream.received) < 2:
        time.sleep(0.01)
    # As another machine does, whose turn fails before it has seen the mark.
    from app.services.interrupting import Interrupting
    from app.web.services import service

    service(Interrupting, app)._running.end = lambda turn: None  # type: ignore[method-assign]
    answer = interrupt(app.test_client(), 4).get_json()
    assert answer["was_running"] is True
    asked.result(10)
    assert kept(database_url)[0]["answer_text"] == STORY


def test_a_session_that_is_not_there(make_app: Callable[..., Flask], database_url: str) -> None:
    """Unknown, another client's, without a turn, or sessions are off."""
    client = make_app(auth_mode="token").test_client()
    mina, jun = (add_client(database_url, Limits(), name) for name in ("mina", "jun"))
    say(client, "I am Mina.", token=mina)
    for session, token in (("s-1", jun), ("s-2", mina), ("..%00", mina), ("x" * 500, mina)):
        answer = interrupt(client, 4, session, token)
        assert (answer.status_code, answer.get_json()["code"]) == (404, "session_not_found")
    assert interrupt(client, 4, token="").status_code == 401
    assert interrupt(client, 4, token=mina).get_json()["answer_text"] == "I am"
    off = make_app(sessions=False).test_client()
    assert (interrupt(off).status_code, "SESSIONS" in interrupt(off).get_json()["detail"]) == (422, True)


def test_only_the_turn_that_is_meant_is_cut(
    app: Flask, upstream: Upstream, database_url: str, threads: ThreadPoolExecutor
) -> None:
    """An interruption that comes before its turn has begun, or after the next one has, cuts nothing."""
    client = app.test_client()
    upstream.script(text("First answer."))
    first = say(client, "One.").get_json()["request_id"]

    def meaning(request_id: str) -> Any:
        body = {"heard_characters": 5, "request_id": request_id}
        return app.test_client().post("/api/v1/sessions/s-1/interrupt", json=body)

    early = meaning("not-yet")
    assert (early.status_code, early.get_json()["code"]) == (404, "turn_not_found")
    upstream.script(endless("Second answer."))
    running = Running(client, threads, "Second")
    assert meaning(first).status_code == 404
    assert [row["answer_text"] for row in kept(database_url)] == ["First answer."]
    second = running.request_id
    assert meaning(second).get_json() == {
        "turn": 2,
        "answer_text": "Secon",
        "interrupted": True,
        "was_running": True,
    }
    assert meaning(second).get_json()["answer_text"] == "Secon"
    assert meaning(first).status_code == 404


@pytest.mark.parametrize("number", [-1, 1.5, "4", True, 2**60])
def test_a_number_that_is_none(client: FlaskClient, number: Any) -> None:
    """It is refused by name."""
    say(client, "Hello.")
    answer = client.post("/api/v1/sessions/s-1/interrupt", json={"heard_characters": number})
    assert "heard_characters" in answer.get_json()["errors"]["json"]


def test_the_memory_server_is_told_what_was_heard(
    make_app: Callable[..., Flask], upstream: Upstream, threads: ThreadPoolExecutor
) -> None:
    """Once when a running turn is cut; once more when a turn is trimmed that it was told already."""
    with Upstream() as memory:
        app = make_app(memory_url=f"{memory.base_url}/memories")
        memory.default = reply(200, [])

        def told() -> Iterator[Any]:
            return (received.json for received in memory.received if received.method == "POST")

        def wait_for(number: int) -> Any:
            give_up = time.monotonic() + 10
            while len(list(told())) < number and time.monotonic() < give_up:
                time.sleep(0.01)
            return list(told())[number - 1]

        upstream.script(endless("Once upon ", "a time."), text(STORY))
        running = Running(app.test_client(), threads, "a time.", user="mina")
        interrupt(app.test_client(), 4)
        running.events()
        assert (wait_for(1)["response_text"], wait_for(1)["interrupted"]) == ("Once", True)
        say(app.test_client(), "Go on.", user="mina")
        assert wait_for(2)["response_text"] == STORY
        interrupt(app.test_client(), 4)
        interrupt(app.test_client(), 4)
        assert wait_for(3) == wait_for(2) | {"response_text": "Once", "interrupted": True}
        time.sleep(0.1)
        assert len(list(told())) == 3


def test_the_memory_server_is_not_told_another_clients_user(
    make_app: Callable[..., Flask], upstream: Upstream, database_url: str
) -> None:
    """Also where both have given their requests one id."""
    with Upstream() as memory:
        client = make_app(auth_mode="token", memory_url=f"{memory.base_url}/memories").test_client()
        memory.default = reply(200, [])
        upstream.default = text(STORY)
        mina, jun = (add_client(database_url, Limits(), name) for name in ("mina", "jun"))
        for token, user in ((mina, "a"), (jun, "z")):
            body = {"user_message": "Tell me.", "session_id": "s-1", "remember": True, "free_mode": True, "user": user}
            headers = {"X-Request-ID": "same", "Authorization": f"Bearer {token}"}
            assert client.post("/api/v1/chat", json=body, headers=headers).get_json()["turn"] == 1
        assert interrupt(client, 4, token=mina).get_json()["interrupted"] is True
        give_up = time.monotonic() + 10
        while len(told := [one.json for one in memory.received if one.method == "POST"]) < 3:
            assert time.monotonic() < give_up
            time.sleep(0.01)
        assert [one["user"] for one in told if one["client"] == "mina"] == ["a", "a"]
