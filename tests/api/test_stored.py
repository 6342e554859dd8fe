"""Responses that the upstream stores are continued by the client that made them, and by no other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from app.ledger.accounts import Accounts, Limits
from app.web.services import service
from tests.conftest import CALLER_KEY, EVERY_STORE
from tests.records import settled
from tests.streams import completed, stream, typed
from tests.upstream import Upstream, reply, response_document

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
