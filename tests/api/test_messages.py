"""Anthropic's routes: bodies pass as they come, keys are read where its clients put them, errors have its shape."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app.config import Config
from app.ledger.accounts import Accounts, Limits
from app.ledger.pricing import Prices
from app.models import Usage
from app.upstreams.openai_client import OpenAIClient
from app.upstreams.slots import Slots
from app.web.services import service
from tests.conftest import CALLER_KEY, SERVER_KEY
from tests.records import settled, spent
from tests.streams import (
    block_delta,
    blocks,
    event,
    message_end,
    message_events,
    message_start,
    read_events,
    stream,
    typed,
)
from tests.upstream import Upstream, reply, reset

MESSAGES, COUNT = "/v1/messages", "/v1/messages/count_tokens"
OWN = {"x-api-key": CALLER_KEY}
MODEL = "anthropic/claude-haiku-4-5"
HI = {"model": MODEL, "max_tokens": 100, "messages": [{"role": "user", "content": "hi"}]}
USAGE = {"input_tokens": 11, "output_tokens": 7}
ANSWER = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": MODEL,
    "content": [{"type": "text", "text": "Hello."}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": USAGE,
}
CLAUDE_CODE = {
    "accept": "application/json",
    "anthropic-beta": "claude-code-20250219,interleaved-thinking-2025-05-14,fine-grained-tool-streaming-2025-05-14",
    "anthropic-dangerous-direct-browser-access": "true",
    "anthropic-version": "2023-06-01",
    "user-agent": "claude-cli/2.1.9 (external, cli)",
    "x-app": "cli",
    "x-stainless-arch": "x64",
    "x-stainless-helper-method": "stream",
    "x-stainless-lang": "js",
    "x-stainless-os": "Linux",
    "x-stainless-package-version": "0.70.0",
    "x-stainless-retry-count": "0",
    "x-stainless-runtime": "node",
    "x-stainless-runtime-version": "v22.20.0",
    "x-stainless-timeout": "600",
}
"""What Claude Code says of itself."""


@pytest.mark.parametrize("path", [MESSAGES, COUNT])
def test_bodies_pass_as_they_come(client: FlaskClient, upstream: Upstream, path: str) -> None:
    """Spaces, order, unknown fields and number forms of the request, its query, and every byte of the answer, stay."""
    sent = '{ "model":"m", "future_field" : {"x": [1.0, 1e3, "\\ud55c"]},\n"max_tokens":9, "messages":"안녕" }'.encode()
    answered = b'{"id": "x",   "input_tokens": 3, "usage": {"input_tokens": 3}, "future": 1.0}\n'
    upstream.script(reply(200, answered, {"Request-Id": "req_up", "Anthropic-RateLimit-Tokens-Remaining": "9"}))
    answer = client.post(f"{path}?beta=true", data=sent, content_type="application/json", headers=OWN)
    assert (answer.status_code, answer.data) == (200, answered)
    (received,) = upstream.received
    assert (received.body, received.path, received.key) == (sent, f"{path}?beta=true", CALLER_KEY)
    assert answer.headers["X-Upstream-Request-ID"] == "req_up"
    assert answer.headers["request-id"] == answer.headers["X-Request-ID"] != "req_up"
    assert answer.headers["Anthropic-RateLimit-Tokens-Remaining"] == "9"
    assert answer.headers["Server-Timing"].startswith("queue;dur=")


def test_claude_codes_requests_pass(client: FlaskClient, upstream: Upstream) -> None:
    """What belongs to Anthropic's API goes on; what the program says of itself, and of its network, does not."""
    upstream.script(stream(message_events("Hel", "lo")))
    body = HI | {
        "system": [{"type": "text", "text": "You are Claude Code.", "cache_control": {"type": "ephemeral"}}],
        "metadata": {"user_id": "user_1"},
        "thinking": {"type": "enabled", "budget_tokens": 50},
        "tools": [{"name": "Bash", "description": "Runs a command", "input_schema": {"type": "object"}}],
        "context_management": {"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        "stream": True,
    }
    headers = CLAUDE_CODE | {"Authorization": f"Bearer {CALLER_KEY}"}
    answer = client.post(f"{MESSAGES}?beta=true", json=body, headers=headers)
    assert answer.data.startswith(b"".join(message_events("Hel", "lo")))
    (received,) = upstream.received
    given = {name: received.headers.get(name) for name in CLAUDE_CODE}
    passed = {name: CLAUDE_CODE[name] for name in ("accept", "anthropic-beta", "anthropic-version")}
    assert {name: value for name, value in given.items() if value} == passed | {"user-agent": "llm-server"}
    assert received.json == body


def test_a_version_is_told_where_the_caller_tells_none(client: FlaskClient, upstream: Upstream) -> None:
    """Anthropic's API demands one."""
    upstream.default = reply(200, ANSWER)
    client.post(MESSAGES, json=HI, headers=OWN)
    assert upstream.received[0].headers["anthropic-version"] == "2023-06-01"
    assert "anthropic-beta" not in upstream.received[0].headers


@pytest.mark.parametrize(
    ("headers", "status", "key"),
    [
        ({"x-api-key": CALLER_KEY}, 200, CALLER_KEY),
        ({"Authorization": f"Bearer {CALLER_KEY}"}, 200, CALLER_KEY),
        ({"x-api-key": "sk-x", "Authorization": f"Bearer {CALLER_KEY}"}, 200, "sk-x"),
        ({"x-api-key": "sk-x", "X-OpenAI-Api-Key": CALLER_KEY}, 200, CALLER_KEY),
        ({"x-api-key": "dummy", "X-Free-Mode": "true"}, 200, SERVER_KEY),
        ({"X-Free-Mode": "true"}, 200, SERVER_KEY),
        ({}, 401, None),
        ({"x-api-key": "a key"}, 422, None),
        ({"x-api-key": "llms_not-issued"}, 401, None),
        ({"x-api-key": "llms_not-issued", "X-OpenAI-Api-Key": CALLER_KEY}, 401, None),
    ],
)
def test_whose_key_pays(
    client: FlaskClient, upstream: Upstream, headers: dict[str, str], status: int, key: str | None
) -> None:
    """The key may stand in `x-api-key`; upstream is told it both ways."""
    upstream.default = reply(200, ANSWER)
    answer = client.post(MESSAGES, json=HI, headers=headers)
    assert answer.status_code == status
    told = [(received.key, received.headers["x-api-key"]) for received in upstream.received]
    assert told == ([] if key is None else [(key, key)])


@pytest.mark.parametrize(
    ("headers", "key"),
    [
        ({"x-api-key": "TOKEN"}, SERVER_KEY),
        ({"Authorization": "Bearer TOKEN"}, SERVER_KEY),
        ({"x-api-key": "TOKEN", "Authorization": f"Bearer {CALLER_KEY}"}, CALLER_KEY),
        ({"x-api-key": CALLER_KEY, "Authorization": "Bearer TOKEN"}, CALLER_KEY),
        ({"x-api-key": "dummy", "Authorization": "Bearer TOKEN"}, SERVER_KEY),
    ],
)
def test_a_token_of_ours_stands_where_a_key_would(
    make_app: Callable[..., Flask], upstream: Upstream, headers: dict[str, str], key: str
) -> None:
    """In either header, with a key of the caller's in the other; upstream never sees it."""
    app = make_app(auth_mode="token")
    token = service(Accounts, app).add("web", Limits())
    upstream.default = reply(200, ANSWER)
    sent = {name: value.replace("TOKEN", token) for name, value in headers.items()}
    assert app.test_client().post(MESSAGES, json=HI, headers=sent).status_code == 200
    assert [received.key for received in upstream.received] == [key]
    assert token not in str(upstream.received[0].headers)
    for path in ("/v1/responses", "/api/v1/chat"):
        refused = app.test_client().post(path, json=HI, headers={"x-api-key": token})
        assert refused.status_code == 401
        assert "The header x-api-key is not read" in refused.text
    assert app.test_client().post(MESSAGES, json=HI).status_code == 401
    wrong = app.test_client().post(MESSAGES, json=HI, headers={"x-api-key": "sk-no-token"})
    assert (wrong.status_code, "is not read" in wrong.text) == (401, False)


def test_a_missing_key_is_told_where_it_may_be(client: FlaskClient) -> None:
    """In the header of Anthropic's clients, too; and one in a header that nobody reads, where it was in vain."""
    message = client.post(MESSAGES, json=HI).get_json()["error"]["message"]
    assert message.endswith("The header x-api-key carries it as well")
    message = client.post(MESSAGES, json=HI, headers={"api-key": CALLER_KEY}).get_json()["error"]["message"]
    assert message.endswith("The header api-key is not read")


def refusal(status: int, kind: str, message: str = "words") -> Any:
    return reply(status, {"type": "error", "error": {"type": kind, "message": message}, "request_id": "req_1"})


@pytest.mark.parametrize(
    ("answer", "status", "kind", "code"),
    [
        (refusal(400, "invalid_request_error"), 400, "invalid_request_error", "upstream_rejected_request"),
        (refusal(401, "authentication_error"), 401, "authentication_error", "api_key_rejected"),
        (refusal(403, "permission_error"), 403, "permission_error", "upstream_forbidden"),
        (refusal(404, "not_found_error", "model: m"), 404, "not_found_error", "model_not_found"),
        (refusal(413, "request_too_large"), 413, "request_too_large", "upstream_rejected_request"),
        (refusal(429, "rate_limit_error"), 429, "rate_limit_error", "upstream_rate_limited"),
        (refusal(400, "invalid_request_error", "Your credit balance is too low"), 429, None, "insufficient_quota"),
        (refusal(500, "api_error"), 502, "api_error", "upstream_error"),
        (refusal(529, "overloaded_error"), 503, "overloaded_error", "upstream_unavailable"),
        (refusal(400, "server_error"), 400, "invalid_request_error", "upstream_rejected_request"),
    ],
)
def test_errors_have_anthropics_shape(
    make_app: Callable[..., Flask], upstream: Upstream, answer: Any, status: int, kind: str | None, code: str
) -> None:
    """With Anthropic's type of the status, our code where its SDK looks for one, and the request's id."""
    upstream.default = answer
    given = make_app(request_timeout=1).test_client().post(MESSAGES, json=HI, headers=OWN)
    document = given.get_json()
    assert (given.status_code, document["type"]) == (status, "error")
    assert document["error"]["type"] == kind or kind is None
    assert document["error"]["details"]["error_code"] == code
    assert document["request_id"] == given.headers["X-Request-ID"] == given.headers["request-id"]
    assert set(document) == {"type", "error", "request_id"}
    assert (document["error"]["message"] == "words") is (
        status < 500 and kind is not None and code != "model_not_found"
    )


def test_upstreams_own_code_passes(client: FlaskClient, upstream: Upstream) -> None:
    """From the place where Anthropic's API tells it."""
    error = {"type": "invalid_request_error", "message": "words", "details": {"error_code": "image_too_large"}}
    upstream.script(reply(400, {"type": "error", "error": error}))
    given = client.post(MESSAGES, json=HI, headers=OWN).get_json()
    assert given["error"] == error


@pytest.mark.parametrize(
    ("method", "path", "options", "status", "kind"),
    [
        ("POST", MESSAGES, {"data": b"{", "content_type": "application/json"}, 400, "invalid_request_error"),
        ("POST", MESSAGES, {"data": b"{}", "content_type": "text/plain"}, 415, "invalid_request_error"),
        ("POST", MESSAGES, {"json": {"stream": "yes"}}, 422, "invalid_request_error"),
        ("POST", f"{MESSAGES}/batches", {"json": HI}, 404, "not_found_error"),
        ("GET", MESSAGES, {}, 405, "invalid_request_error"),
    ],
)
def test_what_is_refused_here_has_the_shape_as_well(
    client: FlaskClient, method: str, path: str, options: dict[str, Any], status: int, kind: str
) -> None:
    """Also for addresses below ours that are not there."""
    given = client.open(path, method=method, headers=OWN, **options)
    assert (given.status_code, given.get_json()["error"]["type"]) == (status, kind)


def test_other_unknown_addresses_keep_openais_shape(client: FlaskClient) -> None:
    """The nearest blueprint says how."""
    assert client.get("/v1/nothing").get_json()["error"]["code"] == "not_found"
    hint = client.post("/messages", json=HI).get_json()["detail"]
    assert "Perhaps /v1/messages is meant" in hint


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_a_stream_passes_to_the_byte(client: FlaskClient, upstream: Upstream, line_end: str) -> None:
    """Pings, comments and unknown events included; behind it come our comments, which are no events."""
    events = [*message_events("안", "녕")[:-1], b": hm\n", event({"type": "new"}, "new"), typed("message_stop")]
    events = [one.replace(b"\n", line_end.encode()) for one in events]
    upstream.script(stream(events))
    answer = client.post(MESSAGES, json=HI | {"stream": True}, headers=OWN)
    assert answer.mimetype == "text/event-stream"
    assert answer.data.startswith(b"".join(events) + b": server-timing queue")
    assert len(blocks(answer.data)) == len(events) - 1


@pytest.mark.parametrize(
    ("parts", "code"),
    [
        (message_events("x")[:-1], "upstream_connection_error"),
        (message_events("x")[:2], "upstream_connection_error"),
        ([message_start(), b"data: [1]\n\n"], "upstream_bad_response"),
        ([b"<html>"], "upstream_bad_response"),
    ],
)
def test_a_broken_stream_ends_with_one_error_event(
    app: Flask, upstream: Upstream, parts: list[bytes], code: str
) -> None:
    """A stream is whole when `message_stop` came, whatever its message has told of its end."""
    upstream.script(stream(parts))
    answer = app.test_client().post(MESSAGES, json=HI | {"stream": True}, headers=OWN)
    errors = [block for block in answer.data.split(b"\n\n") if block.startswith(b"event: error")]
    assert len(errors) == 1
    document = json.loads(errors[0].split(b"data: ", 1)[1])
    assert (document["type"], document["error"]["type"]) == ("error", "api_error")
    assert document["error"]["details"]["error_code"] == code
    assert document["request_id"] == answer.headers["X-Request-ID"]
    assert b"message_stop" not in answer.data
    assert service(Slots, app).in_use == 0


def test_upstreams_own_error_is_the_end(client: FlaskClient, upstream: Upstream, database_url: str) -> None:
    """It passes as it came, no second one follows, and the row tells it."""
    end = typed("error", error={"type": "overloaded_error", "message": "Overloaded"})
    upstream.script(stream([message_start(), end]))
    answer = client.post(MESSAGES, json=HI | {"stream": True}, headers=OWN)
    assert answer.data.startswith(message_start() + end + b": server-timing")
    assert [(row["status"], row["code"]) for row in settled(database_url)] == [("error", "upstream_failed")]


CACHED = {"cache_read_input_tokens": 1000, "cache_creation_input_tokens": 500}
HOUR = {"cache_creation": {"ephemeral_5m_input_tokens": 100, "ephemeral_1h_input_tokens": 400}}
COUNTS: dict[str, tuple[dict[str, Any], Usage]] = {
    "plain": ({}, Usage(11, 7, 18)),
    "cached": (CACHED, Usage(1511, 7, 1518, 1000, cache_write_tokens=500)),
    "for an hour": (
        CACHED | HOUR,
        Usage(1511, 7, 1518, 1000, cache_write_tokens=100, cache_write_1h_tokens=400),
    ),
    "priority": ({"service_tier": "priority"}, Usage(11, 7, 18, service_tier="priority")),
    "standard": ({"service_tier": "standard"}, Usage(11, 7, 18)),
    "searched": ({"server_tool_use": {"web_search_requests": 1}}, Usage(11, 7, 18, has_fees=True)),
    "not searched": ({"server_tool_use": {"web_search_requests": 0, "web_fetch_requests": 2}}, Usage(11, 7, 18)),
    "fast": ({"speed": "fast"}, Usage(11, 7, 18, has_fees=True)),
    "in one region": ({"inference_geo": "us"}, Usage(11, 7, 18, has_fees=True)),
    "anywhere": ({"inference_geo": "global", "speed": "standard"}, Usage(11, 7, 18)),
    "compacted": ({"iterations": [{"type": "compaction"}, {"type": "message"}]}, Usage(11, 7, 18, has_fees=True)),
    "thoughts": ({"output_tokens_details": {"thinking_tokens": 5}}, Usage(11, 7, 18, reasoning_tokens=5)),
}


@pytest.mark.parametrize("kind", ["plain", "streamed", "streamed, counted again"])
@pytest.mark.parametrize("name", COUNTS)
def test_usage_is_in_the_ledger(
    client: FlaskClient, upstream: Upstream, database_url: str, name: str, kind: str
) -> None:
    """All input counts: what a cache gave is cached, and what was written to one has a price of its own."""
    counts, usage = COUNTS[name]
    again = {name: value for name, value in (USAGE | counts).items() if name != "cache_creation"}
    end = message_end(**(again if kind == "streamed, counted again" else {}))
    if name == "thoughts":
        end = message_end(**counts)
    start = message_start(**counts).replace(b"claude-haiku-4-5", MODEL.encode())
    plain = reply(200, ANSWER | {"usage": USAGE | counts})
    upstream.default = plain if kind == "plain" else stream([start, block_delta(text="x"), *end])
    answer = client.post(MESSAGES, json=HI | {"stream": kind != "plain"}, headers=OWN)
    assert answer.status_code == 200
    assert answer.data
    (row,) = settled(database_url)
    assert (row["input_tokens"], row["cached_tokens"]) == (usage.input_tokens, usage.cached_tokens)
    assert (row["output_tokens"], row["reasoning_tokens"]) == (7, usage.reasoning_tokens)
    assert (row["model_answered"], row["estimated"], row["status"]) == (MODEL, False, "ok")
    assert row["cost_nano"] == Prices().cost_nano(MODEL, usage)
    assert (row["cost_nano"] is None) is (bool(usage.service_tier) or usage.has_fees)


BROKEN = {
    "text": [block_delta(text="x" * 100) for _ in range(40)],
    "thoughts": [block_delta("thinking_delta", thinking="x" * 100) for _ in range(40)],
    "the input of a tool": [block_delta("input_json_delta", partial_json="x" * 100) for _ in range(40)],
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_stream_that_breaks_off_costs_what_was_written(
    client: FlaskClient, upstream: Upstream, database_url: str, what: str
) -> None:
    """And the input as it was counted at the start; the one token that the start tells of the output is no count."""
    start = message_start(**CACHED).replace(b"claude-haiku-4-5", MODEL.encode())
    upstream.default = stream([start, *BROKEN[what], block_delta("signature_delta", signature="x" * 900)])
    assert client.post(MESSAGES, json=HI | {"stream": True}, headers=OWN).data
    (row,) = settled(database_url)
    assert (row["input_tokens"], row["cached_tokens"], row["output_tokens"]) == (1511, 1000, 1000)
    assert (row["estimated"], row["code"]) == (True, "upstream_connection_error")
    assert row["cost_nano"] == Prices().cost_nano(MODEL, Usage(1511, 1000, 2511, 1000, cache_write_tokens=500))


CENT = 10_000_000
Post = Callable[..., TestResponse]


@pytest.fixture
def post(make_app: Callable[..., Flask]) -> Post:
    """Send a request of a client with a budget of a cent a day, for which the server's key pays."""
    app = make_app(auth_mode="token", request_timeout=2)
    token = service(Accounts, app).add("web", Limits(budget_nano=CENT, budget_period="day"))

    def send(path: str = MESSAGES, **members: Any) -> TestResponse:
        answer = app.test_client().post(path, json=HI | members, headers={"x-api-key": token})
        answer.get_data()
        return answer

    return send


@pytest.mark.parametrize(
    ("members", "cost"),
    [
        ({}, 1_000),
        ({"cache_control": {"type": "ephemeral"}}, 1_250),
        ({"messages": [{"role": "user", "content": [{"type": "text", "cache_control": {}}]}]}, 1_250),
        ({"system": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]}, 2_000),
    ],
)
def test_the_most_that_a_request_may_cost_is_reserved(
    post: Post, upstream: Upstream, database_url: str, members: dict[str, Any], cost: int
) -> None:
    """`max_tokens` bounds the output, thoughts included; a prompt that may be cached costs what writing it costs."""
    upstream.default = reset()
    post(thinking={"type": "adaptive"}, **members)
    (row,) = settled(database_url)
    prompt = row["reserved_nano"] - 100 * 5_000
    assert prompt > 0
    assert prompt % cost == 0
    assert spent(database_url) == (row["reserved_nano"], 0)


def test_a_request_without_a_limit_is_given_one(post: Post, upstream: Upstream) -> None:
    """As on OpenAI's routes."""
    upstream.default = reply(200, ANSWER)
    post(max_tokens=None)
    assert upstream.received[0].json["max_tokens"] > 100


def test_counting_is_free(post: Post, upstream: Upstream, database_url: str) -> None:
    """It needs no price and reserves nothing; it is a request all the same."""
    upstream.default = reply(200, {"input_tokens": 14})
    answer = post(COUNT, model="of-no-known-price")
    assert (answer.get_json(), answer.headers["X-Cost-USD"]) == ({"input_tokens": 14}, "0")
    (row,) = settled(database_url)
    assert (row["route"], row["cost_nano"], row["reserved_nano"], row["status"]) == (COUNT, 0, 0, "ok")
    assert post(model="of-no-known-price").get_json()["error"]["details"]["error_code"] == "model_price_unknown"


def test_a_budget_that_is_used_up(post: Post) -> None:
    """Is told as a rate limit, which its SDKs know."""
    answer = post(max_tokens=100_000)
    error = answer.get_json()["error"]
    assert (answer.status_code, error["type"]) == (429, "rate_limit_error")
    assert error["details"]["error_code"] == "budget_exceeded"
    assert answer.headers["X-Should-Retry"] == "false"


def test_a_thread_of_somebody_else(post: Post, upstream: Upstream) -> None:
    """What upstream has stored for the server's key may be another client's; so may what is said in other words."""
    for thread in (
        {"type": "continue", "previous_message_id": "msg_of_another"},
        {"type": "continue", "previous_message_id": "msg_of_another", "x": 1},
        {"type": "create", "previous_message_id": "msg_of_another"},
        {"type": "continue", "Previous_Message_Id": "msg_of_another"},
        {"id": "thread_1"},
        "thread_1",
    ):
        assert post(thread=thread).status_code == 404
        assert post(COUNT, thread=thread).status_code == 404
    assert upstream.received == []


@pytest.mark.parametrize("streamed", [False, True])
def test_a_thread_is_continued_by_its_client(
    make_app: Callable[..., Flask], upstream: Upstream, database_url: str, streamed: bool
) -> None:
    """The client that began it, plain or streamed; what was said before is reserved for, as dear as it may be."""
    app = make_app(auth_mode="token")
    budget = Limits(budget_nano=10**9, budget_period="day")
    ours, theirs = (service(Accounts, app).add(name, budget) for name in ("ours", "theirs"))

    def post(token: str, thread: Any) -> int:
        body = HI | {"thread": thread, "stream": streamed}
        answer = app.test_client().post(MESSAGES, json=body, headers={"x-api-key": token})
        answer.get_data()
        return answer.status_code

    upstream.default = stream(message_events("Hello.")) if streamed else reply(200, ANSWER)
    assert post(ours, {"type": "create"}) == 200
    made = {"type": "continue", "previous_message_id": "msg_1"}
    assert post(theirs, made) == 404
    assert post(ours, made) == 200
    assert [received.json["thread"] for received in upstream.received] == [{"type": "create"}, made]
    # An id that is there twice reaches upstream once.
    other = '{"previous_message_id": "msg_of_another", "type": "continue"'
    twice = json.dumps(HI | {"thread": made}).replace('{"type": "continue"', other)
    headers = {"x-api-key": ours, "Content-Type": "application/json"}
    app.test_client().post(MESSAGES, data=twice, headers=headers)
    assert (upstream.received[-1].json["thread"], upstream.received[-1].body.count(b"previous_message_id")) == (made, 1)
    first, second, _ = settled(database_url)
    sent = (first["reserved_nano"] - 100 * 5_000) / 1_000
    assert second["reserved_nano"] >= 100 * 5_000 + (sent + first["input_tokens"] + first["output_tokens"]) * 2_000


NATIVE = "/api/v1/chat"
TURN = {"user_message": "hi", "openai_api_key": CALLER_KEY, "model": MODEL}


@pytest.mark.parametrize("streamed", [False, True])
def test_a_chat_turn_is_answered_by_messages(
    make_app: Callable[..., Flask], upstream: Upstream, database_url: str, streamed: bool
) -> None:
    """`UPSTREAM_API=messages`: the same answer to the caller, and the same row, as by the other APIs."""
    client = make_app(upstream_api="messages").test_client()
    upstream.default = stream(message_events("Hel", "lo.")) if streamed else reply(200, ANSWER)
    shown = client.post(f"{NATIVE}/preview", json=TURN | {"stream": streamed}).get_json()
    answer = client.post(NATIVE, json=TURN | {"stream": streamed})
    given = read_events(answer.data)[-1][1] if streamed else answer.get_json()
    assert (given["response_text"], given["finish_reason"], given["response_id"]) == ("Hello.", "stop", "msg_1")
    assert (given["input_tokens"], given["output_tokens"]) == (11, 7)
    (received,) = upstream.received
    assert (received.path, received.body.decode()) == (MESSAGES, shown["upstream_body"])
    assert shown["upstream_path"] == "/messages"
    assert received.json["messages"] == [{"role": "user", "content": "hi"}]
    assert received.json["system"]
    assert (received.key, received.headers["x-api-key"]) == (CALLER_KEY, CALLER_KEY)
    assert received.headers["anthropic-version"] == "2023-06-01"
    (row,) = settled(database_url)
    assert (row["input_tokens"], row["output_tokens"], row["estimated"], row["status"]) == (11, 7, False, "ok")


def test_plain_python_asks_by_messages(upstream: Upstream) -> None:
    """The seed's way in, without a server."""
    upstream.default = reply(200, ANSWER)
    config = Config(openai_base_url=upstream.base_url, openai_api_key=SERVER_KEY, upstream_api="messages")
    client = OpenAIClient(config)
    answer, _, source = client.generate_response([{"role": "user", "content": "hi"}], free_mode=True)
    client.close()
    assert (answer.output_text, source) == ("Hello.", "default")
    assert upstream.received[0].path == MESSAGES
    assert upstream.received[0].headers["anthropic-version"] == "2023-06-01"


def test_a_chat_turn_that_breaks_off(make_app: Callable[..., Flask], upstream: Upstream, database_url: str) -> None:
    """Ends with an error, and its row has the input that was counted at the start."""
    upstream.default = stream([message_start(**CACHED), block_delta(text="x" * 40)])
    answer = make_app(upstream_api="messages").test_client().post(NATIVE, json=TURN | {"stream": True})
    assert read_events(answer.data)[-1][1]["code"] == "upstream_connection_error"
    assert [(row["input_tokens"], row["output_tokens"]) for row in settled(database_url)] == [(1511, 10)]


def test_a_tier_that_a_stream_tells_early(
    make_app: Callable[..., Flask], upstream: Upstream, database_url: str
) -> None:
    """Has no known price on the native route either: the event that counts the output does not name it."""
    start = message_start(service_tier="priority").replace(b"claude-haiku-4-5", MODEL.encode())
    upstream.default = stream([start, block_delta(text="x"), *message_end()])
    assert make_app(upstream_api="messages").test_client().post(NATIVE, json=TURN | {"stream": True}).data
    assert [(row["output_tokens"], row["cost_nano"]) for row in settled(database_url)] == [(7, None)]


def test_a_chat_turn_with_a_schema(make_app: Callable[..., Flask], upstream: Upstream) -> None:
    """Is asked for in the way of the API, and parsed as ever."""
    upstream.default = reply(200, ANSWER | {"content": [{"type": "text", "text": '{"a": 1}'}]})
    client = make_app(upstream_api="messages").test_client()
    answer = client.post(NATIVE, json=TURN | {"response_schema": {"type": "object"}})
    assert answer.get_json()["response_json"] == {"a": 1}
    asked = upstream.received[0].json["output_config"]
    assert asked == {"format": {"type": "json_schema", "schema": {"type": "object"}}}


def test_a_temperature_that_a_claude_does_not_take(make_app: Callable[..., Flask], upstream: Upstream) -> None:
    """Is left out where the caller gave none, as of other models; the answer of a caller who did says why."""
    refused = refusal(400, "invalid_request_error", "`temperature` is deprecated for this model.")
    upstream.script(refused, reply(200, ANSWER), reply(200, ANSWER), refused)
    client = make_app(upstream_api="messages").test_client()
    assert [client.post(NATIVE, json=TURN).status_code for _ in range(2)] == [200, 200]
    assert ["temperature" in received.json for received in upstream.received] == [True, False, False]
    answer = client.post(NATIVE, json=TURN | {"temperature": 1})
    assert (answer.status_code, answer.get_json()["code"]) == (400, "upstream_rejected_request")
