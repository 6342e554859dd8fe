"""The AI notice: what people are told, in their language, and the mark that every native answer carries."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.config import Config
from tests.streams import delta, read_events, response_events, stream
from tests.upstream import Upstream, error_document, reply

CHAT, NOTICE = "/api/v1/chat", "/api/v1/notice"
HI = {"user_message": "hi", "free_mode": True}


def notice(app: Flask, language: str = "") -> Any:
    """What the route answers to a reader of this language."""
    answer = app.test_client().get(NOTICE, headers={"Accept-Language": language} if language else {})
    assert answer.status_code == 200
    return answer.get_json()


def settings(**environ: str) -> dict[str, Any]:
    """What an operator's variables become."""
    config = Config.from_env({name.upper(): value for name, value in environ.items()})
    return {"ai_notice": config.ai_notice, "ai_notice_en": config.ai_notice_en}


def test_there_is_a_notice_in_both_languages(app: Flask) -> None:
    """With no setting, in Korean unless English is preferred; each is in its language and names AI."""
    assert (notice(app)["language"], notice(app, "en-US,en;q=0.9")["language"]) == ("ko", "en")
    assert "인공지능(AI)" in notice(app)["notice"]
    assert "artificial intelligence (AI)" in notice(app, "en")["notice"]
    assert notice(app)["ai_generated"] is True


@pytest.mark.parametrize(
    ("given", "korean", "english"),
    [
        ({"ai_notice": "가", "ai_notice_en": "a"}, ("가", "ko"), ("a", "en")),
        ({"ai_notice": "가", "ai_notice_en": "none"}, ("가", "ko"), ("가", "ko")),
        ({"ai_notice": "none"}, (None, None), (None, None)),
        ({"ai_notice": " None ", "ai_notice_en": "a"}, (None, None), (None, None)),
    ],
)
def test_the_operators_words(
    make_app: Callable[..., Flask], given: dict[str, str], korean: tuple[Any, Any], english: tuple[Any, Any]
) -> None:
    """`none` for the Korean notice switches it off in both languages, for the English one leaves the Korean."""
    app = make_app(**settings(**given))
    for language, expected in (("", korean), ("en", english)):
        found = notice(app, language)
        assert (found["notice"], found["language"]) == expected


def test_everybody_may_read_it(make_app: Callable[..., Flask]) -> None:
    """Also where tokens are required: a page shows it before anybody has signed in."""
    assert notice(make_app(auth_mode="token"))["notice"]


@pytest.mark.parametrize("extra", [{}, {"ai_notice": ""}])
def test_native_answers_say_that_a_model_wrote_them(
    make_app: Callable[..., Flask], upstream: Upstream, extra: dict[str, Any]
) -> None:
    """Plain ones, cached ones and the `done` of a stream, whether there is a notice or not; failures do not."""
    client = make_app(cache_enabled=True, **extra).test_client()
    for _ in range(2):
        assert client.post(CHAT, json=HI).get_json()["ai_generated"] is True
    upstream.script(stream(response_events("hello")))
    streamed = read_events(client.post(CHAT, json=HI | {"user_message": "other", "stream": True}).data)
    assert [data.get("ai_generated") for name, data in streamed if name == "done"] == [True]
    upstream.script(stream([delta("half")]), reply(400, error_document()))
    broken = read_events(client.post(CHAT, json=HI | {"user_message": "third", "stream": True}).data)
    assert "ai_generated" not in broken[-1][1]
    assert "ai_generated" not in client.post(CHAT, json=HI | {"user_message": "fourth"}).get_json()


def test_passed_answers_stay_as_they_are(client: FlaskClient, upstream: Upstream) -> None:
    """The mark is the native route's: OpenAI's routes pass to the byte."""
    upstream.default = reply(200, b'{"a": 1}')
    answer = client.post("/v1/chat/completions", json={"model": "m"}, headers={"X-Free-Mode": "true"})
    assert answer.data == b'{"a": 1}'
