"""Preview equals reality; long histories, structured answers, images and timings of the native route."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.ledger.accounts import Accounts, Limits
from app.web.services import service
from tests.conftest import CALLER_KEY
from tests.records import rows
from tests.streams import read_events, response_events, stream
from tests.upstream import Upstream, delayed, text

CHAT = "/api/v1/chat"
KNOWN = {
    "user_message": "서울은?",
    "role": "교사",
    "memory_context": ["부산에 산다"],
    "instructions": "짧게",
    "conversation_history": ["user: 하나", "assistant: 둘", "user: 셋"],
    "images": ["https://example.com/a.png", "data:image/png;base64,iVBORw0KGgo="],
    "response_schema": {"type": "object"},
    "free_mode": True,
}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("api", ["responses", "chat_completions"])
@pytest.mark.parametrize("limit", [None, 46])
def test_the_body_is_what_upstream_receives(
    make_app: Callable[..., Flask], upstream: Upstream, streamed: bool, api: str, limit: int | None
) -> None:
    """Byte by byte, for both of upstream's APIs, with everything a request can hold."""
    client = make_app(upstream_api=api).test_client()
    request = KNOWN | {"stream": streamed, "max_context_tokens": limit}
    preview = client.post(f"{CHAT}/preview", json=request).get_json()
    assert not upstream.received
    client.post(CHAT, json=request)
    assert upstream.received[0].body == preview["upstream_body"].encode()
    assert upstream.received[0].path == "/v1" + preview["upstream_path"]
    assert preview["dropped_turns"] == (0 if limit is None else 2)


def test_preview_counts_tokens_by_part(client: FlaskClient) -> None:
    """The parts add up to the total, and are said to be estimates."""
    preview = client.post(f"{CHAT}/preview", json=KNOWN | {"openai_api_key": CALLER_KEY}).get_json()
    assert preview["api_key_source"] == "user_provided"
    assert set(preview["tokens"]) == {"system", "role", "memory", "instructions", "history", "user"}
    assert all(preview["tokens"].values())
    assert preview["total_tokens"] == sum(preview["tokens"].values())
    assert preview["tokens_estimated"] is True


def test_a_preview_costs_nothing(client: FlaskClient, upstream: Upstream, database_url: str) -> None:
    """Upstream is not asked, no row is written, and no slot is needed."""
    assert client.post(f"{CHAT}/preview", json=KNOWN).status_code == 200
    assert not upstream.received
    assert rows(database_url) == []


def test_preview_refuses_what_chat_refuses(client: FlaskClient) -> None:
    """The same rules and the same key choice."""
    assert client.post(f"{CHAT}/preview", json=KNOWN | {"temperature": 9}).status_code == 422
    assert client.post(f"{CHAT}/preview", json=KNOWN | {"free_mode": False}).status_code == 401


@pytest.mark.parametrize(
    ("limits", "asked", "code"),
    [
        ({"models": "gpt-4o*"}, {"model": "o3", "openai_api_key": CALLER_KEY}, "model_not_allowed"),
        ({"models": "gpt-4o*"}, {"model": "o3", "free_mode": True}, "model_not_allowed"),
        ({"models": "gpt-5"}, {"free_mode": True}, "model_not_allowed"),
        ({"free_mode": False}, {"free_mode": True}, "free_mode_not_allowed"),
        ({"free_mode": False}, {"free_mode": True, "openai_api_key": CALLER_KEY}, "free_mode_not_allowed"),
        ({"free_mode": False}, {"openai_api_key": CALLER_KEY}, None),
        ({"models": "gpt-4o*"}, {"model": "gpt-4o-mini", "free_mode": True}, None),
    ],
)
def test_preview_refuses_what_the_client_may_not(
    make_app: Callable[..., Flask], database_url: str, limits: dict[str, Any], asked: dict[str, Any], code: str | None
) -> None:
    """As chat does, by the same words; and it writes nothing."""
    app = make_app(auth_mode="token")
    headers = {"Authorization": f"Bearer {service(Accounts, app).add('web', Limits(**limits))}"}
    request = {"user_message": "hi"} | asked
    preview = app.test_client().post(f"{CHAT}/preview", json=request, headers=headers)
    assert rows(database_url) == []
    chat = app.test_client().post(CHAT, json=request, headers=headers)
    assert (preview.status_code, preview.get_json().get("code")) == (200 if code is None else 403, code)
    assert (chat.status_code, chat.get_json().get("code")) == (preview.status_code, code)
    if code is not None:
        assert preview.get_json()["detail"] == chat.get_json()["detail"]


HISTORY = [f"user: {'x' * 40}{n}" for n in range(10)]


@pytest.mark.parametrize(("limit", "kept"), [(None, 10), (10_000, 10), (100, 5), (65, 2), (1, 0)])
def test_oldest_turns_go_first(client: FlaskClient, upstream: Upstream, limit: int | None, kept: int) -> None:
    """Whole turns, oldest first; system and user message always stay; what went is reported."""
    request = {"user_message": "y" * 40, "system_message": "z" * 120, "conversation_history": HISTORY}
    answer = client.post(CHAT, json=request | {"free_mode": True, "max_context_tokens": limit}).get_json()
    messages = upstream.received[0].json["input"]
    assert answer["dropped_turns"] == 10 - kept
    assert [message["content"][-1] for message in messages[1:-1]] == [str(n) for n in range(10 - kept, 10)]
    assert (messages[0]["content"], messages[-1]["content"]) == ("z" * 120, "y" * 40)


def test_the_setting_limits_when_the_request_does_not(make_app: Callable[..., Flask], upstream: Upstream) -> None:
    """DEFAULT_MAX_CONTEXT_TOKENS; the request's own number wins."""
    client = make_app(default_max_context_tokens=50).test_client()
    request = {"user_message": "y", "conversation_history": HISTORY, "free_mode": True}
    assert client.post(CHAT, json=request).get_json()["dropped_turns"] > 0
    assert client.post(CHAT, json=request | {"max_context_tokens": 9999}).get_json()["dropped_turns"] == 0


SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}


def test_a_structured_answer(client: FlaskClient, upstream: Upstream) -> None:
    """The answer is asked for by schema and comes parsed."""
    upstream.script(text('{"city": "서울"}'))
    answer = client.post(CHAT, json={"user_message": "hi", "free_mode": True, "response_schema": SCHEMA}).get_json()
    assert (answer["output_format"], answer["response_json"]) == ("json_schema", {"city": "서울"})
    assert answer["response_text"] == '{"city": "서울"}'
    assert upstream.received[0].json["text"]["format"] == {
        "type": "json_schema",
        "name": "response",
        "schema": SCHEMA,
    }


def test_a_structured_answer_that_does_not_parse(client: FlaskClient, upstream: Upstream) -> None:
    """It is upstream's fault, plain and streamed."""
    upstream.script(text('{"city": "서'), stream(response_events('{"city": ')))
    request = {"user_message": "hi", "free_mode": True, "response_schema": SCHEMA}
    answer = client.post(CHAT, json=request)
    assert (answer.status_code, answer.get_json()["code"]) == (502, "upstream_bad_response")
    name, problem = read_events(client.post(CHAT, json=request | {"stream": True}).data)[-1]
    assert (name, problem["code"]) == ("error", "upstream_bad_response")


def test_images_ride_on_the_user_message(client: FlaskClient, upstream: Upstream) -> None:
    """As content parts behind the text."""
    client.post(CHAT, json={"user_message": "what?", "free_mode": True, "images": ["https://example.com/a.png"]})
    assert upstream.received[0].json["input"][-1] == {
        "role": "user",
        "content": [
            {"type": "input_text", "text": "what?"},
            {"type": "input_image", "image_url": "https://example.com/a.png"},
        ],
    }


@pytest.mark.parametrize(
    "images",
    [
        ["http://example.com/a.png"],
        ["file:///etc/passwd"],
        ["data:text/html;base64,AAAA"],
        ["https://example.com/a b"],
        ["https://example.com/" + "a" * 2048],
        ["data:image/png;base64," + "A" * 700_000],
        ["https://example.com/a.png"] * 9,
        [None],
        "https://example.com/a.png",
    ],
)
def test_bad_images(client: FlaskClient, upstream: Upstream, images: Any) -> None:
    """Other schemes, other types, too long or too many: 422 naming the field."""
    answer = client.post(CHAT, json={"user_message": "hi", "free_mode": True, "images": images})
    assert (answer.status_code, list(answer.get_json()["errors"]["json"])) == (422, ["images"])
    assert not upstream.received


@pytest.mark.parametrize("schema", ['{"a": NaN}', '{"a": "\\ud800"}', "[]", '"x"', "7"])
def test_bad_response_schemas(client: FlaskClient, schema: str) -> None:
    """What JSON cannot carry, or is no object."""
    body = f'{{"user_message": "hi", "free_mode": true, "response_schema": {schema}}}'
    answer = client.post(CHAT, data=body, content_type="application/json")
    assert (answer.status_code, list(answer.get_json()["errors"]["json"])) == (422, ["response_schema"])


def timings(header: str) -> dict[str, float]:
    return {name: float(value) for name, value in (part.strip().split(";dur=") for part in header.split(","))}


@pytest.mark.parametrize("path", [CHAT, "/v1/responses"])
def test_server_timing_adds_up(client: FlaskClient, upstream: Upstream, path: str) -> None:
    """Against a known delay: the parts are the total, and upstream's part is the delay."""
    upstream.script(delayed(0.2, text("hi")), delayed(0.2, text("hi")))
    body = {"user_message": "hi", "free_mode": True} if path == CHAT else {"model": "m"}
    answer = client.post(path, json=body, headers={"X-Free-Mode": "true"} if path != CHAT else {})
    parts = timings(answer.headers["Server-Timing"])
    total = parts.pop("total")
    assert abs(sum(parts.values()) - total) <= 2
    assert 200 <= parts["upstream"] <= total


def test_time_in_front_counts(client: FlaskClient, upstream: Upstream) -> None:
    """A proxy that stamps X-Request-Start makes its queue visible."""
    stamp = f"t={time.time() - 0.5:.3f}"
    answer = client.post(CHAT, json={"user_message": "hi", "free_mode": True}, headers={"X-Request-Start": stamp})
    parts = timings(answer.headers["Server-Timing"])
    assert parts["queue"] >= 499
    assert parts["total"] >= parts["queue"]


@pytest.mark.parametrize(
    ("peer", "proxies", "is_believed"),
    [
        ("127.0.0.1", None, True),
        ("::ffff:127.0.0.1", None, True),
        ("", None, True),
        ("192.0.2.7", None, False),
        ("2001:db8::7", None, False),
        ("unknown", None, False),
        ("192.0.2.7", ("192.0.2.0/24",), True),
        ("127.0.0.1", ("192.0.2.0/24",), False),
        ("192.0.2.7", ("*",), True),
    ],
)
def test_only_our_proxies_tell_of_time_in_front(
    make_app: Callable[..., Flask], peer: str, proxies: tuple[str, ...] | None, is_believed: bool
) -> None:
    """Anybody else could write any queue into the figures; a Unix socket has no address."""
    client = make_app(**({} if proxies is None else {"forwarded_allow_ips": proxies})).test_client()
    headers = {"X-Request-Start": f"t={time.time() - 300:.3f}"}
    answer = client.post(
        CHAT,
        json={"user_message": "hi", "free_mode": True},
        headers=headers,
        environ_overrides={"REMOTE_ADDR": peer},
    )
    assert (timings(answer.headers["Server-Timing"])["queue"] >= 299_000) == is_believed


def test_preview_body_is_json(client: FlaskClient) -> None:
    """It can be read as well as compared."""
    assert json.loads(client.post(f"{CHAT}/preview", json=KNOWN).get_json()["upstream_body"])["store"] is False


@pytest.mark.parametrize("answer", ['{"a": NaN}', '{"a": 1e999}', '{"a": "\\ud800"}', '{"a": '])
def test_what_json_cannot_carry_is_no_structured_answer(
    make_app: Callable[..., Flask], upstream: Upstream, answer: str
) -> None:
    """Plain and streamed; and a failure is not kept."""
    client = make_app(cache_enabled=True).test_client()
    request = {"user_message": "hi", "free_mode": True, "response_schema": SCHEMA}
    upstream.script(text(answer), stream(response_events(answer)), text('{"city": "서울"}'))
    assert client.post(CHAT, json=request).get_json()["code"] == "upstream_bad_response"
    name, problem = read_events(client.post(CHAT, json=request | {"stream": True}).data)[-1]
    assert (name, problem["code"]) == ("error", "upstream_bad_response")
    assert client.post(CHAT, json=request).get_json()["response_json"] == {"city": "서울"}
