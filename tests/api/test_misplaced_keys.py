"""A key or token that was put where it is not read: the 401 says where it belongs, in the caller's language."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from app.failures import FAILURES
from app.ledger.accounts import Accounts, Limits
from app.web.services import service

CHAT, RESPONSES = "/api/v1/chat", "/v1/responses"
SECRET = "sk-in-the-wrong-place"
FOREIGN = ("api-key", "x-api-key", "x-goog-api-key", "Api-Key")
MakeApp = Callable[..., Flask]


def post(app: Flask, path: str, **headers: str) -> TestResponse:
    """A request that is fine but for its headers; the answer never repeats what they hold."""
    body = {"user_message": "hi"} if path == CHAT else {"input": "hi"}
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    answer = app.test_client().post(path, json=body, headers=sent)
    assert answer.status_code == 401
    assert SECRET not in answer.text
    return answer


@pytest.mark.parametrize("header", FOREIGN)
@pytest.mark.parametrize(("auth_mode", "place"), [("open", "X-OpenAI-Api-Key"), ("token", "Bearer llms_…")])
def test_a_native_caller_is_told_in_korean(make_app: MakeApp, header: str, auth_mode: str, place: str) -> None:
    """Both sentences name the header that is not read, and the one that is; English callers get English."""
    answer = post(make_app(auth_mode=auth_mode), CHAT, **{header: SECRET}).get_json()
    assert answer["error_message"] == f"{FAILURES[answer['code']].told} {header.lower()} 헤더는 읽지 않습니다."
    assert answer["detail"].endswith(f". The header {header.lower()} is not read")
    assert place in answer["error_message"]
    assert place in answer["detail"]
    english = post(make_app(auth_mode=auth_mode), CHAT, **{header: SECRET, "Accept-Language": "en"}).get_json()
    assert english["error_message"] == english["detail"] == answer["detail"]


@pytest.mark.parametrize("header", FOREIGN)
@pytest.mark.parametrize("auth_mode", ["open", "token"])
def test_an_openai_client_is_told_in_english(make_app: MakeApp, header: str, auth_mode: str) -> None:
    """As Azure's client, which sends `api-key`."""
    message = post(make_app(auth_mode=auth_mode), RESPONSES, **{header: SECRET}).get_json()["error"]["message"]
    assert "Authorization: Bearer" in message
    assert message.endswith(f". The header {header.lower()} is not read")


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
@pytest.mark.parametrize("scheme", ["Basic", "Token", "sk-in-the-wrong-place", ""])
def test_a_key_without_bearer_is_told(make_app: MakeApp, path: str, scheme: str) -> None:
    """A scheme that is forgotten is the most common slip with `Authorization`."""
    answer = post(make_app(), path, Authorization=f"{scheme} {SECRET}".strip())
    assert "has to begin with Bearer" in answer.text


def test_a_key_in_the_place_of_a_token_is_told(make_app: MakeApp) -> None:
    """On the native route `Authorization` is for tokens of this server."""
    answer = post(make_app(), CHAT, Authorization=f"Bearer {SECRET}").get_json()
    assert answer["detail"].endswith("carries a token of this server only")
    assert answer["error_message"].endswith("이 서버의 토큰만 넣습니다.")


def test_beside_a_token_the_key_has_a_header_of_its_own(make_app: MakeApp) -> None:
    """There `Authorization` is taken, and the sentence says so."""
    app = make_app(auth_mode="token", openai_api_key="")
    token = service(Accounts, app).add("web", Limits())
    answer = post(app, RESPONSES, Authorization=f"Bearer {token}", api_key=SECRET)
    assert "X-OpenAI-Api-Key" in answer.get_json()["error"]["message"]
    assert answer.get_json()["error"]["message"].endswith("The header api-key is not read")


@pytest.mark.parametrize("path", [CHAT, RESPONSES])
def test_nothing_is_said_where_nothing_was_put_in_vain(make_app: MakeApp, path: str) -> None:
    """No key at all, and a token that opens nothing, whose answer does not tell why."""
    beside_a_token = {"Authorization": "Bearer llms_x", "api-key": SECRET}
    for auth_mode, headers in (("open", {}), ("token", {}), ("token", beside_a_token)):
        answer = post(make_app(auth_mode=auth_mode), path, **headers)
        assert "not read" not in answer.text
        assert "has to begin" not in answer.text
