"""Errors in two languages: natively Korean, or English for who prefers it; English on OpenAI's routes."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.failures import FAILURES
from tests.streams import delta, read_events, stream
from tests.upstream import Upstream, error_document, reply

PREFIXES = (
    "인증 오류: ",
    "권한 오류: ",
    "요청 경로 오류: ",
    "입력 데이터 오류: ",
    "사용 한도 오류: ",
    "시스템 설정 오류: ",
    "AI 서비스 연결 오류: ",
    "채팅 서비스 오류: ",
)
CHAT = "/api/v1/chat"
HI = {"user_message": "hi", "free_mode": True}


@pytest.mark.parametrize("code", FAILURES)
def test_every_code_has_its_korean_sentence(code: str) -> None:
    """Behind a prefix that fits its status, and polite."""
    failure = FAILURES[code]
    assert failure.told.startswith(PREFIXES)
    assert re.search(r"(니다|세요)\.$", failure.told)
    if failure.status == 401:
        assert failure.told.startswith("인증 오류: ")
    if failure.status in {404, 405} and code.startswith(("not_found", "method")):
        assert failure.told.startswith("요청 경로 오류: ")


@pytest.mark.parametrize(
    ("language", "english"),
    [
        ("", False),
        ("ko-KR,ko;q=0.9,en;q=0.8", False),
        ("fr", False),
        ("*", False),
        ("en", True),
        ("en-US,en;q=0.9,ko;q=0.8", True),
        ("ko;q=0.1, en;q=0.2", True),
        ("x" * 5000, False),
    ],
)
def test_the_language_is_the_callers(client: FlaskClient, language: str, english: bool) -> None:
    """Korean unless English is preferred; `detail` is English always."""
    answer = client.get("/nowhere", headers={"Accept-Language": language} if language else {}).get_json()
    assert answer["detail"] == "There is nothing at this address. All addresses are listed at /docs"
    assert answer["error_message"] == (
        answer["detail"] if english else f"{FAILURES['not_found'].told} 주소 목록은 /docs에 있습니다."
    )


def test_fields_are_named(client: FlaskClient) -> None:
    """Where an error is about fields, the sentence names them."""
    answer = client.post(CHAT, json={"user_message": "", "max_tokens": 0}).get_json()
    assert answer["error_message"] == FAILURES["validation_error"].told + " (user_message, max_tokens)"


def test_a_stream_speaks_the_same_language(client: FlaskClient, upstream: Upstream) -> None:
    """Its error event as well as an ordinary answer."""
    for headers, word in (({}, "AI 서비스"), ({"Accept-Language": "en"}, "The ")):
        upstream.script(stream([delta("half")]))
        events = read_events(client.post(CHAT, json=HI | {"stream": True}, headers=headers).data)
        assert events[-1][0] == "error"
        assert word in events[-1][1]["error_message"]


def test_openais_routes_speak_english(make_app: Callable[..., Flask], upstream: Upstream) -> None:
    """Whatever the caller prefers: their clients expect it."""
    client = make_app(upstream_messages=False).test_client()
    upstream.default = reply(400, error_document("x"))
    answers = [
        client.post("/v1/responses", json={}),
        client.post("/v1/responses", json={}, headers={"X-Free-Mode": "true"}),
        client.post("/v1/nowhere", json={}, headers={"Accept-Language": "ko"}),
    ]
    for answer in answers:
        assert not re.search("[가-힣]", answer.text), answer.text


def test_a_hint_is_in_both_languages(client: FlaskClient) -> None:
    """A wrong address says which one was meant."""
    answer = client.post("/chat/completions", json={}).get_json()
    assert "/v1/chat/completions is meant" in answer["detail"]
    assert answer["error_message"].startswith(FAILURES["not_found"].told + " 혹시 /v1/chat/completions")


@pytest.mark.parametrize("path", [CHAT, "/api/v1/chat/preview"])
def test_the_english_sentence_names_the_fields_too(client: FlaskClient, path: str) -> None:
    """Of whatever kind the broken rule is; a body that is no object has no field."""
    unknown = client.post(path, json={"message": "hi"}).get_json()
    assert unknown["detail"] == "These fields break a rule: user_message, message"
    many = client.post(path, json={f"x{number}" * 99: 1 for number in range(9)}).get_json()
    assert many["detail"].endswith(", …")
    assert len(many["detail"]) < 400
    no_object = client.post(path, json=["hi"]).get_json()
    assert no_object["detail"].endswith(". The body must be a JSON object")
    assert no_object["error_message"].endswith(" 본문은 JSON 객체여야 합니다.")


def test_openais_routes_name_the_header(client: FlaskClient) -> None:
    """The same sentence there."""
    error = client.post("/v1/responses", json={}, headers={"X-Free-Mode": "yes"}).get_json()["error"]
    assert error["message"] == "These fields break a rule: X-Free-Mode"


@pytest.mark.parametrize("given", ["yesterday", "2026-01-31", "2026-01-31T09:00:00"])
def test_a_moment_is_refused_with_one_that_is_right(client: FlaskClient, given: str) -> None:
    """The example that the refusal gives can be sent as it is."""
    told = client.get("/api/v1/usage", query_string={"since": given}).get_json()["errors"]["query"]["since"]
    example = told[0].rpartition(" ")[2]
    assert client.get("/api/v1/usage", query_string={"since": example}).status_code == 200
