"""Summaries: what a session's prompt keeps of turns that no longer fit, made behind the answers and never for free."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask

from app.calls.call import Calls
from app.errors import ChatServiceException
from app.ledger.accounts import NOBODY, Limits
from app.models import Credentials
from app.process.readiness import Readiness
from app.services.remembering import Remembering
from app.services.summaries import CLAIMS, Due, Summaries
from app.sessions.conversation import Conversation, Turn
from app.sessions.sessions import Sessions
from app.sessions.turns import session_busy
from app.store.database import Database
from app.store.tables import sessions, turns
from app.web.services import service
from tests.api.test_sessions import kept, say
from tests.conftest import CALLER_KEY, EVERY_STORE
from tests.records import Row, add_client, connected, rows, settled
from tests.upstream import Answer, Received, Upstream, delayed, echo, error_document, reply, silence, text

SUMMARY = "session-summary"
LIMIT = 400
"""`max_context_tokens`: some ten turns of WORDS."""
WORDS = " ".join(["and so on"] * 9)
pytestmark = EVERY_STORE


LONG = Conversation(0, recent=[Turn("long " * LIMIT, None)])
DUE = Due(
    owner=0,
    name="s-1",
    principal=NOBODY,
    credentials=Credentials(free_mode=True),
    end_user=None,
    model="gpt-4o-mini",
    max_context_tokens=LIMIT,
    room=LIMIT,
)
"""What a turn of the session may find."""


def summaries_of(app: Flask) -> Summaries:
    found = service(Remembering, app).summaries
    assert found is not None
    return found


def talk(app: Flask, numbers: range, **members: Any) -> list[Any]:
    """Say some turns one after the other; the answers, each before the next turn is said and after any summary."""
    answers = []
    for number in numbers:
        answer = say(app.test_client(), f"fact-{number} {WORDS}", **{"max_context_tokens": LIMIT} | members)
        assert answer.status_code == 200, answer.get_json()
        summaries_of(app).flush(20)
        answers.append(answer.get_json())
    return answers


def is_summary(received: Received) -> bool:
    return bool(received.json["input"][-1]["content"].rstrip().endswith("</conversation>"))


def asked_for_summaries(upstream: Upstream) -> list[str]:
    """What models were given to summarise."""
    return [received.json["input"][-1]["content"] for received in upstream.received if is_summary(received)]


def facts(found: str) -> list[str]:
    """Each fact once, in order."""
    return list(dict.fromkeys(re.findall(r"fact-\d+", found)))


def summarising(then: Answer = echo, delay: float = 0.0) -> Answer:
    """Answers a summary with all facts of what it is given, as short as can be; all others as `then` does."""

    async def answer(received: Received, writer: asyncio.StreamWriter) -> None:
        if is_summary(received):
            numbers = " ".join(facts(received.json["input"][-1]["content"]))
            await asyncio.sleep(delay)
            await text(f"Kept: {numbers}")(received, writer)
        else:
            await then(received, writer)

    return answer


def either(summary: Answer, turn: Answer = echo) -> Answer:
    """Answers summaries and turns differently."""

    async def answer(received: Received, writer: asyncio.StreamWriter) -> None:
        await (summary if is_summary(received) else turn)(received, writer)

    return answer


def session(url: str) -> Row:
    """The only one."""
    with connected(url) as connection:
        return dict(connection.execute(sessions.select()).one()._mapping)


def summary_rows(url: str) -> list[Row]:
    return [row for row in settled(url) if row["route"] == SUMMARY]


def test_a_fact_of_the_second_turn_outlives_sixty(app: Flask, upstream: Upstream, database_url: str) -> None:
    """It is in what is sent, under the summary's heading, with the newest turns; nothing in between is left out."""
    upstream.default = summarising(text("Yes."))
    answers = talk(app, range(1, 61), max_context_tokens=2 * LIMIT)
    assert all(answer["dropped_turns"] == 0 for answer in answers)
    system, *said = [message["content"] for message in upstream.received[-1].json["input"]]
    if is_summary(upstream.received[-1]):
        system, *said = [message["content"] for message in upstream.received[-2].json["input"]]
    assert "#지난 대화 요약\nKept: fact-1 fact-2 " in system
    covered = answers[-1]["summarised_turns"]
    assert covered >= 30
    assert facts(system) == [f"fact-{number}" for number in range(1, covered + 1)]
    assert [found for one in said for found in facts(one)] == [f"fact-{n}" for n in range(covered + 1, 61)]


def test_what_is_summarised_stays(app: Flask, upstream: Upstream, database_url: str) -> None:
    """The turns are in the store as they were said, and the summary beside them with what it covers and who made it."""
    upstream.default = summarising(text("Yes."))
    talk(app, range(1, 20))
    assert [row["user_text"] for row in kept(database_url)] == [f"fact-{number} {WORDS}" for number in range(1, 20)]
    found = session(database_url)
    assert (found["summary_by"], found["summary_model"]) == ("model", "gpt-4o-mini-2024")
    assert found["summary_at"] > found["created_at"]
    assert facts(found["summary"]) == [f"fact-{number}" for number in range(1, found["summary_turns"] + 1)]


def test_a_summary_is_a_request_of_its_own(app: Flask, upstream: Upstream, database_url: str) -> None:
    """In the ledger, of the same session and model, with what it cost; the session's bill has it, too."""
    upstream.default = summarising(text("Yes."))
    talk(app, range(1, 12), model="gpt-4o-mini", user="mina")
    (row,) = summary_rows(database_url)
    assert (row["session_id"], row["model"], row["status"], row["end_user"]) == ("s-1", "gpt-4o-mini", "ok", "mina")
    assert row["cost_nano"] > 0
    found, booked = session(database_url), rows(database_url)
    assert found["input_tokens"] == sum(item["input_tokens"] for item in booked)
    assert found["cost_nano"] == sum(item["cost_nano"] for item in booked)
    (asked,) = [received for received in upstream.received if is_summary(received)]
    assert asked.json["max_output_tokens"] == LIMIT // 4


def test_the_summary_before_is_carried_on(app: Flask, upstream: Upstream) -> None:
    """A model is given the old summary and the turns after it, and never the turns that the old one covers."""
    upstream.default = summarising(text("Yes."))
    talk(app, range(1, 25))
    first, second, *_ = asked_for_summaries(upstream)
    assert "<summary>" not in first
    before, _, after = second.partition("</summary>")
    assert facts(before) == facts(first)
    assert not set(facts(after)) & set(facts(first))


def test_settings_say_which_model_and_what_it_is_told(make_app: Callable[..., Flask], upstream: Upstream) -> None:
    """And how long a summary may be, within a quarter of the limit."""
    app = make_app(summary_model="gpt-4.1-nano", summary_prompt="Sum it up.", summary_max_tokens=50)
    upstream.default = summarising(text("Yes."))
    talk(app, range(1, 12))
    (asked,) = [received.json for received in upstream.received if is_summary(received)]
    assert (asked["model"], asked["max_output_tokens"]) == ("gpt-4.1-nano", 50)
    assert asked["input"][0] == {"role": "system", "content": "Sum it up."}


def test_the_default_prompt_asks_for_the_language_of_the_conversation(app: Flask, upstream: Upstream) -> None:
    upstream.default = summarising(text("Yes."))
    talk(app, range(1, 12))
    (asked,) = [received.json for received in upstream.received if is_summary(received)]
    assert "대화에 쓰인 언어로" in asked["input"][0]["content"]


def test_none_makes_no_summaries(make_app: Callable[..., Flask], upstream: Upstream) -> None:
    app = make_app(summary_model="none")
    for number in range(1, 20):
        answer = say(app.test_client(), f"fact-{number} {WORDS}", max_context_tokens=LIMIT).get_json()
    assert answer["dropped_turns"] > 0
    assert not asked_for_summaries(upstream)


def test_an_answer_does_not_wait_for_a_summary(app: Flask, upstream: Upstream, database_url: str) -> None:
    """Nor does the next turn, which is sent what fits until the summary is there."""
    upstream.default = either(delayed(2, text("Late.")), text("Yes."))
    for number in range(1, 17):
        assert say(app.test_client(), f"fact-{number} {WORDS}", max_context_tokens=LIMIT).status_code == 200
    assert not session(database_url)["summary"]
    summaries_of(app).flush(20)
    assert session(database_url)["summary"] == "Late."
    answer = say(app.test_client(), "And now?", max_context_tokens=LIMIT).get_json()
    assert (answer["turn"], answer["summarised_turns"]) == (17, session(database_url)["summary_turns"])


def test_a_turn_goes_on_while_its_summary_is_written(app: Flask, upstream: Upstream, database_url: str) -> None:
    """The summary is written in the middle of a turn: both are kept, and the next turn has both."""
    upstream.default = either(delayed(0.3, text("Meanwhile.")), text("Yes."))
    talk(app, range(1, 10))
    number = 10
    while not asked_for_summaries(upstream):
        say(app.test_client(), f"fact-{number} {WORDS}", max_context_tokens=LIMIT)
        number += 1
    upstream.default = delayed(1, text("Slow."))
    assert say(app.test_client(), "slow", max_context_tokens=LIMIT).get_json()["turn"] == number
    before = session(database_url)
    assert before["summary"] == "Meanwhile."
    answer = say(app.test_client(), "next", max_context_tokens=LIMIT).get_json()
    assert answer["turn"] == number + 1
    # One more summary may have been written behind the slow turn.
    assert 0 < before["summary_turns"] <= answer["summarised_turns"] <= session(database_url)["summary_turns"]


def test_a_new_summary_is_no_reason_to_refuse_a_turn(
    make_app: Callable[..., Flask], upstream: Upstream, database_url: str
) -> None:
    """What a worker knew of the session is out of date then; it reads it again, even where nothing may wait."""
    app = make_app(max_queue_seconds=0)
    upstream.default = text("Yes.")
    say(app.test_client(), "Hello.")
    settled(database_url)
    with connected(database_url) as connection:
        connection.execute(
            sessions.update().values(summary="He said hello.", summary_turns=1, revision=sessions.c.revision + 1)
        )
    answer = say(app.test_client(), "And now?").get_json()
    assert (answer["turn"], answer["summarised_turns"]) == (2, 1)
    assert "He said hello." in upstream.received[-1].json["input"][0]["content"]


FAILURES: dict[str, tuple[Answer, dict[str, Any]]] = {
    "fails": (reply(500, error_document()), {}),
    "is refused": (reply(400, error_document()), {}),
    "is empty": (text(""), {}),
    "is only thought about": (text("<think>Hm.</think>"), {}),
    "comes too late": (silence(), {"request_timeout": 0.5}),
}


@pytest.mark.parametrize("kind", FAILURES)
def test_a_summary_that_fails_stops_no_turn(
    make_app: Callable[..., Flask], upstream: Upstream, database_url: str, kind: str
) -> None:
    """The oldest turns are left out, as without summaries, and the next turn has one made again."""
    failure, settings = FAILURES[kind]
    app = make_app(**settings)
    upstream.default = either(failure, text("Yes."))
    answers = talk(app, range(1, 18))
    assert answers[-1]["turn"] == 17
    assert answers[-1]["dropped_turns"] > 0
    assert session(database_url)["summary"] is None
    failed = summary_rows(database_url)
    assert len(failed) > 1
    assert {row["status"] for row in failed} <= {"error", "timeout"}
    upstream.default = summarising(text("Yes."))
    *_, last = talk(app, range(18, 20))
    assert (last["dropped_turns"], session(database_url)["summary_by"]) == (0, "model")
    assert facts(session(database_url)["summary"])[:2] == ["fact-1", "fact-2"]


def limited(database_url: str, limits: Limits) -> dict[str, Any]:
    return {"token": add_client(database_url, limits, "web")}


def test_a_summary_that_the_budget_cannot_pay_stops_no_turn(
    make_app: Callable[..., Flask], upstream: Upstream, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """It is refused like any request, and turns that cost less go on."""
    caplog.set_level("INFO")
    app = make_app(auth_mode="token", summary_model="gpt-4")
    members = limited(database_url, Limits(budget_nano=10_000_000, budget_period="month")) | {"max_tokens": 5}
    upstream.default = summarising(text("Yes."))
    answers = talk(app, range(1, 12), **members)
    assert answers[-1]["turn"] == 11
    assert not asked_for_summaries(upstream)
    assert not summary_rows(database_url)
    assert "code=budget_exceeded" in caplog.text


def test_a_summary_is_paid_by_the_budget(make_app: Callable[..., Flask], upstream: Upstream, database_url: str) -> None:
    """Of the client whose turn it is."""
    app = make_app(auth_mode="token")
    upstream.default = summarising(text("Yes."))
    talk(app, range(1, 12), **limited(database_url, Limits(budget_nano=10**9, budget_period="month")))
    (row,) = summary_rows(database_url)
    assert (row["client_name"], row["status"], row["api_key_source"]) == ("web", "ok", "default")
    assert row["period_start"] is not None


def test_a_summary_takes_no_turn_from_the_limits(
    make_app: Callable[..., Flask], upstream: Upstream, database_url: str
) -> None:
    """It counts against no rate, and while it is made it takes no place of the client's concurrency."""
    app = make_app(auth_mode="token")
    members = limited(database_url, Limits(requests_per_minute=17, concurrency=1)) | {"max_context_tokens": LIMIT}
    upstream.default = either(delayed(1.5, text("Late.")), text("Yes."))
    for number in range(1, 18):
        answer = say(app.test_client(), f"fact-{number} {WORDS}", **members)
        assert answer.status_code == 200, (number, answer.get_json())
    summaries_of(app).flush(20)
    assert summary_rows(database_url)
    assert say(app.test_client(), "One more.", **members).get_json()["code"] == "rate_limited"


def test_the_callers_key_pays_for_the_summary_of_its_turns(app: Flask, upstream: Upstream, database_url: str) -> None:
    upstream.default = summarising(text("Yes."))
    talk(app, range(1, 12), free_mode=False, openai_api_key=CALLER_KEY)
    (asked,) = [received for received in upstream.received if is_summary(received)]
    assert asked.key == CALLER_KEY
    (row,) = summary_rows(database_url)
    assert row["api_key_source"] == "user_provided"


def test_workers_pay_for_each_summary_once(
    make_app: Callable[..., Flask],
    upstream: Upstream,
    database_url: str,
    threads: ThreadPoolExecutor,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """However many want to make the same one at once: a row that is paid for is one change of the summary, in one line
    of the log."""
    caplog.set_level("INFO")
    apps = [make_app() for _ in range(4)]
    upstream.default = either(delayed(0.3, text("Once.")), text("Yes."))
    for number in range(1, 16):
        say(apps[0].test_client(), f"fact-{number} {WORDS}")
    settled(database_url)
    revision = session(database_url)["revision"]
    list(threads.map(lambda app: summaries_of(app).consider(DUE, LONG), apps * 4))
    for app in apps:
        summaries_of(app).flush(20)
    assert len(asked_for_summaries(upstream)) == len(summary_rows(database_url)) == 1
    assert session(database_url)["revision"] == revision + 1
    assert [record.getMessage().partition(" ")[0] for record in caplog.records].count("summary") == 1


def test_a_summary_is_made_of_what_the_session_is(app: Flask, database_url: str) -> None:
    """Where another worker has made one since it was read, the same turns would be paid for twice."""
    say(app.test_client(), "Hello.")
    database = service(Database, app)
    found = Sessions(database).conversation(0, "s-1", LIMIT)
    assert found is not None
    summary = Sessions(database).open_summary(found, "r-1", covers=1)
    database.write(summary.claim)
    with connected(database_url) as connection:
        connection.execute(sessions.update().values(summary_turns=1, revision=sessions.c.revision + 1))
    with pytest.raises(ChatServiceException):
        database.write(summary.claim)


def test_a_turn_that_ends_meanwhile_holds_up_no_summary(
    app: Flask, upstream: Upstream, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It changes the session between the look at it and the claim: then it is looked at again."""
    say(app.test_client(), f"fact-1 {WORDS * 4}", max_context_tokens=8000)
    settled(database_url)
    found, changes = Sessions.oldest, [1]

    def changed(self: Sessions, *args: Any) -> Any:
        with connected(database_url) as connection:
            connection.execute(
                sessions.update().values(revision=sessions.c.revision + (changes.pop() if changes else 0))
            )
        return found(self, *args)

    monkeypatch.setattr(Sessions, "oldest", changed)
    say(app.test_client(), f"fact-2 {WORDS * 4}", max_context_tokens=LIMIT)
    summaries_of(app).flush(20)
    assert session(database_url)["summary_turns"] == 1
    assert len(summary_rows(database_url)) == 1


def test_a_summary_that_turns_kept_from_beginning_is_made_behind_the_last(
    app: Flask, upstream: Upstream, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own turn found one being made already, and would leave it to a turn that never comes."""
    upstream.default = either(text("Late."), text("Yes."))
    summaries, looks = summaries_of(app), list[Due]()
    look = summaries._next

    def lost(due: Due) -> bool:
        looks.append(due)
        if len(looks) > CLAIMS:
            return look(due)
        if len(looks) == 1:
            say(app.test_client(), f"the last turn {WORDS}", max_context_tokens=LIMIT)
        raise session_busy()

    monkeypatch.setattr(summaries, "_next", lost)
    while not looks:
        say(app.test_client(), f"fact-1 {WORDS}", max_context_tokens=LIMIT)
    summaries.flush(20)
    assert session(database_url)["summary"] == "Late."


def test_a_callers_summary_is_not_overwritten(app: Flask, upstream: Upstream, database_url: str) -> None:
    """One that is made of what was there before is thrown away, though it was paid for."""
    upstream.default = either(delayed(1, text("Of the old one.")), text("Yes."))
    while not asked_for_summaries(upstream):
        say(app.test_client(), f"fact-1 {WORDS}", max_context_tokens=LIMIT)
    with connected(database_url) as connection:
        changed = {"summary": "My own.", "summary_turns": 0, "summary_by": "caller", "summary_request": None}
        connection.execute(sessions.update().values(**changed, revision=sessions.c.revision + 1))
    summaries_of(app).flush(20)
    assert session(database_url)["summary"] == "My own."
    (row,) = summary_rows(database_url)
    assert row["status"] == "ok"
    assert session(database_url)["input_tokens"] == sum(item["input_tokens"] for item in rows(database_url))


def test_a_session_that_was_deleted_gets_no_summary(app: Flask, upstream: Upstream, database_url: str) -> None:
    upstream.default = either(delayed(1, text("Of nothing.")), text("Yes."))
    while not asked_for_summaries(upstream):
        say(app.test_client(), f"fact-1 {WORDS}", max_context_tokens=LIMIT)
    with connected(database_url) as connection:
        connection.execute(turns.delete())
        connection.execute(sessions.delete())
    say(app.test_client(), "A new one.")
    summaries_of(app).flush(20)
    assert session(database_url)["summary"] is None
    assert summary_rows(database_url)[0]["status"] == "ok"


def test_a_long_history_is_summarised_in_parts(app: Flask, upstream: Upstream, database_url: str) -> None:
    """None of which is longer than half of the limit, however long one turn is."""
    history = [f"{role}: fact-{number} {WORDS}" for number in range(1, 41) for role in ("user", "assistant")]
    history[20] = "user: fact-11 " + "long " * 5000
    upstream.default = summarising(text("Yes."))
    answer = say(app.test_client(), "Go on.", conversation_history=history, max_context_tokens=LIMIT).get_json()
    assert answer["dropped_turns"] > 0
    summaries_of(app).flush(20)
    parts = asked_for_summaries(upstream)
    assert len(parts) > 4
    assert all(len(part.partition("</summary>")[2] or part) < 4 * LIMIT for part in parts)
    assert [found for part in parts for found in facts(part.rpartition("</summary>")[2])] == [
        f"fact-{number}" for number in range(1, session(database_url)["summary_turns"] + 1)
    ]


def test_a_summary_is_bounded(app: Flask, upstream: Upstream, database_url: str) -> None:
    """A quarter of the limit at most, whatever the model writes; what PostgreSQL cannot hold is left out."""
    upstream.default = either(text("\0" + "요" * 5000), text("Yes."))
    talk(app, range(1, 12))
    assert session(database_url)["summary"] in {"요" * (LIMIT // 4), "요" * (LIMIT // 4 - 1)}


def test_thoughts_are_no_part_of_it(app: Flask, upstream: Upstream, database_url: str) -> None:
    upstream.default = either(text("<think>\nLet me see.\n</think>\n\nThey talked."), text("Yes."))
    talk(app, range(1, 12))
    assert session(database_url)["summary"] == "They talked."


def test_a_small_limit_has_no_summary(app: Flask, upstream: Upstream) -> None:
    """It would take the room of the newest turns."""
    answers = talk(app, range(1, 10), max_context_tokens=100)
    assert answers[-1]["dropped_turns"] > 0
    assert not asked_for_summaries(upstream)


def test_a_stop_gives_a_summary_up(app: Flask, upstream: Upstream, database_url: str) -> None:
    """Its upstream is closed and its row settled; none is begun afterwards."""
    upstream.default = either(silence(), text("Yes."))
    while not asked_for_summaries(upstream):
        say(app.test_client(), f"fact-1 {WORDS}", max_context_tokens=LIMIT)
    summaries_of(app).stop(5)
    (row,) = summary_rows(database_url)
    assert (row["status"], row["code"]) == ("error", "server_shutting_down")
    say(app.test_client(), "Still served.", max_context_tokens=LIMIT)
    summaries_of(app).flush(5)
    assert len(asked_for_summaries(upstream)) == 1


def test_so_many_summaries_are_made_at_once(
    make_app: Callable[..., Flask], upstream: Upstream, database_url: str
) -> None:
    """And with a quarter of the slots at most; another session's is made after its next turn."""
    app = make_app(max_concurrent_requests=8)
    upstream.default = either(delayed(1, text("Late.")), text("Yes."))
    history = [f"{role}: {WORDS} {WORDS}" for _ in range(8) for role in ("user", "assistant")]
    for number in range(4):
        body = {"conversation_history": history, "max_context_tokens": LIMIT, "session": f"s-{number}"}
        assert say(app.test_client(), "Go on.", **body).status_code == 200
    summaries_of(app).flush(20)
    assert {row["session_id"] for row in summary_rows(database_url)} == {"s-0", "s-1"}
    assert say(app.test_client(), "Go on.", session="s-3", max_context_tokens=LIMIT).status_code == 200
    summaries_of(app).flush(20)
    assert {row["session_id"] for row in summary_rows(database_url)} == {"s-0", "s-1", "s-3"}


def test_no_summary_is_begun_while_the_server_drains(app: Flask, upstream: Upstream) -> None:
    service(Readiness, app).drain()
    talk(app, range(1, 12))
    assert not asked_for_summaries(upstream)


def test_a_quick_stop_gives_it_up(app: Flask, upstream: Upstream, database_url: str) -> None:
    """It is among the calls of the worker that are ended."""
    upstream.default = either(silence(), text("Yes."))
    while not asked_for_summaries(upstream):
        say(app.test_client(), f"fact-1 {WORDS}", max_context_tokens=LIMIT)
    service(Calls, app).end("shutting_down")
    summaries_of(app).flush(5)
    assert summary_rows(database_url)[0]["code"] == "server_shutting_down"


def test_summaries_are_counted_and_logged(app: Flask, upstream: Upstream, caplog: pytest.LogCaptureFixture) -> None:
    """By their route, in one line each that has nothing of what was said."""
    caplog.set_level("INFO")
    upstream.default = summarising(text("Yes."))
    talk(app, range(1, 12))
    found = app.test_client().get("/metrics").get_data(as_text=True)
    assert f'llm_server_requests_total{{code="-",origin="-",route="{SUMMARY}",status="200"}} 1.0' in found
    (line,) = [record.getMessage() for record in caplog.records if record.getMessage().startswith("summary ")]
    assert f"route={SUMMARY} code=- turns=" in line
    assert "fact" not in json.dumps([record.getMessage() for record in caplog.records])


def test_the_preview_has_the_summary(app: Flask, upstream: Upstream) -> None:
    upstream.default = summarising(text("Yes."))
    talk(app, range(1, 12))
    body = {"user_message": "x", "session_id": "s-1", "remember": True, "free_mode": True}
    shown = app.test_client().post("/api/v1/chat/preview", json=body).get_json()
    assert "Kept: fact-1 fact-2" in shown["upstream_body"]
    assert shown["tokens"]["summary"] > 0
