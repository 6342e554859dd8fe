"""Responses that the upstream stores are continued by the client that made them, and by no other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from app.ledger.accounts import Accounts, Limits
from app.upstreams.fleet import Fleet
from app.web.services import service
from tests.conftest import CALLER_KEY, EVERY_STORE
from tests.records import settled
from tests.streams import completed, stream, typed
from tests.upstream import Upstream, error_document, reply, response_document

RESPONSES = "/v1/responses"
FREE = {"X-Free-Mode": "true"}


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Flask:
    return make_app(auth_mode="token")


def client_of(app: Flask, name: str, **limits: Any) -> Callable[..., TestResponse]:
    """Sends requests to `/v1/responses` as one client."""
    token = service(Accounts, app).add(name, Limits(**limits))

    def send(headers: dict[str, str] = FREE, **members: Any) -> TestResponse:
        body = {"model": "gpt-4o-mini", "input": "hi"} | members
        answer = app.test_client().post(RESPONSES, json=body, headers=headers | {"Authorization": f"Bearer {token}"})
        answer.get_data()
        return answer

    return send


def answered(response_id: str) -> Any:
    return reply(200, response_document("x", id=response_id))


@EVERY_STORE
@pytest.mark.parametrize("streamed", [False, True])
def test_a_response_is_continued_by_its_client(
    app: Flask, upstream: Upstream, database_url: str, streamed: bool
) -> None:
    """Plain or streamed; for another client it is as unknown as one that never was, and upstream is not asked."""
    ours, theirs = client_of(app, "ours"), client_of(app, "theirs")
    created = typed("response.created", response={"id": "resp_7", "object": "response", "status": "in_progress"})
    upstream.default = stream([created, completed("x", id="resp_7")]) if streamed else answered("resp_7")
    assert ours(stream=streamed).status_code == 200
    upstream.default = answered("resp_8")
    assert ours(previous_response_id="resp_7").status_code == 200
    asked = len(upstream.received)
    for stranger in (theirs(previous_response_id="resp_7"), ours(previous_response_id="resp_none")):
        error = stranger.get_json()["error"]
        assert (stranger.status_code, error["code"]) == (404, "response_not_found")
        assert error["param"] == "previous_response_id"
    assert ours(conversation="conv_1").status_code == 404
    assert len(upstream.received) == asked
    assert len(settled(database_url)) == 2


def test_a_key_of_ones_own_knows_its_own_conversations(app: Flask, upstream: Upstream) -> None:
    """Nothing is refused here; but with free mode the server's key might come to pay, so it is."""
    send = client_of(app, "web")
    upstream.default = answered("resp_1")
    own = {"X-OpenAI-Api-Key": CALLER_KEY}
    assert send(own, previous_response_id="resp_elsewhere").status_code == 200
    assert send(own | FREE, previous_response_id="resp_elsewhere").status_code == 404


def test_the_conversation_before_counts(app: Flask, upstream: Upstream, database_url: str) -> None:
    """What upstream reads again is reserved for."""
    send = client_of(app, "web", budget_nano=10**9, budget_period="day")
    usage = {"input_tokens": 300_000, "output_tokens": 5, "total_tokens": 300_005}
    upstream.default = reply(200, response_document("x", id="resp_1", usage=usage))
    assert send(max_output_tokens=1).status_code == 200
    assert send(max_output_tokens=1, previous_response_id="resp_1").status_code == 200
    first, second = settled(database_url)
    assert second["reserved_nano"] - first["reserved_nano"] >= 300_005 * 150


def test_in_open_mode_there_are_no_clients_to_tell_apart(make_app: Callable[..., Flask], upstream: Upstream) -> None:
    """Everybody is one."""
    upstream.default = answered("resp_1")
    body = {"model": "gpt-4o-mini", "input": "hi", "previous_response_id": "resp_1"}
    assert make_app().test_client().post(RESPONSES, json=body, headers=FREE).status_code == 200


FILE = """
[upstreams.a]
base_url = "{a}"
dialects = "responses"
key_env = ["KEY_A", "KEY_A2"]

[upstreams.b]
base_url = "{b}"
dialects = "responses"
key_env = ["KEY_B", "KEY_B2"]

[models.alias]
targets = [{{upstream = "a"}}]
on_failure = [{{upstream = "b", model = "other"}}]
"""
KEYS = {"KEY_A": "sk-a-1", "KEY_A2": "sk-a-2", "KEY_B": "sk-b-1", "KEY_B2": "sk-b-2"}
FAILS = reply(500, error_document())
Make = Callable[..., Flask]


@pytest.fixture
def b() -> Iterator[Upstream]:
    with Upstream() as second:
        second.default = answered("resp_b")
        yield second


@pytest.fixture
def file(tmp_path: Path, upstream: Upstream, b: Upstream, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file of two upstreams, of which `a` is the fixture `upstream`."""
    for name, secret in KEYS.items():
        monkeypatch.setenv(name, secret)
    file = tmp_path / "upstreams.toml"
    file.write_text(FILE.format(a=upstream.base_url, b=b.base_url))
    return file


@EVERY_STORE
@pytest.mark.parametrize("auth_mode", ["token", "open"])
def test_the_upstream_that_made_a_response_goes_on_with_it(
    make_app: Make, file: Path, upstream: Upstream, b: Upstream, auth_mode: str
) -> None:
    """By the same key and with the model's name there, well or not; nobody else is asked."""
    app = make_app(auth_mode=auth_mode, upstreams_file=str(file))
    ours = client_of(app, "ours") if auth_mode == "token" else anybody(app)
    upstream.script(FAILS)
    second = service(Fleet, app).upstreams["b"]
    second.load.begin(second.settings.keys[0])
    assert ours(model="alias").headers["X-Upstream"] == "b"
    second.load.end(second.settings.keys[0])
    upstream.default = answered("resp_a")
    for _ in range(2):
        assert ours(model="alias", previous_response_id="resp_b").headers["X-Upstream"] == "b"
    assert [(received.key, received.json["model"]) for received in b.received] == [("sk-b-2", "other")] * 3
    b.default = reply(401, error_document())
    assert ours(model="alias", previous_response_id="resp_b").status_code == 502
    b.default = reply(404, error_document("model_not_found"))
    assert ours(model="alias", previous_response_id="resp_b").status_code == 404
    assert len(upstream.received) == 1


def anybody(app: Flask) -> Callable[..., TestResponse]:
    """Sends requests to `/v1/responses` in open mode."""

    def send(headers: dict[str, str] = FREE, **members: Any) -> TestResponse:
        return app.test_client().post(RESPONSES, json={"model": "alias", "input": "hi"} | members, headers=headers)

    return send


def test_an_upstream_that_is_gone_goes_on_with_nothing(
    make_app: Make, file: Path, upstream: Upstream, b: Upstream
) -> None:
    """404 with a sentence, and the others are not asked."""
    upstream.default = answered("resp_a")
    assert anybody(make_app(upstreams_file=str(file)))().status_code == 200
    gone = file.with_name("without.toml")
    gone.write_text(f'[upstreams.b]\nbase_url = "{b.base_url}"\ndialects = "responses"\nkey_env = "KEY_B"\n')
    answer = anybody(make_app(upstreams_file=str(gone)))(previous_response_id="resp_a")
    error = answer.get_json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (404, "response_not_found", "previous_response_id")
    assert "no longer" in error["message"]
    assert b.received == []


def test_a_callers_own_key_goes_on_where_it_began(make_app: Make, file: Path, upstream: Upstream, b: Upstream) -> None:
    """Without being told again where it belongs; told to be elsewhere, it goes there."""
    send = anybody(make_app(upstreams_file=str(file)))
    own = {"X-OpenAI-Api-Key": CALLER_KEY}
    assert send(own | {"X-Upstream": "b"}).headers["X-Upstream"] == "b"
    assert send(own, previous_response_id="resp_b").headers["X-Upstream"] == "b"
    upstream.default = reply(404, error_document("previous_response_not_found"))
    assert send(own | {"X-Upstream": "a"}, previous_response_id="resp_b").headers["X-Upstream"] == "a"
    assert send(own, previous_response_id="resp_of_another_program").headers["X-Upstream"] == "a"
    assert {received.key for received in (*upstream.received, *b.received)} == {CALLER_KEY}


@pytest.mark.parametrize("member", ["previous_response_id", "conversation"])
def test_what_nobody_here_has_made_is_asked_for_once(
    make_app: Make, file: Path, upstream: Upstream, b: Upstream, member: str
) -> None:
    """In open mode, as with one upstream: another upstream would only say that it is not there."""
    upstream.default = FAILS
    answer = anybody(make_app(upstreams_file=str(file)))(**{member: "made_elsewhere"})
    assert (answer.status_code, answer.headers["X-Upstream"], b.received) == (502, "a", [])
