"""Characters over the API and the command line, on both stores: whose they are, versions, what a request becomes."""

from __future__ import annotations

import json
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config as AlembicConfig
from flask import Flask
from flask.testing import FlaskClient

from app.characters.characters import _NEWEST, CHARACTERS_MAX, Characters, _seen_by
from app.characters.files import FILE_MAX_BYTES
from app.ledger.accounts import Accounts, Limits
from app.store.database import Database
from app.store.tables import character_versions, characters
from app.web.services import service
from tests.cards import V2, V3, chunk, coded, plain, png
from tests.conftest import DIGEST_KEY, EVERY_STORE
from tests.records import connected, rows, settled
from tests.server import ROOT
from tests.streams import response_events, stream
from tests.upstream import Upstream, reply

ROUTE = "/api/v1/characters"
CHAT = "/api/v1/chat"
MINA = {
    "nickname": "미나",
    "description": "{{char}}는 {{user}}의 친구.",
    "role": "서점 주인",
    "speech_style": "해요체",
    "system_message": "당신은 {{char}}입니다.",
    "instructions": "짧게",
    "examples": [{"role": "user", "content": "안녕?"}, {"role": "assistant", "content": "어서 와요!"}],
    "model": "gpt-4o",
    "temperature": 0.3,
    "max_tokens": 77,
    "first_message": "{{user}} 왔어요?",
    "lore": [{"keywords": ["용"], "text": "용은 산에 산다."}],
}
VERSIONS = "INSERT INTO character_versions SELECT id, 1, 0, '{}' FROM characters WHERE name <> 'mina'"
TURN = {"character": "mina", "user_message": "hi", "free_mode": True}


def bearer(app: Flask, name: str, **limits: Any) -> dict[str, str]:
    """The header of a new client."""
    return {"Authorization": f"Bearer {service(Accounts, app).add(name, Limits(**limits))}"}


def sent(client: FlaskClient, turn: dict[str, Any], **options: Any) -> dict[str, Any]:
    """What a request would send upstream."""
    answer = client.post(f"{CHAT}/preview", json=turn, **options)
    assert answer.status_code == 200, answer.get_json()
    body: dict[str, Any] = json.loads(answer.get_json()["upstream_body"])
    return body


def codes(*answers: Any) -> list[tuple[int, str]]:
    return [(answer.status_code, answer.get_json()["code"]) for answer in answers]


@EVERY_STORE
class TestVersions:
    """What is put is kept, version by version."""

    def test_each_change_is_a_version(self, client: FlaskClient) -> None:
        """What changes nothing is none; old ones stay readable, by the route and in a request."""
        first = client.put(f"{ROUTE}/mina", json=MINA)
        assert first.status_code == 200
        told = first.get_json()
        assert {name: told[name] for name in MINA} == MINA
        assert (told["name"], told["version"], told["shared"]) == ("mina", 1, True)
        assert client.put(f"{ROUTE}/mina", json=told).get_json() == told
        assert client.put(f"{ROUTE}/mina", json=MINA | {"role": "마녀"}).get_json()["version"] == 2
        assert client.get(f"{ROUTE}/mina").get_json()["role"] == "마녀"
        assert client.get(f"{ROUTE}/mina?version=1").get_json() == told
        assert codes(client.get(f"{ROUTE}/mina?version=3")) == [(404, "character_not_found")]
        assert "마녀" in sent(client, TURN)["input"][0]["content"]
        assert "서점 주인" in sent(client, TURN | {"character": "mina@1"})["input"][0]["content"]

    def test_what_is_deleted_is_gone_and_counts_on(self, client: FlaskClient) -> None:
        """With all versions; a number in the ledger never means two."""
        for role in ("a", "b"):
            client.put(f"{ROUTE}/mina", json={"role": role})
        assert sent(client, TURN)
        assert client.delete(f"{ROUTE}/mina").status_code == 204
        gone = [client.get(f"{ROUTE}/mina"), client.get(f"{ROUTE}/mina?version=1"), client.delete(f"{ROUTE}/mina")]
        assert set(codes(*gone, client.post(CHAT, json=TURN))) == {(404, "character_not_found")}
        assert client.get(ROUTE).get_json() == {"characters": [], "next_cursor": None}
        assert client.put(f"{ROUTE}/mina", json={"role": "b"}).get_json()["version"] == 3

    def test_another_worker_speaks_with_the_new_version_soon(self, make_app: Callable[..., Flask]) -> None:
        """Within what a character is remembered for."""
        one, other = make_app().test_client(), make_app().test_client()
        one.put(f"{ROUTE}/mina", json={"role": "alt"})
        assert "alt" in sent(other, TURN)["input"][0]["content"]
        one.put(f"{ROUTE}/mina", json={"role": "neu"})
        assert "neu" in sent(one, TURN)["input"][0]["content"]
        time.sleep(0.6)
        assert "neu" in sent(other, TURN)["input"][0]["content"]

    def test_puts_at_once_are_numbered_in_order(self, make_app: Callable[..., Flask], threads: Any) -> None:
        """Of one name, by two workers: none is lost, none is doubled."""
        apps = [make_app(), make_app()]

        def put(number: int) -> Any:
            return apps[number % 2].test_client().put(f"{ROUTE}/mina", json={"role": str(number)})

        answers = list(threads.map(put, range(20)))
        assert [answer.status_code for answer in answers] == [200] * 20
        assert sorted(answer.get_json()["version"] for answer in answers) == list(range(1, 21))

    def test_the_oldest_versions_go(self, client: FlaskClient, database_url: str) -> None:
        """A program that puts one again and again does not fill the database."""
        client.put(f"{ROUTE}/mina", json={"role": "a"})
        with connected(database_url) as connection:
            (row,) = connection.execute(characters.select()).all()
            more = [{"character": row.id, "version": n, "created_at": 0, "body": "{}"} for n in range(2, 1001)]
            connection.execute(character_versions.insert(), more)
            connection.execute(characters.update().values(version=1000))
        assert client.get(f"{ROUTE}/mina?version=1").status_code == 200
        assert client.put(f"{ROUTE}/mina", json={"role": "b"}).get_json()["version"] == 1001
        assert codes(client.get(f"{ROUTE}/mina?version=1")) == [(404, "character_not_found")]
        assert client.get(f"{ROUTE}/mina?version=2").status_code == 200

    def test_versions_are_listed(self, client: FlaskClient) -> None:
        """The newest first, page by page, with when each was made; none of what was deleted."""
        assert codes(client.get(f"{ROUTE}/mina/versions")) == [(404, "character_not_found")]
        made = [client.put(f"{ROUTE}/mina", json={"role": str(n)}).get_json()["created_at"] for n in range(5)]
        found, cursor = [], None
        for _ in range(3):
            query = {"limit": 2} | ({"cursor": cursor} if cursor else {})
            page = client.get(f"{ROUTE}/mina/versions", query_string=query).get_json()
            found += page["versions"]
            cursor = page["next_cursor"]
        assert cursor is None
        assert found == [{"version": n, "created_at": made[n - 1]} for n in (5, 4, 3, 2, 1)]
        client.delete(f"{ROUTE}/mina")
        assert codes(client.get(f"{ROUTE}/mina/versions")) == [(404, "character_not_found")]

    def test_names(self, client: FlaskClient) -> None:
        """Of every script, in an address, in a request and in either of Unicode's forms."""
        for name in ("미나", "Dr. Who", "✨Luna✨", "मीना"):
            assert client.put(f"{ROUTE}/{quote(name)}", json={"role": name}).get_json()["name"] == name
            parts = unicodedata.normalize("NFD", name)
            assert client.get(f"{ROUTE}/{quote(parts)}").get_json()["role"] == name
            assert name in sent(client, TURN | {"character": parts})["input"][0]["content"]
        for name in ("<b>", "a@1", "-", "a%2Fb", "a\u202e"):
            answer = client.put(f"{ROUTE}/{quote(name)}", json={})
            assert answer.status_code in {404, 422}
            assert client.get(f"{ROUTE}/{quote(name)}").status_code == 404

    def test_pages(self, client: FlaskClient) -> None:
        """By name, each once."""
        for number in range(5):
            client.put(f"{ROUTE}/c{number}", json={})
        found, cursor = [], None
        for _ in range(3):
            page = client.get(ROUTE, query_string={"limit": 2} | ({"cursor": cursor} if cursor else {})).get_json()
            found += [one["name"] for one in page["characters"]]
            cursor = page["next_cursor"]
        assert (found, cursor) == ([f"c{number}" for number in range(5)], None)

    def test_characters_are_searched(self, client: FlaskClient) -> None:
        """By what their names begin with, to the letter, in either of Unicode's forms."""
        for name in ("mina", "Mina", "mi_a", "미나", "a mina", "mina 2"):
            assert client.put(f"{ROUTE}/{quote(name)}", json={}).status_code == 200

        def found(search: str, **query: Any) -> list[str]:
            page = client.get(ROUTE, query_string=query | {"search": search}).get_json()
            return [one["name"] for one in page["characters"]]

        assert found("mina") == ["mina", "mina 2"]
        assert found("mina", cursor="mina") == ["mina 2"]
        assert [found(search) for search in ("mi_", "%", "no")] == [["mi_a"], [], []]
        assert found(unicodedata.normalize("NFD", "미나")) == ["미나"]

    def test_there_is_a_bound(self, client: FlaskClient, database_url: str) -> None:
        """A client cannot fill the database with names; versions of what is there go on."""
        client.put(f"{ROUTE}/mina", json={})
        with connected(database_url) as connection:
            made = [{"client_id": None, "name": f"c{n}", "version": 1} for n in range(CHARACTERS_MAX)]
            connection.execute(characters.insert(), made)
            connection.exec_driver_sql(VERSIONS)
        refused = client.put(f"{ROUTE}/one-more", json={})
        assert "at most 10000" in refused.get_json()["errors"]["json"]["name"][0]
        assert client.put(f"{ROUTE}/mina", json={"role": "x"}).get_json()["version"] == 2


@EVERY_STORE
class TestOwners:
    """Whose characters are whose."""

    def test_a_client_sees_its_own_and_everybodys(self, make_app: Callable[..., Flask]) -> None:
        """Its own of a name wins; another client's is the same 404 as none."""
        app = make_app(auth_mode="token")
        client = app.test_client()
        admin, web, other = (bearer(app, name, admin=name == "admin") for name in ("admin", "web", "other"))
        assert codes(client.put(f"{ROUTE}/mina", json={})) == [(401, "unauthorized")]
        for role in ("of before", "everybody's"):
            client.put(f"{ROUTE}/mina", json={"role": role, "shared": True}, headers=admin)
        client.put(f"{ROUTE}/yuna?shared=true", json={"role": "everybody's"}, headers=admin)
        assert client.get(f"{ROUTE}/mina", headers=web).get_json()["role"] == "everybody's"
        own = client.put(f"{ROUTE}/mina", json={"role": "web's"}, headers=web).get_json()
        assert (own["version"], own["shared"]) == (1, False)
        client.put(f"{ROUTE}/secret", json={"role": "web's"}, headers=web)
        roles = [client.get(f"{ROUTE}/mina", headers=who).get_json()["role"] for who in (web, other, admin)]
        assert roles == ["web's", "everybody's", "everybody's"]
        assert client.get(f"{ROUTE}/mina?shared=true", headers=web).get_json()["role"] == "everybody's"
        assert "web's" in sent(client, TURN, headers=web)["input"][0]["content"]
        assert "everybody's" in sent(client, TURN, headers=other)["input"][0]["content"]
        secret = TURN | {"character": "secret"}
        hidden = [client.get(f"{ROUTE}/secret", headers=other), client.delete(f"{ROUTE}/secret", headers=other)]
        never = client.get(f"{ROUTE}/never", headers=other)
        assert set(codes(*hidden, never, client.post(CHAT, json=secret, headers=other))) == {
            (404, "character_not_found")
        }
        listed = [
            [(one["name"], one["shared"]) for one in client.get(ROUTE, headers=who).get_json()["characters"]]
            for who in (web, other)
        ]
        assert listed == [[("mina", False), ("secret", False), ("yuna", True)], [("mina", True), ("yuna", True)]]
        versions = [
            [one["version"] for one in client.get(f"{ROUTE}/{path}", headers=who).get_json().get("versions", [])]
            for path, who in (
                *(("mina/versions", web), ("mina/versions?shared=true", web), ("mina/versions", other)),
                ("secret/versions", other),
            )
        ]
        assert versions == [[1], [2, 1], [2, 1], []]
        client.delete(f"{ROUTE}/mina", headers=web)
        left = client.get(ROUTE, headers=web).get_json()["characters"]
        assert [(one["name"], one["shared"]) for one in left] == [("mina", True), ("secret", False), ("yuna", True)]
        assert "everybody's" in sent(client, TURN, headers=web)["input"][0]["content"]

    def test_only_an_admin_changes_what_is_everybodys(self, make_app: Callable[..., Flask]) -> None:
        """Whichever way it is asked for."""
        app = make_app(auth_mode="token")
        client = app.test_client()
        admin, web = bearer(app, "admin", admin=True), bearer(app, "web")
        client.put(f"{ROUTE}/mina?shared=true", json={}, headers=admin)
        tried = [
            client.put(f"{ROUTE}/mina", json={"shared": True}, headers=web),
            client.put(f"{ROUTE}/mina?shared=true", json={}, headers=web),
            client.delete(f"{ROUTE}/mina?shared=true", headers=web),
        ]
        assert codes(*tried) == [(403, "forbidden")] * 3
        assert codes(client.delete(f"{ROUTE}/mina", headers=web)) == [(404, "character_not_found")]
        assert client.delete(f"{ROUTE}/mina?shared=true", headers=admin).status_code == 204

    def test_a_clients_characters_go_with_it(self, make_app: Callable[..., Flask]) -> None:
        """A later client, which may have its number, has none of them."""
        app = make_app(auth_mode="token")
        headers = bearer(app, "web")
        app.test_client().put(f"{ROUTE}/mina", json={}, headers=headers)
        service(Accounts, app).delete("web")
        assert app.test_client().get(ROUTE, headers=bearer(app, "next")).get_json()["characters"] == []


@EVERY_STORE
class TestSpeaking:
    """What a request becomes, and what is written of it."""

    def test_the_whole_prompt(self, client: FlaskClient) -> None:
        """Its parts in order, its parameters, its examples and its first message."""
        client.put(f"{ROUTE}/mina", json=MINA)
        body = sent(client, TURN | {"user_message": "용 봤어?", "user_name": "도윤"})
        turns = [{"role": turn["role"], "content": turn["content"]} for turn in body["input"]]
        assert turns == [
            {
                "role": "system",
                "content": "당신은 미나입니다.\n\n#역할\n서점 주인\n\n#인물 설명\n미나는 도윤의 친구.\n\n#말투\n해요체"
                "\n\n#배경 지식\n- 용은 산에 산다.\n\n#추가 지시사항\n짧게",
            },
            {"role": "user", "content": "안녕?"},
            {"role": "assistant", "content": "어서 와요!"},
            {"role": "assistant", "content": "도윤 왔어요?"},
            {"role": "user", "content": "용 봤어?"},
        ]
        assert (body["model"], body["temperature"], body["max_output_tokens"]) == ("gpt-4o", 0.3, 77)
        assert body["instructions"] == "짧게"

    def test_the_requests_own_fields_win(self, client: FlaskClient) -> None:
        """And its history stands in the place of the first message."""
        client.put(f"{ROUTE}/mina", json=MINA)
        own = {"system_message": "s", "role": "r", "instructions": "i", "model": "m", "temperature": 0, "max_tokens": 5}
        body = sent(client, TURN | own | {"conversation_history": ["user: a", "assistant: b"]})
        system, *turns = body["input"]
        assert system["content"].startswith("s\n\n#역할\nr\n\n#인물 설명\n")
        assert [turn["content"] for turn in turns] == ["안녕?", "어서 와요!", "a", "b", "hi"]
        assert (body["model"], body["temperature"], body["max_output_tokens"]) == ("m", 0, 5)

    def test_without_a_character_nothing_changes(self, client: FlaskClient) -> None:
        """Not a byte, whatever characters there are."""
        plain_turn = {name: value for name, value in TURN.items() if name != "character"}
        before = client.post(f"{CHAT}/preview", json=plain_turn).get_json()
        client.put(f"{ROUTE}/mina", json=MINA)
        for nobody in ({}, {"character": None}, {"character": ""}, {"user_name": "도윤"}):
            assert client.post(f"{CHAT}/preview", json=plain_turn | nobody).get_json() == before
        assert set(before["tokens"]) == {"system", "role", "memory", "instructions", "history", "user"}

    @pytest.mark.parametrize(
        ("limit", "sent_turns"),
        [(1000, ["e1", "e2", "e3", "e4", "first"]), (12, ["e3", "e4", "first"]), (8, ["first"]), (5, [])],
    )
    def test_examples_are_left_out_first(self, client: FlaskClient, limit: int, sent_turns: list[str]) -> None:
        """Then the first message; none of them is a turn of the history."""
        examples = [{"role": ("user", "assistant")[n % 2], "content": f"e{n + 1}" + "가"} for n in range(4)]
        client.put(
            f"{ROUTE}/mina", json={"system_message": "가가", "examples": examples, "first_message": "first" + "나"}
        )
        answer = client.post(f"{CHAT}/preview", json=TURN | {"max_context_tokens": limit}).get_json()
        turns = [turn["content"].rstrip("가나") for turn in json.loads(answer["upstream_body"])["input"][1:-1]]
        assert (turns, answer["dropped_turns"]) == (sent_turns, 0)

    def test_history_goes_before_examples(self, client: FlaskClient) -> None:
        """A turn of the history is left out only where no example is sent."""
        examples = [{"role": "user", "content": "예"}, {"role": "assistant", "content": "예"}]
        client.put(f"{ROUTE}/mina", json={"system_message": "가", "examples": examples, "first_message": "나"})
        history = ["user: 다다다", "assistant: 라라라"]
        seen = []
        for limit in (11, 10, 9, 7, 4):
            turn = TURN | {"conversation_history": history, "max_context_tokens": limit}
            answer = client.post(f"{CHAT}/preview", json=turn).get_json()
            seen.append((answer["tokens"]["examples"], answer["tokens"]["history"], answer["dropped_turns"]))
        assert seen == [(2, 6, 0), (2, 6, 0), (0, 6, 0), (0, 0, 2), (0, 0, 2)]

    def test_preview_counts_each_part(self, client: FlaskClient) -> None:
        """The parts are together what is sent."""
        client.put(f"{ROUTE}/mina", json=MINA)
        answer = client.post(f"{CHAT}/preview", json=TURN | {"user_message": "용"}).get_json()
        tokens = answer["tokens"]
        assert tokens["examples"] == 2 + 1 + 4 + 1
        assert all(tokens[part] for part in ("description", "speech_style", "lore", "first_message", "role"))
        assert answer["total_tokens"] == sum(tokens.values())

    def test_the_ledger_and_the_answer_say_who_spoke(
        self, client: FlaskClient, upstream: Upstream, database_url: str
    ) -> None:
        """In which version; plain, streamed and when it failed."""
        for role in ("a", "b"):
            client.put(f"{ROUTE}/mina", json={"role": role})
        answer = client.post(CHAT, json=TURN, headers={"X-Request-ID": "one"}).get_json()
        assert answer["character"] == "mina@2"
        assert "character" not in client.post(CHAT, json={"user_message": "hi", "free_mode": True}).get_json()
        upstream.default = stream(response_events("hi"))
        streamed = client.post(CHAT, json=TURN | {"character": "mina@1", "stream": True})
        assert b'"character":"mina@1"' in streamed.data
        upstream.default = reply(400)
        assert client.post(CHAT, json=TURN).status_code == 400
        assert [row["character"] for row in settled(database_url)] == ["mina@2", None, "mina@1", "mina@2"]
        assert client.get("/api/v1/usage/requests/one").get_json()["character"] == "mina@2"
        assert [row["character"] for row in client.get("/api/v1/usage").get_json()["rows"]][-1] == "mina@2"

    def test_headings_and_the_users_name_are_settings(self, make_app: Callable[..., Flask]) -> None:
        """As the other headings are."""
        headings = {
            "prompt_heading_description": "# Who",
            "prompt_heading_speech_style": "# Speech",
            "prompt_heading_lore": "# Lore",
        }
        client = make_app(prompt_user_name="User", **headings).test_client()
        client.put(f"{ROUTE}/mina", json=MINA)
        system = sent(client, TURN | {"user_message": "용"})["input"][0]["content"]
        assert "# Who\n미나는 User의 친구.\n\n# Speech\n해요체\n\n# Lore\n- 용은 산에 산다.\n\n#추가" in system

    def test_the_cache_tells_what_was_said_apart(self, make_app: Callable[..., Flask], upstream: Upstream) -> None:
        """Versions, users and characters; the same again is a hit."""
        client = make_app(cache_enabled=True).test_client()

        def is_cached(**fields: str) -> bool:
            return bool(client.post(CHAT, json=TURN | fields).get_json()["cached"])

        client.put(f"{ROUTE}/mina", json={"role": "{{user}}"})
        client.put(f"{ROUTE}/yuna", json={"role": "other"})
        seen = [is_cached(), is_cached(), is_cached(user_name="도윤"), is_cached(character="yuna")]
        client.put(f"{ROUTE}/mina", json={"role": "{{user}}!"})
        seen += [is_cached(), is_cached(character="mina@1"), is_cached(character="mina@2")]
        assert seen == [False, True, False, False, False, True, True]

    def test_a_client_may_not_use_the_model_of_a_character_that_it_may_not_use(
        self, make_app: Callable[..., Flask]
    ) -> None:
        """What a character fills in is asked for like everything else."""
        app = make_app(auth_mode="token")
        headers = bearer(app, "web", models="gpt-4o-mini")
        client = app.test_client()
        client.put(f"{ROUTE}/mina", json={"model": "gpt-4o"}, headers=headers)
        assert codes(client.post(CHAT, json=TURN, headers=headers)) == [(403, "model_not_allowed")]
        assert client.post(CHAT, json=TURN | {"model": "gpt-4o-mini"}, headers=headers).status_code == 200

    @pytest.mark.parametrize("language", ["ko", "en"])
    def test_an_unknown_character(self, client: FlaskClient, database_url: str, language: str) -> None:
        """404 with a sentence in the caller's language, before anything is written or paid."""
        for name in ("mina", "mina@2", "<b>", "@", "a" * 80):
            answer = client.post(CHAT, json=TURN | {"character": name}, headers={"Accept-Language": language})
            assert codes(answer) == [(404, "character_not_found")]
            told = {"ko": "그런 이름이나 버전의 캐릭터가 없습니다.", "en": "There is no such character"}[language]
            assert told in answer.get_json()["error_message"]
        too_long = client.post(CHAT, json=TURN | {"character": "a" * 81})
        assert "character" in too_long.get_json()["errors"]["json"]
        assert rows(database_url) == []

    def test_a_crowd_looks_once(self, app: Flask, threads: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        """Requests that come at once wait for one look-up."""
        store = service(Characters, app)
        app.test_client().put(f"{ROUTE}/mina", json={})
        looked: list[str] = []
        show = store.show

        def slow(name: str, owner: int, *, version: int | None = None) -> Any:
            looked.append(name)
            time.sleep(0.2)
            return show(name, owner, version=version)

        monkeypatch.setattr(store, "show", slow)
        found = list(threads.map(lambda _: store.find("mina", 0).label, range(30)))
        assert (set(found), looked) == ({"mina@1"}, ["mina"])


@EVERY_STORE
class TestCards:
    """Cards come in and go out over the API."""

    @pytest.mark.parametrize("form", ["json", "png"])
    def test_a_card_is_put(self, client: FlaskClient, form: str) -> None:
        """As JSON or in a picture, under the name of the address."""
        if form == "json":
            answer = client.put(f"{ROUTE}/sera", json=V3)
        else:
            picture = png(plain(b"chara", coded(V2)), plain(b"ccv3", coded(V3)))
            answer = client.put(f"{ROUTE}/sera", data=picture, content_type="image/png")
        told = answer.get_json()
        assert (answer.status_code, told["name"], told["nickname"]) == (200, "sera", "Sera")
        assert "alternate_greetings" in told["left_out"]
        shown = client.get(f"{ROUTE}/sera").get_json()
        assert shown == {name: value for name, value in told.items() if name != "left_out"}
        content = sent(client, {"character": "sera", "user_message": "hi", "free_mode": True})["input"][0]["content"]
        assert content.startswith("당신은 도움이 되는 AI 어시스턴트입니다. You are Sera.")

    def test_a_card_is_given(self, client: FlaskClient) -> None:
        """And put again changes nothing."""
        client.put(f"{ROUTE}/mina", json=MINA)
        card = client.get(f"{ROUTE}/mina/card").get_json()
        assert card["spec"] == "chara_card_v2"
        again = client.put(f"{ROUTE}/mina", json=card).get_json()
        assert (again["version"], again["nickname"]) == (1, "미나")
        assert codes(client.get(f"{ROUTE}/x/card")) == [(404, "character_not_found")]

    def test_hostile_bodies(self, client: FlaskClient) -> None:
        """Each is refused with a clear 422 within a second, and nothing is kept."""
        entry = {"keys": ["a"], "content": "x", "insertion_order": 0}
        bodies: list[tuple[bytes, str]] = [
            (png(chunk(b"IDAT", bytes(50_000_000)), plain(b"chara", coded(V2))), "image/png"),
            (bytes(FILE_MAX_BYTES + 1), "application/json"),
            (b"GIF89a", "image/png"),
            (b'{"lore":' + b"[" * 100_000, "application/json"),
            (json.dumps({"lore": [{"text": "x"}] * 1000}).encode(), "application/json"),
            (json.dumps({"lore": [{"text": "x", "keywords": ["(a+)+$"]}]}).encode(), "application/json"),
            (
                coded_json(V2 | {"data": V2["data"] | {"character_book": {"entries": [entry] * 1000}}}),
                "application/json",
            ),
            (b'{"role":"a\\u0000"}', "application/json"),
        ]
        for body, kind in bodies:
            began = time.process_time()
            answer = client.put(f"{ROUTE}/mina", data=body, content_type=kind)
            assert time.process_time() - began < 1
            assert codes(answer) == [(422, "validation_error")], body[:40]
            assert len(answer.data) < 3000
        assert codes(client.put(f"{ROUTE}/mina", data=b"{", content_type="application/json")) == [(400, "invalid_json")]
        assert codes(client.put(f"{ROUTE}/mina", data=b"{}", content_type="text/plain")) == [
            (415, "unsupported_media_type")
        ]
        assert client.get(ROUTE).get_json()["characters"] == []


def coded_json(value: Any) -> bytes:
    return json.dumps(value).encode()


@EVERY_STORE
class TestCommands:
    """`flask characters …`."""

    def run(self, app: Flask, *args: str, fails: bool = False) -> str:
        result = app.test_cli_runner().invoke(args=["characters", *args])
        assert result.exit_code == int(fails), result.output
        return result.stderr if fails else result.stdout

    def test_files_come_and_go(self, app: Flask, tmp_path: Path) -> None:
        """TOML, JSON, and cards in both forms; what is exported is imported as the same."""
        files = {
            "mina.toml": 'name = "미나"\nrole = "서점 주인"\n'.encode(),
            "yuna.json": json.dumps(MINA | {"name": "yuna"}).encode(),
            "card.json": coded_json(V2),
            "card.png": png(plain(b"ccv3", coded(V3))),
        }
        for name, content in files.items():
            (tmp_path / name).write_bytes(content)
        assert self.run(app, "import", str(tmp_path / "mina.toml")) == "미나: version 1\n"
        assert self.run(app, "import", str(tmp_path / "yuna.json")) == "yuna: version 1\n"
        assert self.run(app, "import", str(tmp_path / "card.json")) == "Seraphina: version 1\n"
        assert self.run(app, "import", str(tmp_path / "card.png"), "--name", "sera") == "sera: version 1\n"
        listed = [line.split("  ")[0] for line in self.run(app, "list").splitlines()]
        assert sorted(listed) == ["Seraphina", "sera", "yuna", "미나"]
        for name in listed:
            for form in ([], ["--card"]):
                (tmp_path / "out.json").write_text(self.run(app, "export", name, *form))
                again = self.run(app, "import", str(tmp_path / "out.json"), *(["--name", name] if form else []))
                assert again == f"{name}: version 1\n"
        assert json.loads(self.run(app, "export", "sera@1", "--card"))["spec"] == "chara_card_v2"
        assert self.run(app, "delete", "sera") == "sera: deleted\n"
        assert app.test_client().get(f"{ROUTE}/yuna").get_json()["shared"] is True

    def test_a_clients_own(self, make_app: Callable[..., Flask], tmp_path: Path) -> None:
        """Named by the client."""
        app = make_app(auth_mode="token")
        headers = bearer(app, "web")
        (tmp_path / "x.json").write_text('{"name": "mina", "role": "web\'s"}')
        self.run(app, "import", str(tmp_path / "x.json"), "--client", "web")
        assert app.test_client().get(f"{ROUTE}/mina", headers=headers).get_json()["shared"] is False
        assert "  web" in self.run(app, "list", "--client", "web")
        assert self.run(app, "list") == ""
        assert "is not the name of a client" in self.run(app, "list", "--client", "nobody", fails=True)

    @pytest.mark.parametrize(
        ("content", "told"),
        [
            (png(chunk(b"IDAT", bytes(50_000_000))), "at most"),
            (png(), "carries no card"),
            (b"{", "is not JSON"),
            (b'{"name": "a", "lore": [{"text": "x", "keywords": ["/a/"]}]}', "lore 0 0 must be plain text"),
            (b'{"role": "x"}', "name must be given"),
            (b'{"name": "<b>"}', "name must be 1 to 64"),
            (b'{"name": "a", "mood": 1}', "mood Unknown field."),
        ],
        ids=lambda value: str(value[:20])[:20],
    )
    def test_mistakes(self, app: Flask, tmp_path: Path, content: bytes, told: str) -> None:
        """One line that says what is wrong, soon; nothing is kept."""
        (tmp_path / "x").write_bytes(content)
        began = time.process_time()
        error = self.run(app, "import", str(tmp_path / "x"), fails=True)
        assert time.process_time() - began < 1
        assert told in error
        assert len(error.splitlines()) == 1
        assert self.run(app, "list") == ""
        for args in (["export", "x"], ["export", "<b>"], ["delete", "x"]):
            assert len(self.run(app, *args, fails=True).splitlines()) == 1


@EVERY_STORE
def test_a_database_of_before(make_app: Callable[..., Flask], database_url: str) -> None:
    """Its rows stay, and nobody spoke in them."""
    app = make_app()
    assert app.test_client().post(CHAT, json={"user_message": "hi", "free_mode": True}).status_code == 200
    before = settled(database_url)
    service(Database, app).close()
    with connected(database_url) as connection:
        config = AlembicConfig()
        config.set_main_option("script_location", str(ROOT / "app" / "store" / "migrations"))
        config.attributes["connection"] = connection
        command.downgrade(config, "0007-1")
        assert not sa.inspect(connection).has_table("characters")
    newer = make_app().test_client()
    assert newer.put(f"{ROUTE}/mina", json={}).get_json()["version"] == 1
    assert newer.post(CHAT, json=TURN).status_code == 200
    after = settled(database_url)
    assert after[:1] == before
    assert after[1]["character"] == "mina@1"


def test_characters_are_copied(make_app: Callable[..., Flask], sqlite_url: str, postgresql_url: str) -> None:
    """With all versions and whose they are; new ones count on."""
    old = make_app(database_url=sqlite_url, auth_mode="token", token_digest_key=DIGEST_KEY)
    headers = bearer(old, "web")
    for role in ("a", "b"):
        old.test_client().put(f"{ROUTE}/mina", json={"role": role}, headers=headers)
    service(Database, old).close()
    assert old.test_cli_runner().invoke(args=["db", "copy", sqlite_url, postgresql_url]).exit_code == 0
    client = make_app(database_url=postgresql_url, auth_mode="token", token_digest_key=DIGEST_KEY).test_client()
    assert client.get(f"{ROUTE}/mina?version=1", headers=headers).get_json()["role"] == "a"
    assert client.put(f"{ROUTE}/mina", json={"role": "c"}, headers=headers).get_json()["version"] == 3
    assert client.put(f"{ROUTE}/yuna", json={}, headers=headers).get_json()["version"] == 1


def test_whose_name_hides_everybodys_is_found_by_an_index(database_url: str) -> None:
    """A page of a client's list, where it and everybody have ten thousand, takes no time."""
    with connected(database_url) as connection:
        text = str(_seen_by(7).compile(connection, compile_kwargs={"literal_binds": True}))
        plan = " ".join(str(row) for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {text}"))
    assert "SEARCH characters_1 USING INDEX characters_by_name (<expr>=? AND name=?)" in plan


@EVERY_STORE
def test_who_speaks_is_found_by_an_index(make_app: Callable[..., Flask], database_url: str) -> None:
    """One of ten thousand, as quickly as one of ten."""
    app = make_app()
    app.test_client().put(f"{ROUTE}/mina", json={})
    with connected(database_url) as connection:
        many = [{"client_id": None, "name": f"c{number}", "version": 1} for number in range(2000)]
        connection.execute(characters.insert(), many)
        connection.exec_driver_sql(VERSIONS)
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("ANALYZE")
        how = "EXPLAIN" if connection.dialect.name == "postgresql" else "EXPLAIN QUERY PLAN"
        asked = _NEWEST._clause.params(of_owner=7, of_name="mina")
        text = str(asked.compile(connection, compile_kwargs={"literal_binds": True}))
        plan = " ".join(str(row) for row in connection.exec_driver_sql(f"{how} {text}"))
    assert "characters_by_name" in plan
    assert "Seq Scan on characters" not in plan
    assert "SCAN characters" not in plan
