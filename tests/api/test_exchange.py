"""The exchange: every request takes one way, enters each room once, and makes nothing twice."""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import CodeType, FrameType
from typing import Any

import pytest
from flask import Flask

from app.calls.call import Call
from app.calls.receipt import Receipt
from app.errors import ChatServiceException
from app.ledger.accounts import NOBODY, Accounts, Limits
from app.ledger.entry import Entry
from app.ledger.ledger import Ledger
from app.ledger.limits import Ask
from app.models import ChatRequest, Credentials, Generation
from app.services import prompt
from app.services.exchange import Asked, Exchange, HeldResponse, OpenExchange
from app.upstreams import chat_completions, plan, responses
from app.upstreams.keys import KeySelector
from app.upstreams.openai_client import OpenAIClient
from app.upstreams.parameters import AdaptedBody
from app.upstreams.slots import Slots
from app.web.services import service
from tests.conftest import CALLER_KEY
from tests.records import settled
from tests.streams import completion_events, response_events, stream
from tests.upstream import Upstream, reply

COUNTED: dict[CodeType, str] = {
    function.__code__: name
    for name, function in {
        "request made": ChatRequest.__init__,
        "generation made": Generation.__init__,
        "turn parsed": prompt.parse_turn,
        "body made": responses.request_body,
        "exchange opened": Exchange.open,
        "payer chosen": KeySelector.payer,
        "admitted": Ledger.open,
        "receipt made": Receipt.__init__,
        "plan made": plan.make_plan,
        "slot taken": Slots.acquire,
        "attempted": OpenAIClient.send,
        "settled": Entry.settle,
    }.items()
}
DIGESTS = {"digest", "hexdigest"}

NATIVE = {"user_message": "hi", "free_mode": True, "conversation_history": ["user: a", "assistant: b", "user: c"]}
FREE = {"X-Free-Mode": "true"}


class Counts(Counter[str]):
    """How often each function of COUNTED runs, and a digest is made, in this thread and in those it starts."""

    def __enter__(self) -> Counts:
        threading.setprofile(self._note)
        sys.setprofile(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)
        threading.setprofile(None)

    def _note(self, frame: FrameType, event: str, argument: Any) -> None:
        if event == "call" and frame.f_code in COUNTED:
            self[COUNTED[frame.f_code]] += 1
        elif event == "c_call" and getattr(argument, "__name__", "") in DIGESTS:
            self["digest made"] += 1


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Flask:
    return make_app()


ONCE = (
    "exchange opened",
    "payer chosen",
    "admitted",
    "receipt made",
    "plan made",
    "slot taken",
    "attempted",
    "settled",
)


def test_a_native_request_makes_nothing_twice(app: Flask) -> None:
    """With the cache off: each thing is made once, each turn of the history parsed once, and no digest is made."""
    client = app.test_client()
    client.post("/api/v1/chat", json=NATIVE)
    with Counts() as counts:
        assert client.post("/api/v1/chat", json=NATIVE).status_code == 200
    once = dict.fromkeys((*ONCE, "request made", "generation made", "body made"), 1)
    assert counts == once | {"turn parsed": 3}


def test_a_token_is_the_only_digest(make_app: Callable[..., Flask]) -> None:
    """It is made once: the token is looked up and confirmed by the same one."""
    app = make_app(auth_mode="token")
    client, token = app.test_client(), service(Accounts, app).add("web", Limits())
    headers = {"Authorization": f"Bearer {token}"}
    client.post("/api/v1/chat", json=NATIVE, headers=headers)
    with Counts() as counts:
        assert client.post("/api/v1/chat", json=NATIVE, headers=headers).status_code == 200
    assert counts["digest made"] == 1


STREAMS = {"/v1/responses": response_events("hi"), "/v1/chat/completions": completion_events("hi")}


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize("path", ["/api/v1/chat", "/v1/responses", "/v1/chat/completions"])
def test_every_route_takes_the_one_way_once(app: Flask, upstream: Upstream, path: str, streamed: bool) -> None:
    """Native and passed through, plain and streamed."""
    if streamed:
        upstream.default = stream(STREAMS.get(path, response_events("hi")))
    elif path == "/v1/chat/completions":
        upstream.default = reply(200, {"id": "x"})
    with Counts() as counts:
        answer = app.test_client().post(path, json=NATIVE | {"stream": streamed}, headers=FREE)
        assert (answer.status_code, b"error" in answer.data.replace(b"error_message", b"")) == (200, False)
    assert {name: counts[name] for name in ONCE} == dict.fromkeys(ONCE, 1)


def test_a_list_of_models_takes_it_too(app: Flask, upstream: Upstream) -> None:
    """Where one model is looked for in the list, upstream is asked twice for one admitted request."""
    upstream.script(reply(404, {"error": {}}), reply(200, {"data": [{"id": "m"}]}))
    with Counts() as counts:
        assert app.test_client().get("/v1/models/m", headers=FREE).status_code == 200
    twice = {"slot taken": 2, "attempted": 2}
    assert {name: counts[name] for name in ONCE} == dict.fromkeys(ONCE, 1) | twice


def send(opened: OpenExchange) -> None:
    body = AdaptedBody(opened.parameters, opened.model, lambda without: b"{}", ())
    response, _ = opened.send(lambda attempt: Asked("/responses", body), HeldResponse.read)
    response.close()


def test_a_refused_key_is_the_second_attempt_of_one_plan(app: Flask, upstream: Upstream, database_url: str) -> None:
    """The slot is held while the server's key is tried; the receipt tells both attempts, and which key has paid."""
    upstream.script(reply(401, {"error": {}}))
    exchange, call = service(Exchange, app), Call(5, request_id="r-1")
    with (
        exchange.open(Ask(route="/x", model="gpt-4o-mini"), Credentials(CALLER_KEY, True), NOBODY, call) as opened,
    ):
        send(opened)
    assert call.receipt is opened.receipt
    assert (opened.receipt.attempts, opened.receipt.key_source) == (2, "default")
    assert [row["status"] for row in settled(database_url)] == ["ok"]


@pytest.fixture
def full(make_app: Callable[..., Flask]) -> Iterator[Flask]:
    """An app whose only slot is taken."""
    app = make_app(max_concurrent_requests=1, max_queue_seconds=0.2)
    service(Slots, app).acquire(Call(10))
    yield app
    service(Slots, app).release()


def test_the_wait_for_a_slot_is_on_the_receipt(full: Flask, database_url: str) -> None:
    """Also of a request that is refused in the end."""
    call = Call(5, request_id="r-1")
    opened = service(Exchange, full).open(Ask(route="/x"), Credentials("", True), NOBODY, call)
    with pytest.raises(ChatServiceException) as caught, opened:
        send(opened)
    assert caught.value.error_code == "server_busy"
    assert opened.receipt.queue_seconds == pytest.approx(0.2, abs=0.15)
    (row,) = settled(database_url)
    assert (row["code"], row["queue_ms"]) == ("server_busy", pytest.approx(200, abs=150))


def test_a_caller_who_leaves_while_it_waits_gives_its_place_up(full: Flask, database_url: str) -> None:
    """The row says so, and the next in line gets the slot."""
    exchange, call = service(Exchange, full), Call(5, request_id="gone")

    def wait() -> str:
        with exchange.open(Ask(route="/x"), Credentials("", True), NOBODY, call) as opened:
            send(opened)
        return "answered"

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(wait)
        while not exchange.slots._waiting:
            time.sleep(0.001)
        call.end("caller_gone")
        with pytest.raises(ChatServiceException):
            waiting.result()
    assert not exchange.slots._waiting
    assert [row["status"] for row in settled(database_url)] == ["cancelled"]


def test_what_was_admitted_is_settled_whatever_happens(app: Flask, database_url: str) -> None:
    """By a bug of ours as well; only the first ending counts."""
    opened = service(Exchange, app).open(Ask(route="/x"), Credentials("", True), NOBODY, Call(5, request_id="r-1"))
    with pytest.raises(ZeroDivisionError), opened:
        _ = 1 // 0
    opened.settle("ok")
    (row,) = settled(database_url)
    assert (row["status"], row["code"], opened.receipt.code) == ("error", "internal_error", "internal_error")


def test_streams_of_both_apis_are_read_by_their_dialect(app: Flask, upstream: Upstream, database_url: str) -> None:
    """Usage and model of a stream are in the row, whichever API it came by."""
    for path, events in STREAMS.items():
        upstream.default = stream(events)
        app.test_client().post(path, json={"stream": True}, headers=FREE).get_data()
    first, second = settled(database_url)
    for name in ("model_answered", "status", "estimated"):
        assert first[name] == second[name], name
    assert chat_completions.read_event(b"[DONE]").is_end


def test_what_was_not_sent_costs_nothing(app: Flask, database_url: str) -> None:
    """A request that is settled while its connection is still being made, as a quick stop does."""
    opened = service(Exchange, app).open(
        Ask(route="/x", model="gpt-4o-mini", prompt_tokens=9), Credentials("", True), NOBODY, Call(5, request_id="r-1")
    )
    opened.receipt.key = opened.payer.first
    opened.settle("error", "server_shutting_down")
    assert [(row["input_tokens"], row["cost_nano"], row["estimated"]) for row in settled(database_url)] == [
        (0, 0, False)
    ]


def test_a_refused_key_keeps_upstreams_headers(app: Flask, upstream: Upstream) -> None:
    """As every other refusal does; and a second answer without an id does not get the first one's."""
    upstream.script(reply(401, {"error": {}}, {"X-Request-Id": "up-401", "x-ratelimit-limit-requests": "7"}))
    answer = app.test_client().post(
        "/v1/responses", json={"input": "x"}, headers={"Authorization": f"Bearer {CALLER_KEY}"}
    )
    assert answer.get_json()["error"]["code"] == "api_key_rejected"
    assert (answer.headers["X-Upstream-Request-ID"], answer.headers["x-ratelimit-limit-requests"]) == ("up-401", "7")
    upstream.script(reply(500, {"error": {}}, {"X-Request-Id": "up-1"}), reply(400, {"error": {}}))
    answer = app.test_client().post("/api/v1/chat", json={"user_message": "x", "free_mode": True})
    assert (answer.status_code, answer.headers.get("X-Upstream-Request-ID")) == (400, None)


def test_a_trace_goes_on_to_upstream(app: Flask, upstream: Upstream) -> None:
    """Natively and through the doors; without one none is made up."""
    trace_id = "4bf92f3577b34da6a3ce929d0e0e4736"
    headers = FREE | {"traceparent": f"00-{trace_id}-00f067aa0ba902b7-01"}
    client = app.test_client()
    assert client.post("/api/v1/chat", json=NATIVE, headers=headers).status_code == 200
    assert client.post("/v1/responses", json={"input": [{"content": "x"}]}, headers=headers).status_code == 200
    assert client.post("/api/v1/chat", json=NATIVE).status_code == 200
    first, second, third = (received.headers.get("traceparent", "") for received in upstream.received)
    assert first[3:35] == second[3:35] == trace_id
    assert first[36:52] != second[36:52]
    assert third == ""
