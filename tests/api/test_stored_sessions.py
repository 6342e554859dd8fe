"""The routes of sessions: a caller lists, reads, changes, exports, takes in and deletes its own, and finds no other."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from app.ledger.accounts import Accounts, Limits
from app.sessions import stored
from app.sessions.stored import StoredSessions
from app.store.database import Database
from app.store.tables import requests, sessions, turns
from app.web.services import service
from tests.api.test_sessions import heard, kept, say, wait_for
from tests.conftest import EVERY_STORE
from tests.records import connected, settled
from tests.streams import read_events, response_events, stream
from tests.upstream import Upstream, delayed, reply, text

SESSIONS = "/api/v1/sessions"
JSON_LINES = {"content_type": "application/x-ndjson"}
pytestmark = EVERY_STORE


def exported(client: FlaskClient, session: str = "s-1") -> list[Any]:
    answer = client.get(f"{SESSIONS}/{session}/export")
    assert (answer.status_code, answer.mimetype) == (200, "application/x-ndjson")
    return [json.loads(line) for line in answer.data.decode().split("\n")[:-1]]


def imported(client: FlaskClient, lines: list[Any], session: str = "copy") -> Any:
    body = "".join(f"{json.dumps(line)}\n" for line in lines)
    return client.post(f"{SESSIONS}/{session}/import", data=body, **JSON_LINES)


def talk(client: FlaskClient, number: int, session: str = "s-1") -> None:
    """A session of so many turns."""
    for turn in range(1, number + 1):
        assert say(client, f"question {turn}", session).status_code == 200


class TestReading:
    """What there is."""

    def test_sessions_are_listed(self, client: FlaskClient, upstream: Upstream) -> None:
        """That of the last turn first, page by page, each once."""
        assert client.get(SESSIONS).get_json() == {"sessions": [], "next_cursor": None}
        for name in ("a", "b", "c", "d", "e", "b"):
            talk(client, 1, name)
        names, cursor = [], None
        for _ in range(3):
            page = client.get(SESSIONS, query_string={"limit": 2} | ({"cursor": cursor} if cursor else {})).get_json()
            names += [(found["session_id"], found["turn_count"]) for found in page["sessions"]]
            cursor = page["next_cursor"]
        assert names == [("b", 2), ("e", 1), ("d", 1), ("c", 1), ("a", 1)]
        assert cursor is None

    def test_sessions_are_searched(self, client: FlaskClient) -> None:
        """By what their ids begin with, to the letter, in the same order and by the same pages."""
        for name in ("s-1", "S-1", "s%2", "s-10", "t-s-1", "s-2", "s_3"):
            talk(client, 1, name)

        def found(search: str, **query: Any) -> Any:
            page = client.get(SESSIONS, query_string=query | {"search": search}).get_json()
            return [one["session_id"] for one in page["sessions"]], page["next_cursor"]

        assert found("s-") == (["s-2", "s-10", "s-1"], None)
        assert [found(search)[0] for search in ("s%", "s_", "s-10", "s-3")] == [["s%2"], ["s_3"], ["s-10"], []]
        names, cursor = found("s-", limit=2)
        assert names == ["s-2", "s-10"]
        assert found("s-", limit=2, cursor=cursor) == (["s-1"], None)
        assert len(found("")[0]) == 7

    def test_a_session_is_shown(self, client: FlaskClient, upstream: Upstream, database_url: str) -> None:
        """With its turns in order and its bill, as the ledger has it."""
        upstream.script(text("Hello Mina."), text("You are Mina."))
        say(client, "I am Mina.")
        second = say(client, "Who am I?").get_json()
        shown = client.get(f"{SESSIONS}/s-1").get_json()
        booked = settled(database_url)
        assert shown["input_tokens"] == sum(row["input_tokens"] for row in booked)
        assert shown["output_tokens"] == sum(row["output_tokens"] for row in booked)
        assert float(shown["cost_usd"]) == pytest.approx(sum(row["cost_nano"] for row in booked) / 1e9)
        assert shown["requests_of_unknown_cost"] == 0
        assert (shown["title"], shown["metadata"], shown["summary"], shown["character"]) == ("", {}, None, None)
        assert [(turn["turn"], turn["user_message"], turn["response_text"]) for turn in shown["turns"]] == [
            (1, "I am Mina.", "Hello Mina."),
            (2, "Who am I?", "You are Mina."),
        ]
        last = shown["turns"][1]
        assert (last["request_id"], last["interrupted"]) == (second["request_id"], False)
        assert last["model"] == second["model"]
        assert shown["created_at"] <= shown["turns"][0]["created_at"] < shown["updated_at"] == last["created_at"]

    def test_turns_come_in_pages(self, client: FlaskClient) -> None:
        """From either end; each once, in order, and the cursor is null on the last page."""
        talk(client, 45)
        for order, wanted in (("oldest", range(1, 46)), ("newest", range(45, 0, -1))):
            numbers, query = [], {"limit": 22, "order": order}
            while True:
                page = client.get(f"{SESSIONS}/s-1", query_string=query).get_json()
                numbers.append([turn["turn"] for turn in page["turns"]])
                if page["next_cursor"] is None:
                    break
                query["cursor"] = page["next_cursor"]
            assert [len(found) for found in numbers] == [22, 22, 1]
            assert [number for found in numbers for number in found] == list(wanted)

    def test_a_page_of_long_turns_is_shorter(self, app: Flask, client: FlaskClient, upstream: Upstream) -> None:
        """A page is bounded in size as well, and has one turn at least."""
        talk(client, 3)
        upstream.script(text("long " * 20))
        say(client, "more")
        short = StoredSessions(service(Database, app), page_characters=30)
        pages = [short.show(0, "s-1", cursor=cursor) for cursor in (None, 2, 3)]
        numbers = [([turn["turn"] for turn in page["turns"]], page["next_cursor"]) for page in pages]
        assert numbers == [([1, 2], 2), ([3, 4], None), ([4], None)]
        assert b"".join(short.export(0, "s-1")).count(b"\n") == 5

    @pytest.mark.parametrize(
        "path",
        ["?cursor=x", "?cursor=1-", "?cursor=99999999999999999-1", "?limit=0", "?limit=501", "?since=1", "?search=%00"],
    )
    def test_a_query_is_read_strictly(self, client: FlaskClient, path: str) -> None:
        """Another name would be ignored, and the answer would not be what was asked for."""
        talk(client, 1)
        for address in (SESSIONS, f"{SESSIONS}/s-1"):
            answer = client.get(address + path)
            assert answer.status_code == 422, address
            assert answer.get_json()["errors"].keys() == {"query"}

    def test_lists_use_an_index(self, app: Flask, database_url: str) -> None:
        """However many sessions and turns there are: no row is read that is not in the page, and nothing is sorted."""
        if not database_url.startswith("sqlite"):
            return
        by_age, of_turns = "sessions USING INDEX sessions_by_age", "turns USING INDEX sqlite_autoindex_turns_1"
        queries = {
            stored.listing(0, None, 100): f"SEARCH {by_age} (owner=?)",
            stored.listing(0, (1, 1), 100): f"SEARCH {by_age} (owner=? AND updated_at<?)",
            stored.turns_from(1, None, False): f"SEARCH {of_turns} (session=?)",
            stored.turns_from(1, 5, False): f"SEARCH {of_turns} (session=? AND number>?)",
            stored.turns_from(1, 5, True): f"SEARCH {of_turns} (session=? AND number<?)",
        }
        service(StoredSessions, app).page(0)
        with connected(database_url) as connection:
            for query, plan in queries.items():
                text_of = query.compile(connection, compile_kwargs={"literal_binds": True})
                found = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text_of}").all()
                assert [row.detail for row in found] == [plan]


class TestOwners:
    """Whose sessions are whose."""

    REQUESTS = (
        ("GET", "", {}),
        ("GET", "/export", {}),
        ("PATCH", "", {"json": {"title": "mine"}}),
        ("DELETE", "", {}),
        ("PUT", "/summary", {"json": {"text": "x", "covers": 1}}),
        ("DELETE", "/summary", {}),
    )

    def test_another_owners_session_is_as_none(self, make_app: Callable[..., Flask], database_url: str) -> None:
        """The same 404 to the byte, for other clients and for admins, and nothing of it changes."""
        app = make_app(auth_mode="token")
        client = app.test_client()
        accounts = service(Accounts, app)
        tokens = {name: accounts.add(name, Limits(admin=name == "root")) for name in ("mina", "jun", "root")}
        assert say(client, "I am Mina.", "s-1", tokens["mina"]).status_code == 200
        before = kept(database_url)
        for method, path, sent in self.REQUESTS:
            for who in ("jun", "root"):
                headers = {"Authorization": f"Bearer {tokens[who]}", "X-Request-ID": "r"}
                answers = [
                    client.open(f"{SESSIONS}/{name}{path}", method=method, headers=headers, **sent)
                    for name in ("s-1", "never", "..%00", "x" * 129)
                ]
                assert {(answer.status_code, answer.data) for answer in answers} == {(404, answers[0].data)}
                assert answers[0].get_json()["code"] == "session_not_found"
        for who in ("jun", "root"):
            listed = client.get(SESSIONS, headers={"Authorization": f"Bearer {tokens[who]}"}).get_json()
            assert listed["sessions"] == []
        assert kept(database_url) == before

    def test_sessions_end_with_their_client(self, make_app: Callable[..., Flask], database_url: str) -> None:
        """A client that comes later may have the same number, and must not find them."""
        app = make_app(auth_mode="token")
        client, accounts = app.test_client(), service(Accounts, app)
        say(client, "I am Mina.", "s-1", accounts.add("mina", Limits()))
        settled(database_url)
        accounts.delete("mina")
        assert kept(database_url) == []
        headers = {"Authorization": f"Bearer {accounts.add('jun', Limits())}"}
        assert client.get(SESSIONS, headers=headers).get_json()["sessions"] == []

    def test_sessions_can_be_off(self, make_app: Callable[..., Flask], client: FlaskClient) -> None:
        """Then each route names the setting, whatever is there."""
        talk(client, 1)
        closed = make_app(sessions=False).test_client()
        lines = client.get(f"{SESSIONS}/s-1/export").data
        asked = [closed.open(f"{SESSIONS}/s-1{path}", method=method, **sent) for method, path, sent in self.REQUESTS]
        asked += [closed.get(SESSIONS), closed.post(f"{SESSIONS}/s-2/import", data=lines, **JSON_LINES)]
        for answer in asked:
            assert answer.status_code == 422
            assert "SESSIONS" in answer.get_json()["detail"]
            assert "SESSIONS" in answer.get_json()["error_message"]
        assert client.get(f"{SESSIONS}/s-1").status_code == 200


class TestChanging:
    """Title, metadata and summary."""

    def test_title_and_metadata(self, client: FlaskClient) -> None:
        """What is not given stays; metadata are replaced as a whole; the order of sessions stays."""
        talk(client, 1, "first")
        talk(client, 1, "second")
        pairs = {f"k{number}": "값" for number in range(16)}
        changed = client.patch(f"{SESSIONS}/first", json={"title": "서울 🙂", "metadata": pairs}).get_json()
        assert (changed["title"], changed["metadata"]) == ("서울 🙂", pairs)
        assert client.patch(f"{SESSIONS}/first", json={"metadata": {"a": ""}}).get_json()["title"] == "서울 🙂"
        assert client.patch(f"{SESSIONS}/first", json={"title": ""}).get_json()["metadata"] == {"a": ""}
        assert client.patch(f"{SESSIONS}/first", json={"metadata": {}}).get_json()["metadata"] == {}
        assert [found["session_id"] for found in client.get(SESSIONS).get_json()["sessions"]] == ["second", "first"]

    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("title", "x" * 257),
            ("title", "a\nb"),
            ("title", "\ud800"),
            ("title", None),
            ("title", 1),
            ("metadata", {f"k{number}": "" for number in range(17)}),
            ("metadata", {"": "x"}),
            ("metadata", {"k" * 65: "x"}),
            ("metadata", {"k": "x" * 513}),
            ("metadata", {"k": 1}),
            ("metadata", {"k": None}),
            ("metadata", {"k": "\x00"}),
            ("metadata", ["k"]),
            ("metadata", None),
            ("owner", 0),
        ],
    )
    def test_what_cannot_be_written(self, client: FlaskClient, field: str, value: Any) -> None:
        """It is named, and nothing is changed."""
        talk(client, 1)
        body = json.dumps({"title": "new", "metadata": {"new": "x"}} | {field: value})
        answer = client.patch(f"{SESSIONS}/s-1", data=body, content_type="application/json")
        assert answer.status_code == 422
        assert answer.get_json()["errors"]["json"].keys() == {field}
        assert client.get(f"{SESSIONS}/s-1").get_json()["title"] == ""

    def test_a_summary_is_replaced(self, client: FlaskClient, upstream: Upstream) -> None:
        """It is sent in the place of the turns that it covers, which stay; without it they are sent again."""
        talk(client, 3)
        put = client.put(f"{SESSIONS}/s-1/summary", json={"text": "They greeted.", "covers": 2})
        assert put.status_code == 200
        shown = client.get(f"{SESSIONS}/s-1").get_json()
        assert shown["summary"] == put.get_json()
        assert (put.get_json()["covers"], put.get_json()["by"], put.get_json()["model"]) == (2, "caller", None)
        assert len(shown["turns"]) == 3
        assert say(client, "next").get_json()["summarised_turns"] == 2
        assert [content for role, content in heard(upstream) if role == "user"] == ["question 3", "next"]
        assert "They greeted." in upstream.received[-1].body.decode()
        for _ in range(2):
            assert client.delete(f"{SESSIONS}/s-1/summary").status_code == 204
        assert say(client, "again").get_json()["summarised_turns"] == 0
        assert len(heard(upstream)) == 9
        assert client.get(f"{SESSIONS}/s-1").get_json()["summary"] is None

    @pytest.mark.parametrize(
        ("given", "field"),
        [
            ({"text": "x", "covers": 2}, "covers"),
            ({"text": "x", "covers": 0}, "covers"),
            ({"text": "x", "covers": "1"}, "covers"),
            ({"text": "x"}, "covers"),
            ({"text": " ", "covers": 1}, "text"),
            ({"text": "x" * 32_001, "covers": 1}, "text"),
            ({"text": "\x00", "covers": 1}, "text"),
            ({"covers": 1}, "text"),
            ({"text": "x", "covers": 1, "by": "me"}, "by"),
        ],
    )
    def test_what_is_no_summary(self, client: FlaskClient, given: Any, field: str) -> None:
        """It is named."""
        talk(client, 1)
        answer = client.put(f"{SESSIONS}/s-1/summary", json=given)
        assert answer.status_code == 422
        assert answer.get_json()["errors"]["json"].keys() == {field}

    def test_what_a_prompt_is_made_of_has_a_revision(self, client: FlaskClient, database_url: str) -> None:
        """A turn that was read before the change is made anew; a title changes no prompt."""
        talk(client, 1)

        def revision() -> int:
            with connected(database_url) as connection:
                found: int = connection.execute(sa.select(sessions.c.revision)).scalar_one()
            return found

        seen = [revision()]
        client.patch(f"{SESSIONS}/s-1", json={"title": "x"})
        seen.append(revision())
        client.put(f"{SESSIONS}/s-1/summary", json={"text": "x", "covers": 1})
        seen.append(revision())
        client.delete(f"{SESSIONS}/s-1/summary")
        seen.append(revision())
        assert [number - seen[0] for number in seen] == [0, 0, 1, 2]


class TestWhileATurnGoesOn:
    """Another request works on the session meanwhile."""

    @pytest.fixture
    def slow(self, app: Flask, upstream: Upstream, threads: ThreadPoolExecutor) -> Callable[..., Any]:
        """Begins a turn that is answered in half a second."""

        def begin(**members: Any) -> Any:
            before = len(upstream.received)
            upstream.script(delayed(0.5, text("Late.")))
            turn = threads.submit(say, app.test_client(), "secret", **members)
            wait_for(lambda: len(upstream.received) > before)
            return turn

        return begin

    def test_a_deletion_wins(self, client: FlaskClient, slow: Callable[..., Any], database_url: str) -> None:
        """The answer comes, without a number, and is paid for; neither the next session nor any other has the turn."""
        talk(client, 2)
        turn = slow()
        assert client.delete(f"{SESSIONS}/s-1").status_code == 204
        assert say(client, "anew").get_json()["turn"] == 1
        answer = turn.result().get_json()
        assert answer["response_text"] == "Late."
        assert "turn" not in answer
        assert [row["user_text"] for row in kept(database_url)] == ["anew"]
        assert [row["status"] for row in settled(database_url)] == ["ok"] * 4

    def test_a_first_turn_can_be_deleted(
        self, client: FlaskClient, slow: Callable[..., Any], database_url: str
    ) -> None:
        """Its session is none yet, and becomes none."""
        turn = slow()
        assert client.get(f"{SESSIONS}/s-1").status_code == 404
        assert client.delete(f"{SESSIONS}/s-1").status_code == 204
        assert "turn" not in turn.result().get_json()
        assert kept(database_url) == []
        assert client.get(f"{SESSIONS}/s-1").status_code == 404

    def test_the_memory_server_hears_nothing_of_a_deleted_turn(
        self, make_app: Callable[..., Flask], upstream: Upstream, threads: ThreadPoolExecutor
    ) -> None:
        """It would remember what is to be forgotten."""
        with Upstream() as memory:
            memory.default = reply(200, [])
            client = make_app(memory_url=memory.base_url).test_client()
            upstream.script(delayed(0.5, text("Late.")))
            turn = threads.submit(say, client.application.test_client(), "secret")
            wait_for(lambda: bool(upstream.received))
            client.delete(f"{SESSIONS}/s-1")
            turn.result()
            say(client, "known", "s-2")
            wait_for(lambda: any(told.method == "POST" for told in memory.received))
            assert [told.json["user_message"] for told in memory.received if told.method == "POST"] == ["known"]

    def test_a_streamed_turn_can_be_deleted(self, client: FlaskClient, upstream: Upstream, database_url: str) -> None:
        """Its last event has no number."""
        talk(client, 1)
        upstream.script(stream(response_events("a", "b", "c"), pause=0.1))
        answer = client.post(
            "/api/v1/chat",
            json={"user_message": "x", "session_id": "s-1", "remember": True, "free_mode": True, "stream": True},
            buffered=False,
        )
        client.delete(f"{SESSIONS}/s-1")
        name, last = read_events(answer.data)[-1]
        assert (name, last["response_text"]) == ("done", "abc")
        assert "turn" not in last
        assert kept(database_url) == []

    def test_a_change_is_kept(self, client: FlaskClient, slow: Callable[..., Any]) -> None:
        """And so is the turn."""
        talk(client, 1)
        turn = slow()
        assert client.patch(f"{SESSIONS}/s-1", json={"title": "named"}).status_code == 200
        assert client.put(f"{SESSIONS}/s-1/summary", json={"text": "short", "covers": 1}).status_code == 200
        assert turn.result().get_json()["turn"] == 2
        shown = client.get(f"{SESSIONS}/s-1").get_json()
        assert (shown["title"], shown["summary"]["text"], shown["turn_count"]) == ("named", "short", 2)

    def test_an_import_waits_for_nobody(self, client: FlaskClient, slow: Callable[..., Any]) -> None:
        """Where a first turn goes on it is 409, which says when to come again; where there are turns it is another."""
        talk(client, 1, "other")
        lines = exported(client, "other")
        turn = slow()
        answer = imported(client, lines, "s-1")
        assert (answer.status_code, answer.get_json()["code"]) == (409, "session_busy")
        assert int(answer.headers["Retry-After"]) >= 1
        assert turn.result().get_json()["turn"] == 1
        answer = imported(client, lines, "s-1")
        assert (answer.status_code, answer.get_json()["code"]) == (409, "session_exists")
        assert exported(client)[1]["user_message"] == "secret"


class TestCarrying:
    """Out of a server and into one."""

    def test_an_export_is_taken_back(self, client: FlaskClient, upstream: Upstream, database_url: str) -> None:
        """With all its texts, title, metadata and summary, and talked on; the bill and the requests stay behind."""
        say(client, "one\n두", conversation_history=["assistant: Welcome!", "user: Hi.", "user: There?"])
        talk(client, 2)
        client.patch(f"{SESSIONS}/s-1", json={"title": "T\u2028", "metadata": {"a": "b"}})
        client.put(f"{SESSIONS}/s-1/summary", json={"text": "short", "covers": 3})
        lines = exported(client)
        answer = imported(client, lines)
        assert answer.status_code == 201
        assert answer.get_json()["session_id"] == "copy"
        copied = exported(client, "copy")
        here = ("session_id", "updated_at", "input_tokens", "output_tokens", "cost_usd")
        assert {name: copied[0][name] for name in lines[0] if name not in (*here, "summary")} == {
            name: lines[0][name] for name in lines[0] if name not in (*here, "summary")
        }
        assert (copied[0]["summary"]["text"], copied[0]["summary"]["covers"]) == ("short", 3)
        assert (copied[0]["cost_usd"], copied[0]["input_tokens"]) == ("0", 0)
        assert copied[1:] == [turn | {"request_id": None} for turn in lines[1:]]
        assert say(client, "next", "copy").get_json()["turn"] == len(lines)
        sent = heard(upstream)
        say(client, "next")
        assert heard(upstream) == sent
        assert [found["session_id"] for found in client.get(SESSIONS).get_json()["sessions"]] == ["s-1", "copy"]

    def test_a_long_session(self, client: FlaskClient) -> None:
        """More turns than are read or written at once."""
        lines = [{"format": "llm-server-session", "version": 1}]
        lines += [{"user_message": f"q{number}", "response_text": "a"} for number in range(1, 1501)]
        assert imported(client, lines, "long").get_json()["turn_count"] == 1500
        assert [line["user_message"] for line in exported(client, "long")[1:]] == [f"q{n}" for n in range(1, 1501)]

    def test_an_export_of_what_is_deleted_breaks_off(self, client: FlaskClient, app: Flask) -> None:
        """It does not look whole."""
        talk(client, 3)
        answer = client.get(f"{SESSIONS}/s-1/export", buffered=False)
        lines = iter(answer.response)
        assert b'"turn_count":3' in next(lines)
        client.delete(f"{SESSIONS}/s-1")
        with pytest.raises(Exception, match="no such session"):
            list(lines)

    def test_an_import_is_json_lines(self, client: FlaskClient) -> None:
        """Under one of the names that programs give it; and has a name that a session may have."""
        talk(client, 1)
        body = client.get(f"{SESSIONS}/s-1/export").data
        for kind, status in (("application/jsonl", 201), ("application/json", 415), ("text/plain", 415)):
            answer = client.post(f"{SESSIONS}/{kind[-4:]}/import", data=body, content_type=kind)
            assert answer.status_code == status, kind
            assert ("application/x-ndjson" in answer.get_json().get("error_message", "")) == (status == 415)
        for name in ("a%00b", "x" * 129, "a%5Cb", "%0A"):
            answer = client.post(f"{SESSIONS}/{name}/import", data=body, **JSON_LINES)
            assert answer.status_code == 422, name
            assert answer.get_json()["errors"]["path"].keys() == {"session_id"}

    def test_an_import_is_bounded(self, make_app: Callable[..., Flask]) -> None:
        """As every body is."""
        client = make_app(max_request_bytes=2000).test_client()
        answer = imported(client, [{"format": "llm-server-session", "version": 1}, {"user_message": "x" * 2000}])
        assert (answer.status_code, answer.get_json()["code"]) == (413, "request_too_large")


def test_usage_by_session(client: FlaskClient, upstream: Upstream, database_url: str) -> None:
    """The sums of each session, that of the newest request first and page by page; rows and sums of one session."""
    for name, number in (("a", 3), ("b", 1), ("c", 2)):
        talk(client, number, name)
    settled(database_url)

    def usage(**query: Any) -> Any:
        return client.get("/api/v1/usage", query_string=query).get_json()

    totals = usage(by="session")
    assert [(total["key"], total["requests"]) for total in totals["totals"]] == [("c", 2), ("b", 1), ("a", 3)]
    assert totals["next_cursor"] is None
    first = usage(by="session", limit=2)
    second = usage(by="session", limit=2, cursor=first["next_cursor"])
    assert first["totals"] + second["totals"] == totals["totals"]
    assert second["next_cursor"] is None
    assert [row["session_id"] for row in usage(session_id="a")["rows"]] == ["a"] * 3
    assert [total["requests"] for total in usage(session_id="a", by="day")["totals"]] == [3]
    assert [total["key"] for total in usage(session_id="a", by="session")["totals"]] == ["a"]
    assert usage(session_id="none")["rows"] == []
    for wrong in ({"session_id": "x" * 129}, {"session_id": "\x00"}, {"client": "\x00"}):
        assert client.get("/api/v1/usage", query_string=wrong).status_code == 422


def test_a_session_and_the_ledger_say_the_same(client: FlaskClient, upstream: Upstream, database_url: str) -> None:
    """What a session has cost is what its requests have cost."""
    talk(client, 3)
    settled(database_url)
    (total,) = client.get("/api/v1/usage?by=session").get_json()["totals"]
    shown = client.get(f"{SESSIONS}/s-1").get_json()
    for name in ("input_tokens", "output_tokens", "cost_usd"):
        assert shown[name] == total[name]


def test_ids_are_not_used_again(client: FlaskClient, database_url: str) -> None:
    """A turn that began before a deletion must not find another session in its place."""
    ids = []
    for _ in range(2):
        talk(client, 1)
        with connected(database_url) as connection:
            ids.append(connection.execute(sa.select(sessions.c.id)).scalar_one())
            assert connection.execute(sa.select(sa.func.count()).select_from(turns)).scalar() == 1
        client.delete(f"{SESSIONS}/s-1")
    assert ids[1] > ids[0]
    with connected(database_url) as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(turns)).scalar() == 0
        assert connection.execute(sa.select(sa.func.count()).select_from(requests)).scalar() == 2


def test_with_a_key_all_texts_are_sealed(make_app: Callable[..., Flask], database_url: str) -> None:
    """What is written by these routes as well, and who calls reads it as before. Where the key is missing the session
    is listed without its title, is not exported, and can be deleted."""
    client = make_app(session_key="k" * 40).test_client()
    header = {"format": "llm-server-session", "version": 1, "title": "SECRET t", "metadata": {"a": "SECRET m"}}
    header |= {"summary": {"text": "SECRET s", "covers": 1}}
    lines = [header, {"user_message": "SECRET q", "response_text": "SECRET a"}]
    assert imported(client, lines, "in").get_json()["title"] == "SECRET t"
    talk(client, 1)
    client.patch(f"{SESSIONS}/s-1", json={"title": "SECRET t", "metadata": {"a": "SECRET m"}})
    assert (
        client.put(f"{SESSIONS}/s-1/summary", json={"text": "SECRET s", "covers": 1}).get_json()["text"] == "SECRET s"
    )
    with connected(database_url) as connection:
        for table in (sessions, turns):
            assert "SECRET" not in str(connection.execute(table.select()).all())
    assert (exported(client, "in")[0]["summary"]["text"], exported(client, "in")[1]["user_message"]) == (
        "SECRET s",
        "SECRET q",
    )
    keyless = make_app().test_client()
    talk(keyless, 1, "plain")
    listed = keyless.get(SESSIONS).get_json()["sessions"]
    assert [(found["session_id"], found["title"], found["metadata"]) for found in listed] == [
        ("plain", "", {}),
        ("s-1", None, None),
        ("in", None, None),
    ]
    for path in ("", "/export"):
        answer = keyless.get(f"{SESSIONS}/in{path}")
        assert (answer.status_code, answer.get_json()["code"]) == (500, "session_unreadable")
    assert keyless.patch(f"{SESSIONS}/in", json={"title": "new"}).get_json()["code"] == "session_unreadable"
    assert exported(client, "in")[0]["title"] == "SECRET t"
    assert keyless.delete(f"{SESSIONS}/in").status_code == 204
