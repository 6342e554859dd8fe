"""A limit is a promise: what a client with a budget may cost is reserved, and charged in full when it is not known."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from app.ledger.accounts import Accounts, Limits
from app.ledger.ledger import Ledger
from app.services.passed_request import read_request
from app.web.services import service
from tests.conftest import EVERY_STORE
from tests.records import settled, spent
from tests.streams import chunk, completed, event, stream, typed
from tests.upstream import Upstream, reply, reset, response_document, silence, text

CHAT, RESPONSES, NATIVE = "/v1/chat/completions", "/v1/responses", "/api/v1/chat"
MODEL = "gpt-4o-mini"
CENT = 10_000_000
HI = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
ANSWER = {"id": "x", "model": MODEL, "choices": [{"index": 0, "message": {"content": "x"}, "finish_reason": "stop"}]}


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Flask:
    return make_app(auth_mode="token", request_timeout=2)


Post = Callable[..., TestResponse]


@pytest.fixture
def post(app: Flask) -> Post:
    """Send a request of a client with a budget of a cent a day, for which the server's key pays."""
    token = service(Accounts, app).add("web", Limits(budget_nano=CENT, budget_period="day"))
    headers = {"Authorization": f"Bearer {token}", "X-Free-Mode": "true"}

    def send(path: str, **members: Any) -> TestResponse:
        body = (
            {"user_message": "hi", "free_mode": True}
            if path == NATIVE
            else HI
            if path == CHAT
            else {"model": MODEL, "input": "hi"}
        )
        answer = app.test_client().post(path, json=body | members, headers=headers)
        answer.get_data()
        return answer

    return send


UNKNOWN: dict[str, Any] = {
    "usage null": reply(200, ANSWER | {"usage": None}),
    "usage missing": reply(200, ANSWER),
    "usage empty": reply(200, ANSWER | {"usage": {}}),
    "a model of unknown price answered": reply(200, ANSWER | {"model": "claude-of-somebody", "usage": USAGE}),
    "another service tier answered": reply(200, ANSWER | {"usage": USAGE, "service_tier": "priority"}),
    "no JSON": reply(200, b"<html>"),
    "lost in the middle": reset(),
    "too late": silence(),
}


@pytest.mark.parametrize("why", UNKNOWN)
def test_what_is_not_known_is_charged_in_full(post: Post, upstream: Upstream, database_url: str, why: str) -> None:
    """A plain call whose usage or price nobody tells costs what was reserved for it; row and budget agree."""
    upstream.default = UNKNOWN[why]
    post(CHAT, max_tokens=1000)
    (row,) = settled(database_url)
    assert row["cost_nano"] == row["reserved_nano"] > 1000 * 600
    assert spent(database_url) == (row["reserved_nano"], 0)


def test_what_is_settled_while_upstream_works_is_charged_in_full(
    app: Flask, post: Post, upstream: Upstream, database_url: str
) -> None:
    """A quick stop closes the rows of calls that are still under way; upstream has the request and may bill it."""

    async def stopped_meanwhile(received: Any, writer: Any) -> None:
        service(Ledger, app).settle_open("server_shutting_down")
        await reply(200, ANSWER | {"usage": USAGE})(received, writer)

    upstream.default = stopped_meanwhile
    post(CHAT, max_tokens=1000)
    (row,) = settled(database_url)
    assert (row["status"], row["code"], row["estimated"]) == ("error", "server_shutting_down", True)
    assert row["cost_nano"] == row["reserved_nano"] > 1000 * 600
    assert spent(database_url) == (row["reserved_nano"], 0)


TIERS: dict[str, tuple[str, list[bytes]]] = {
    path: (path, [first, *rest])
    for path, first, rest in [
        (
            CHAT,
            event({"id": "c", "model": MODEL, "service_tier": "priority", "choices": [{"index": 0, "delta": {}}]}),
            [chunk("x", finish_reason="stop"), event({"id": "c", "choices": [], "usage": USAGE}), event("[DONE]")],
        ),
        (
            RESPONSES,
            typed("response.created", response={"id": "resp_1", "model": MODEL, "service_tier": "priority"}),
            [completed("x")],
        ),
    ]
}


@pytest.mark.parametrize("path", TIERS)
@pytest.mark.parametrize("native", [False, True], ids=["door", "native"])
def test_a_tier_that_a_stream_tells_early_has_no_known_price(
    make_app: Callable[..., Flask], upstream: Upstream, database_url: str, path: str, native: bool
) -> None:
    """Whichever event names it: the tokens of another tier cost what the list does not say."""
    app = make_app(upstream_api=path.removeprefix("/v1/").replace("/", "_"))
    upstream.default = stream(TIERS[path][1])
    body: dict[str, Any] = {"user_message": "hi", "free_mode": True} if native else HI | {"input": "hi"}
    headers = {"X-Free-Mode": "true"}
    body |= {"model": MODEL, "stream": True}
    assert app.test_client().post(NATIVE if native else path, json=body, headers=headers).data
    assert [(row["output_tokens"], row["cost_nano"]) for row in settled(database_url)] == [(7, None)]


@pytest.mark.parametrize("answer", [reply(400, {"error": {}}), reply(500, {"error": {}})])
def test_a_refusal_costs_nothing(post: Post, upstream: Upstream, database_url: str, answer: Any) -> None:
    """Upstream did no work for it."""
    upstream.default = answer
    post(CHAT)
    assert [row["cost_nano"] for row in settled(database_url)] == [0]
    assert spent(database_url) == (0, 0)


def test_what_is_known_is_charged_as_it_is(post: Post, upstream: Upstream, database_url: str) -> None:
    """Not what was reserved."""
    upstream.default = reply(200, ANSWER | {"usage": USAGE})
    answer = post(CHAT, max_tokens=1000)
    assert answer.headers["X-Cost-USD"] == "0.00000585"
    settled(database_url)
    assert spent(database_url) == (11 * 150 + 7 * 600, 0)


@EVERY_STORE
def test_twenty_at_once_never_exceed_a_budget(app: Flask, post: Post, upstream: Upstream, database_url: str) -> None:
    """Not by a nano-dollar, although none of them names a limit and upstream writes all that it may."""

    async def greedy(received: Any, writer: Any) -> None:
        written = received.json["max_completion_tokens"]
        usage = {"prompt_tokens": 1, "completion_tokens": written, "total_tokens": 1 + written}
        await reply(200, ANSWER | {"usage": usage})(received, writer)

    upstream.default = greedy
    with ThreadPoolExecutor(20) as threads:
        statuses = list(threads.map(lambda _: post(CHAT).status_code, range(20)))
    assert set(statuses) == {200, 429}
    settled(database_url)
    paid, reserved = spent(database_url)
    assert (reserved, paid <= CENT, paid > CENT / 2) == (0, True, True)


def test_a_request_gets_the_limit_that_its_budget_still_pays(post: Post, upstream: Upstream) -> None:
    """The route's own limit: MAX_OUTPUT_TOKENS at first, then what is left; a request that does not fit is told so."""
    upstream.default = reply(200, ANSWER)
    post(CHAT)
    post(RESPONSES)
    limits = [received.json for received in upstream.received]
    assert limits[0]["max_completion_tokens"] == 16_384
    assert "max_completion_tokens" not in limits[1]
    assert 0 < limits[1]["max_output_tokens"] < 400
    refused = post(CHAT, max_tokens=100_000)
    assert (refused.status_code, refused.get_json()["error"]["code"]) == (429, "budget_exceeded")


@pytest.mark.parametrize("named", [{}, {"max_tokens": 100}], ids=["no limit", "its own limit"])
@pytest.mark.parametrize("missing_nano", [0, 1])
def test_a_budget_is_kept_to_the_nano_dollar(
    app: Flask, upstream: Upstream, named: dict[str, int], missing_nano: int
) -> None:
    """A budget of exactly the worst case pays for it; a nano-dollar less pays for one token less, or refuses."""
    body = json.dumps(HI | named).encode()
    worst_nano = read_request("/chat/completions", body).ask.prompt_tokens * 150 + 100 * 600
    limits = Limits(budget_nano=worst_nano - missing_nano, budget_period="day")
    headers = {"Authorization": f"Bearer {service(Accounts, app).add('exact', limits)}", "X-Free-Mode": "true"}
    upstream.default = reply(200, ANSWER)
    answer = app.test_client().post(CHAT, data=body, content_type="application/json", headers=headers)
    if named:
        assert answer.status_code == (429 if missing_nano else 200)
    else:
        assert upstream.received[0].json["max_completion_tokens"] == 100 - missing_nano


def test_embeddings_write_nothing(post: Post, upstream: Upstream, database_url: str) -> None:
    """Only their prompt is reserved, and no limit is added to them."""
    upstream.default = reply(200, {"data": [], "usage": {"prompt_tokens": 1000, "total_tokens": 1000}})
    body = {"model": "text-embedding-3-small", "input": "x" * 4000}
    assert post("/v1/embeddings", **body).status_code == 200
    assert upstream.received[0].json == body
    (row,) = settled(database_url)
    assert 1000 * 20 < row["reserved_nano"] < 1050 * 20
    assert row["cost_nano"] == 1000 * 20


def test_a_first_request_that_does_not_fit_is_told_so(post: Post) -> None:
    """In dollars, and not that the budget is used up."""
    answer = post(NATIVE, max_tokens=100_000)
    assert answer.get_json()["code"] == "budget_exceeded"
    assert "may cost up to $0.06" in answer.get_json()["detail"]
    assert "$0.01 of the budget" in answer.get_json()["detail"]


WRITTEN: dict[str, list[bytes]] = {
    "content": [chunk("x" * 100) for _ in range(40)],
    "tool arguments": [
        chunk(delta={"tool_calls": [{"index": 0, "function": {"arguments": "x" * 100}}]}) for _ in range(40)
    ],
    "reasoning": [chunk(delta={"reasoning_content": "x" * 100}) for _ in range(40)],
}


@pytest.mark.parametrize("what", WRITTEN)
def test_a_stream_without_usage_costs_what_was_written(
    post: Post, upstream: Upstream, database_url: str, what: str
) -> None:
    """Whatever kind of text that was: 4,000 characters are 1,000 tokens."""
    upstream.default = stream([*WRITTEN[what], chunk(finish_reason="stop"), event("[DONE]")])
    assert post(CHAT, stream=True).status_code == 200
    (row,) = settled(database_url)
    assert (row["output_tokens"], row["estimated"], row["status"]) == (1000, True, "ok")
    assert row["cost_nano"] == spent(database_url)[0] >= 1000 * 600


def test_a_stream_is_asked_for_its_usage(post: Post, upstream: Upstream, database_url: str) -> None:
    """On the client's behalf; the extra chunk is taken out again, and everything else passes to the byte."""
    parts = [chunk("hi"), chunk(finish_reason="stop")]
    counted = event({"id": "chatcmpl-1", "model": MODEL, "choices": [], "usage": USAGE})
    upstream.default = stream([*parts, counted, event("[DONE]")])
    answer = post(CHAT, stream=True)
    assert upstream.received[0].json["stream_options"] == {"include_usage": True}
    assert answer.data.startswith(b"".join([*parts, event("[DONE]")]))
    assert b"usage" not in answer.data
    assert [(row["output_tokens"], row["estimated"]) for row in settled(database_url)] == [(7, False)]
    wanted = post(CHAT, stream=True, stream_options={"include_usage": True})
    assert wanted.data.startswith(b"".join([*parts, counted, event("[DONE]")]))


def test_usage_beside_a_choice_stays_in_the_stream(post: Post, upstream: Upstream, database_url: str) -> None:
    """Servers that count in a chunk with text: the client loses none of it."""
    counted = {"choices": [{"index": 0, "delta": {"content": "!"}, "finish_reason": "stop"}], "usage": USAGE}
    parts = [chunk("hi"), event({"id": "chatcmpl-1", "model": MODEL} | counted), event("[DONE]")]
    upstream.default = stream(parts)
    assert post(CHAT, stream=True).data.startswith(b"".join(parts))
    assert [(row["output_tokens"], row["estimated"]) for row in settled(database_url)] == [(7, False)]


@pytest.mark.parametrize("param", ["stream_options", "stream_options.include_usage"])
def test_a_stream_whose_upstream_knows_no_such_option(post: Post, upstream: Upstream, param: str) -> None:
    """Is asked for once more as it came, and the model's next stream is right at once. What the caller gave itself is
    not left out."""
    good = stream([chunk("hi", finish_reason="stop"), event("[DONE]")])
    refused = reply(400, {"error": {"param": param, "message": "unknown"}})
    upstream.script(refused, good, good, refused)
    assert [post(CHAT, stream=True).status_code for _ in range(2)] == [200, 200]
    assert ["stream_options" in received.json for received in upstream.received] == [True, False, False]
    assert post(CHAT, stream=True, stream_options={"include_usage": True}).status_code == 400
    assert len(upstream.received) == 4


FAILURES: dict[str, tuple[str, dict[str, Any], Any]] = {
    "an error in a 200": (CHAT, {}, reply(200, {"error": {"message": "x"}, "usage": USAGE})),
    "a failed response": (RESPONSES, {}, reply(200, response_document("", status="failed"))),
    "an error chunk": (CHAT, {"stream": True}, stream([chunk("x"), event({"error": {"code": 1}})])),
    "an error behind text": (
        CHAT,
        {"stream": True},
        stream([event({"error": {"code": 1}, "choices": [{"index": 0, "delta": {"content": "x"}}]})]),
    ),
    "an error event": (RESPONSES, {"stream": True}, stream([typed("error", code="server_error", message="x")])),
    "response.failed": (
        RESPONSES,
        {"stream": True},
        stream([event({"type": "response.failed", "response": {"status": "failed"}}, "response.failed")]),
    ),
}


@pytest.mark.parametrize("why", FAILURES)
def test_a_success_that_holds_a_failure_is_an_error_in_the_ledger(
    post: Post, upstream: Upstream, database_url: str, why: str
) -> None:
    """The answer passes as it came, and the row tells the truth."""
    path, members, upstream.default = FAILURES[why]
    assert post(path, **members).status_code == 200
    assert [(row["status"], row["code"]) for row in settled(database_url)] == [("error", "upstream_failed")]


@pytest.mark.parametrize("limits", [Limits(budget_nano=CENT, budget_period="day"), Limits(models="gpt-4o*")])
def test_what_no_limit_can_cover_is_refused(app: Flask, upstream: Upstream, limits: Limits) -> None:
    """With the name of the member, where the server's key pays; with a key of its own a client may do as it likes."""
    token = service(Accounts, app).add("app", limits)
    headers = {"Authorization": f"Bearer {token}"}
    body = {"model": MODEL, "input": "hi", "background": True}
    refused = app.test_client().post(RESPONSES, json=body, headers=headers | {"X-Free-Mode": "true"})
    error = refused.get_json()["error"]
    assert (refused.status_code, error["code"], error["param"]) == (400, "not_covered", "background")
    assert upstream.received == []
    upstream.default = text("x")
    own = app.test_client().post(RESPONSES, json=body, headers=headers | {"X-OpenAI-Api-Key": "sk-caller-0123456789"})
    assert own.status_code == 200


MODELS = {"object": "list", "data": [{"id": MODEL}, {"id": "o3"}]}


@pytest.mark.parametrize(
    ("limits", "listed"),
    [
        (Limits(budget_nano=1, budget_period="day"), [MODEL, "o3"]),
        (Limits(models="gpt-4o*"), [MODEL]),
        (Limits(requests_per_minute=1), [MODEL, "o3"]),
    ],
)
def test_a_list_of_models_is_free(
    app: Flask, upstream: Upstream, database_url: str, limits: Limits, listed: list[str]
) -> None:
    """It costs nothing, counts against no rate, and shows what the client may use."""
    headers = {"Authorization": f"Bearer {service(Accounts, app).add('app', limits)}", "X-Free-Mode": "true"}
    upstream.default = reply(200, MODELS)
    client = app.test_client()
    for _ in range(3):
        answer = client.get("/v1/models", headers=headers)
        assert [model["id"] for model in answer.get_json()["data"]] == listed
    # llama.cpp lists them twice.
    upstream.default = reply(200, MODELS | {"models": [{"model": model["id"]} for model in MODELS["data"]] + [{}, "x"]})
    twice = client.get("/v1/models", headers=headers).get_json()["models"]
    assert [model["model"] for model in twice[: len(listed)]] == listed
    assert len(twice) == (1 if limits.models else 4)
    upstream.default = reply(200, MODELS["data"][1])
    assert client.get("/v1/models/o3", headers=headers).status_code == (404 if limits.models else 200)
    assert {row["cost_nano"] for row in settled(database_url)} == {0}


def test_lists_of_models_leave_the_rate_to_others(app: Flask, upstream: Upstream) -> None:
    """A client that has looked at the models may still ask one."""
    token = service(Accounts, app).add("app", Limits(requests_per_minute=1))
    headers = {"Authorization": f"Bearer {token}", "X-Free-Mode": "true"}
    client = app.test_client()
    upstream.default = reply(200, MODELS)
    assert [client.get(f"/v1/models{one}", headers=headers).status_code for one in ("", "/o3")] == [200, 200]
    upstream.default = reply(200, ANSWER)
    assert [client.post(CHAT, json=HI, headers=headers).status_code for _ in range(2)] == [200, 429]


def test_native_pictures_and_schemas_are_reserved_for(post: Post, upstream: Upstream, database_url: str) -> None:
    """By a figure each, and as text."""
    upstream.default = text("{}")
    images = ["https://example.com/a.png"] * 2
    assert post(NATIVE, images=images, model="gpt-4.1-mini", max_tokens=1).status_code == 200
    schema = {"type": "object", "description": "x" * 4000}
    assert post(NATIVE, response_schema=schema, max_tokens=1).status_code == 200
    pictures, described = settled(database_url)
    assert pictures["reserved_nano"] > 2 * 2_500 * 400
    assert described["reserved_nano"] > 1000 * 150


def test_the_end_of_a_stream_without_usage_keeps_the_bill(post: Post, upstream: Upstream, database_url: str) -> None:
    """A Responses stream that is completed without usage costs what was written."""
    parts = [event({"type": "response.function_call_arguments.delta", "delta": "x" * 400}, "x")] * 10
    upstream.default = stream([*parts, completed("x", usage=None)])
    assert post(RESPONSES, stream=True).status_code == 200
    (row,) = settled(database_url)
    assert (row["output_tokens"], row["estimated"]) == (1000, True)
    assert json.loads(upstream.received[0].body)["max_output_tokens"] == 16_384
