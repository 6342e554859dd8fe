"""Several upstreams: the table of what happens when an attempt fails (docs/api), row by row."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from app.calls.call import Call
from app.ledger.accounts import Accounts, Limits
from app.models import ChatRequest
from app.process.shared_health import SharedHealth
from app.services.chat import ChatService
from app.services.exchange import Exchange
from app.services.upstream_trial import asked_for_models
from app.upstreams.choice import Turns
from app.upstreams.failover import TABLE
from app.upstreams.fleet import Fleet, Wanted
from app.upstreams.keys import Payer
from app.upstreams.plan import Attempt
from app.web.services import service
from tests.conftest import CALLER_KEY
from tests.prometheus import samples, value
from tests.records import settled
from tests.streams import completion_events, event, response_events, stream
from tests.upstream import (
    Answer,
    Upstream,
    delayed,
    error_document,
    pieces,
    reply,
    reset,
    response_document,
    silence,
    text,
)

FILE = """
[upstreams.a]
base_url = "{a}"
dialects = ["responses", "chat_completions", "messages"]
key_env = ["KEY_A", "KEY_A2"]
first_byte_seconds = 0.5

[upstreams.b]
base_url = "{b}"
dialects = ["responses", "chat_completions", "messages"]
key_env = "KEY_B"
key_header = "api-key"
query = {{"api-version" = "1"}}

[models.alias]
targets = [{{upstream = "a"}}]
on_failure = [{{upstream = "b", model = "other"}}]

[models.priced]
targets = [{{upstream = "a", model = "gpt-4o-mini"}}]
on_failure = [{{upstream = "b", model = "other"}}]

[models."gpt-4o-mini"]
targets = [{{upstream = "a"}}]
on_failure = [{{upstream = "b"}}]

[models.same]
targets = [{{upstream = "a"}}]
on_failure = [{{upstream = "b"}}]
"""
CLAUDE = {"model": "alias", "max_tokens": 9, "stream": True, "messages": [{"role": "user", "content": "hi"}]}
NATIVE = {"user_message": "hi", "free_mode": True, "model": "alias"}
FREE = {"X-Free-Mode": "true"}
GOOD = text("from b", model="gpt-4o-mini")
CUT = pieces([b"HTTP/1.1 200 X\r\nContent-Length: 99\r\n\r\n{"])
FAILED = reply(200, response_document("", status="failed", error={"code": "server_error"}))
Make = Callable[..., Flask]


@pytest.fixture
def b() -> Iterator[Upstream]:
    with Upstream() as second:
        second.default = GOOD
        yield second


@pytest.fixture
def make_two(make_app: Make, upstream: Upstream, b: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """An app over two upstreams, `a` (the fixture `upstream`) and `b`."""
    for name, secret in {"KEY_A": "sk-a-1", "KEY_A2": "sk-a-2", "KEY_B": "sk-b-1"}.items():
        monkeypatch.setenv(name, secret)
    file = tmp_path / "upstreams.toml"
    file.write_text(FILE.format(a=upstream.base_url, b=b.base_url))
    return lambda **settings: make_app(upstreams_file=str(file), **settings)


@pytest.fixture
def two(make_two: Make) -> Flask:
    return make_two()


def ask(app: Flask, **changes: Any) -> Any:
    return app.test_client().post("/api/v1/chat", json=NATIVE | changes)


MOVES: dict[str, tuple[Answer, str]] = {
    "an error of its own": (reply(500, error_document()), "upstream_error"),
    "overloaded": (reply(503, error_document()), "upstream_unavailable"),
    "a gateway's timeout": (reply(504, error_document()), "upstream_error"),
    "too many requests": (reply(429, error_document(), {"Retry-After": "7"}), "upstream_rate_limited"),
    "a reset": (reset(), "upstream_connection_error"),
    "an answer that is cut": (CUT, "upstream_connection_error"),
    "no answer": (silence(), "upstream_timeout"),
    "a page": (reply(200, b"<html>"), "upstream_bad_response"),
    "a redirect": (reply(302, b"", {"Location": "/"}), "upstream_bad_response"),
    "a failure in a success": (FAILED, "upstream_failed"),
    "another model has it": (reply(404, error_document("model_not_found")), "model_not_found"),
    "another model is longer": (reply(400, error_document("context_length_exceeded")), "upstream_rejected_request"),
}
STAYS: dict[str, tuple[Answer, int]] = {
    "a bad request": (reply(400, error_document("bad")), 400),
    "a forbidden one": (reply(403, error_document("flagged")), 403),
    "too large": (reply(413, error_document()), 413),
    "not processable": (reply(422, error_document()), 422),
    "not there": (reply(404, error_document("no_such_thing")), 404),
}


@pytest.mark.parametrize("name", MOVES)
def test_another_upstream_answers(two: Flask, upstream: Upstream, b: Upstream, name: str, database_url: str) -> None:
    """At once, once each, with its own name of the model, key and query; the row tells the alias and who answered."""
    upstream.default = MOVES[name][0]
    answer = ask(two)
    assert (answer.status_code, answer.get_json()["response_text"]) == (200, "from b")
    assert (answer.headers["X-Upstream"], answer.headers["X-Attempts"]) == ("b", "2")
    assert len(upstream.received) == len(b.received) == 1
    assert (b.received[0].json["model"], b.received[0].headers["api-key"]) == ("other", "sk-b-1")
    assert b.received[0].path == "/v1/responses?api-version=1"
    assert "authorization" not in b.received[0].headers
    (row,) = settled(database_url)
    assert (row["model"], row["model_answered"], row["status"]) == ("alias", "gpt-4o-mini", "ok")
    told = two.test_client().get(f"/api/v1/usage/requests/{row['request_id']}").get_json()
    first, second = told["attempts"]
    assert (first["upstream"], first["model"], first["outcome"]) == ("a", "alias", MOVES[name][1])
    assert (second["upstream"], second["model"], second["outcome"], second["output_tokens"]) == ("b", "other", "ok", 7)


@pytest.mark.parametrize("path", ["/v1/responses", "/v1/chat/completions"])
@pytest.mark.parametrize("name", sorted(MOVES.keys() - {"a page"}))
def test_the_doors_move_on_as_well(two: Flask, upstream: Upstream, b: Upstream, name: str, path: str) -> None:
    """Nothing of the first upstream's reaches the caller."""
    upstream.default, b.default = MOVES[name][0], reply(200, {"from": "b"})
    answer = two.test_client().post(path, json={"model": "alias", "input": "x", "messages": []}, headers=FREE)
    assert (answer.status_code, answer.get_json()) == (200, {"from": "b"})


@pytest.mark.parametrize("name", STAYS)
def test_the_requests_own_fault_goes_nowhere_else(two: Flask, upstream: Upstream, b: Upstream, name: str) -> None:
    """The same request would be refused there as well."""
    upstream.default, status = STAYS[name]
    answer = ask(two)
    assert (answer.status_code, answer.headers["X-Upstream"], b.received) == (status, "a", [])


@pytest.mark.parametrize("name", ["another model has it", "another model is longer"])
def test_the_same_model_elsewhere_has_the_same_limits(two: Flask, upstream: Upstream, b: Upstream, name: str) -> None:
    """Only another model may do better."""
    upstream.default = MOVES[name][0]
    assert ask(two, model="same").status_code in {400, 404}
    assert b.received == []


@pytest.mark.parametrize("status", [401, 402])
def test_a_key_that_is_refused_rests_by_itself(two: Flask, upstream: Upstream, b: Upstream, status: int) -> None:
    """The next key of the same upstream is tried, and the one that was refused not again for a while."""
    upstream.script(reply(status, error_document()), text("from a"))
    assert ask(two).get_json()["response_text"] == "from a"
    assert [received.key for received in upstream.received] == ["sk-a-1", "sk-a-2"]
    upstream.default = text("from a")
    for _ in range(3):
        ask(two)
    assert {received.key for received in upstream.received[2:]} == {"sk-a-2"}
    assert b.received == []


def test_all_keys_are_refused(two: Flask, upstream: Upstream, b: Upstream) -> None:
    """502, so that no caller thinks its own token bad."""
    upstream.default, b.default = reply(401, error_document()), reply(429, error_document("insufficient_quota"))
    answer = ask(two)
    assert (answer.status_code, answer.get_json()["code"]) == (502, "upstream_credentials_exhausted")
    assert (len(upstream.received), len(b.received)) == (2, 1)


def test_the_last_that_may_be_asked_is_asked_again(two: Flask, upstream: Upstream, b: Upstream) -> None:
    """After a pause, as a single upstream is."""
    upstream.default = reply(500, error_document())
    b.script(reply(500, error_document()), reply(503, error_document()))
    assert ask(two).get_json()["response_text"] == "from b"
    assert (len(upstream.received), len(b.received)) == (1, 3)


def test_who_fails_again_and_again_is_asked_last(two: Flask, upstream: Upstream, b: Upstream) -> None:
    """Five in a row, and then nobody has to wait for it any more."""
    upstream.default = reply(500, error_document())
    for _ in range(9):
        assert ask(two).status_code == 200
    assert (len(upstream.received), len(b.received)) == (5, 9)
    b.default = reply(500, error_document())
    upstream.default = text("from a")
    assert ask(two).get_json()["response_text"] == "from a"


def test_an_operator_has_an_upstream_tried_now(two: Flask, upstream: Upstream, b: Upstream) -> None:
    """Its rest and its keys' are over, and the next request tries it; each key is asked for the models, and the answer
    tells how that went, and no key and none of the upstream's words."""
    upstream.default = reply(500, error_document())
    for _ in range(5):
        assert ask(two).status_code == 200
    fleet = service(Fleet, two)
    first, second = fleet.upstreams["a"].settings.keys
    fleet.upstreams["a"].key_health(first).rest_for(600, "insufficient_quota")
    asked = len(upstream.received)
    upstream.script(reply(200, {"data": []}), reply(401, error_document()))
    answer = two.test_client().post("/api/v1/upstreams/a/try", json={})
    told = answer.get_json()
    assert [received.path for received in upstream.received[asked:]] == ["/v1/models"] * 2
    assert [received.key for received in upstream.received[asked:]] == [first.secret, second.secret]
    assert [key["outcome"] for key in told["keys"]] == ["answers", "server_credentials_rejected"]
    assert all(key["ms"] > 0 for key in told["keys"])
    assert (told["upstream"]["name"], told["upstream"]["state"]) == ("a", "well")
    assert [key["state"] for key in told["upstream"]["keys"]] == ["well", "well"]
    assert not any(secret in answer.text for secret in ("UPSTREAM-SECRET", first.secret, second.secret))
    upstream.default = text("from a")
    assert ask(two).get_json()["response_text"] == "from a"
    assert two.test_client().post("/api/v1/upstreams/c/try", json={}).status_code == 404
    assert two.test_client().post("/api/v1/upstreams/a/try", content_type="text/plain").status_code == 415


def test_an_upstream_that_is_tried_and_says_nothing(two: Flask, b: Upstream) -> None:
    """The operator is told, as soon as the time of a trial is over; its connection is closed."""
    b.default = silence()
    tried = service(Fleet, two).upstreams["b"]
    attempt = Attempt(tried, tried.settings.keys[0])
    began = time.monotonic()
    assert asked_for_models(attempt, 0.3, service(Exchange, two).watchdog) == "upstream_timeout"
    assert time.monotonic() - began < 3
    give_up = time.monotonic() + 5
    while not b.received[-1].left_early and time.monotonic() < give_up:
        time.sleep(0.01)
    assert b.received[-1].left_early


def test_a_limit_of_rate_rests_as_long_as_it_says(two: Flask, upstream: Upstream, b: Upstream) -> None:
    """Exactly; nobody asks meanwhile."""
    upstream.default = MOVES["too many requests"][0]
    for _ in range(4):
        assert ask(two).status_code == 200
    assert (len(upstream.received), len(b.received)) == (1, 4)
    rest = service(Fleet, two).upstreams["a"].health
    assert 6 < rest.due_in <= 7


def test_a_failure_that_the_request_has_again_goes_nowhere_else(two: Flask, upstream: Upstream, b: Upstream) -> None:
    """An answer that failed for what was asked."""
    upstream.default = reply(200, response_document("", status="failed", error={"code": "invalid_prompt"}))
    assert ask(two).get_json()["code"] == "upstream_failed"
    assert b.received == []


def test_a_success_forgets_the_failures_before(two: Flask, upstream: Upstream, b: Upstream) -> None:
    """Only those in a row count."""
    failures = [reply(500, error_document())] * 4
    upstream.script(*failures, text("from a"), *failures, text("from a"))
    answers = [ask(two).get_json()["response_text"] for _ in range(10)]
    assert answers == [*["from b"] * 4, "from a"] * 2


def test_an_upstream_without_a_free_place_is_passed_by(make_two: Make, tmp_path: Path, b: Upstream) -> None:
    """At once; the last that may be asked is waited for."""
    file = tmp_path / "upstreams.toml"
    file.write_text(file.read_text().replace("first_byte_seconds = 0.5", "max_in_flight = 1"))
    app = make_two(max_queue_seconds=0.1)
    fleet = service(Fleet, app)
    places = fleet.upstreams["a"].slots
    assert places is not None
    places.acquire(Call(5))
    assert ask(app).get_json()["response_text"] == "from b"
    assert fleet.upstreams["a"].health.due_in == 0
    answer = ask(app, model="another")
    assert (answer.status_code, answer.get_json()["code"]) == (503, "server_busy")
    places.release()
    assert ask(app, model="another").headers["X-Upstream"] == "a"


def test_the_key_with_the_least_in_flight_is_taken(two: Flask, upstream: Upstream) -> None:
    """The first of those that are equal."""
    first, second = service(Fleet, two).upstreams["a"].settings.keys
    load = service(Fleet, two).upstreams["a"].load
    load.begin(first)
    ask(two)
    load.begin(second)
    load.begin(second)
    ask(two)
    assert [received.key for received in upstream.received] == ["sk-a-2", "sk-a-1"]


CALLERS: dict[str, Answer] = {name: MOVES[name][0] for name in ("an error of its own", "a reset", "too many requests")}


@pytest.mark.parametrize("name", CALLERS)
def test_a_callers_key_stays_where_it_was_brought_for(two: Flask, upstream: Upstream, b: Upstream, name: str) -> None:
    """Nothing is asked elsewhere on its behalf, and no key of ours pays in its place."""
    upstream.default = CALLERS[name]
    answer = two.test_client().post(
        "/v1/responses", json={"model": "alias", "input": "x"}, headers={"Authorization": f"Bearer {CALLER_KEY}"}
    )
    assert answer.status_code >= 400
    assert b.received == []
    assert {received.key for received in upstream.received} == {CALLER_KEY}


@pytest.mark.parametrize("name", CALLERS)
def test_free_mode_pays_for_a_refused_key_only(two: Flask, upstream: Upstream, b: Upstream, name: str) -> None:
    """Not for another failure of an attempt that the caller's own key has made."""
    headers = FREE | {"Authorization": f"Bearer {CALLER_KEY}"}
    upstream.default = CALLERS[name]
    answer = two.test_client().post("/v1/responses", json={"model": "alias", "input": "x"}, headers=headers)
    assert answer.status_code >= 400
    assert {received.key for received in upstream.received} == {CALLER_KEY}
    assert b.received == []
    upstream.script(reply(401, error_document()))
    upstream.default = reply(200, {"from": "a"})
    answer = two.test_client().post("/v1/responses", json={"model": "alias", "input": "x"}, headers=headers)
    assert (answer.get_json(), upstream.received[-1].key) == ({"from": "a"}, "sk-a-1")


def test_a_callers_key_at_another_upstream(two: Flask, upstream: Upstream, b: Upstream) -> None:
    """A header names it; the model's name is that upstream's."""
    headers = {"Authorization": f"Bearer {CALLER_KEY}", "X-Upstream": "b"}
    answer = two.test_client().post("/v1/responses", json={"model": "alias", "input": "x"}, headers=headers)
    assert (answer.status_code, upstream.received) == (200, [])
    assert (b.received[0].headers["api-key"], b.received[0].json["model"]) == (CALLER_KEY, "other")
    headers["X-Upstream"] = "nowhere"
    answer = two.test_client().post("/v1/responses", json={"model": "alias", "input": "x"}, headers=headers)
    assert answer.status_code == 422


OWN_ROUTES: dict[str, Any] = {
    "/api/v1/chat": {"user_message": "hi", "model": "alias"},
    "/api/v1/chat/preview": {"user_message": "hi", "model": "alias"},
    "/v1/responses": {"model": "alias", "input": "hi"},
    "/v1/chat/completions": {"model": "alias", "messages": []},
    "/v1/messages": CLAUDE | {"stream": False},
}


@pytest.mark.parametrize("path", OWN_ROUTES)
def test_every_route_takes_the_name_of_the_keys_upstream(
    two: Flask, upstream: Upstream, b: Upstream, path: str
) -> None:
    """The key goes there and nowhere else, with the name that the model has there; a name of nobody's is refused."""
    headers = {"X-OpenAI-Api-Key": CALLER_KEY, "X-Upstream": "b"}
    answer = two.test_client().post(path, json=OWN_ROUTES[path], headers=headers)
    assert answer.status_code == 200
    if path.endswith("preview"):
        (planned,) = answer.get_json()["plan"]
        assert (planned["upstream"], planned["model"], b.received) == ("b", "other", [])
    else:
        assert (b.received[0].headers["api-key"], b.received[0].json["model"]) == (CALLER_KEY, "other")
    refused = two.test_client().post(path, json=OWN_ROUTES[path], headers=headers | {"X-Upstream": "nowhere"})
    assert refused.status_code == 422
    assert "X-Upstream" in refused.get_data(as_text=True)
    assert upstream.received == []


def test_an_answer_that_another_upstream_gave_is_not_taken_from_the_cache(
    make_two: Make, upstream: Upstream, b: Upstream
) -> None:
    """One key may be good at both, and the header says which one is asked."""
    app = make_two(cache_enabled=True)
    upstream.default = text("from a")

    def asked(at: str) -> tuple[str, bool]:
        headers = {"X-OpenAI-Api-Key": CALLER_KEY, "X-Upstream": at}
        body = {"user_message": "hi", "model": "same"}
        told = app.test_client().post("/api/v1/chat", json=body, headers=headers).get_json()
        return told["response_text"], told["cached"]

    assert [asked(at) for at in "abab"] == [("from a", False), ("from b", False), ("from a", True), ("from b", True)]


def test_an_api_that_nobody_speaks(two: Flask, upstream: Upstream, b: Upstream) -> None:
    """404 with a sentence, and no row."""
    answer = two.test_client().post("/v1/embeddings", json={"model": "m", "input": "x"}, headers=FREE)
    assert (answer.status_code, answer.get_json()["error"]["code"]) == (404, "not_found")
    assert "embeddings" in answer.get_json()["error"]["message"]
    assert upstream.received == b.received == []


STREAMS = {"/v1/responses": response_events("from b"), "/v1/chat/completions": completion_events("from b")}


@pytest.mark.parametrize("path", STREAMS)
@pytest.mark.parametrize("beginning", ["nothing", "events"])
@pytest.mark.parametrize("ending", ["cut", "error", "silence"])
def test_a_stream_moves_on_before_its_first_content(
    two: Flask, upstream: Upstream, b: Upstream, path: str, beginning: str, ending: str
) -> None:
    """What it said before was held: the caller sees one whole stream."""
    first = STREAMS[path][:1] if beginning == "events" and path == "/v1/responses" else []
    upstream.default = broken_stream(first, ending)
    b.default = stream(STREAMS[path])
    options = {"stream_options": {"include_usage": True}}
    answer = two.test_client().post(path, json={"model": "alias", "stream": True} | options, headers=FREE)
    assert answer.status_code == 200
    # A comment with the cost follows.
    assert answer.get_data().partition(b"\n:")[0] == b"".join(STREAMS[path]).rstrip(b"\n") + b"\n"
    assert (len(upstream.received), len(b.received)) == (1, 1)


def test_after_its_first_content_a_stream_ends_with_an_error(two: Flask, upstream: Upstream, b: Upstream) -> None:
    """Never a splice."""
    events = STREAMS["/v1/responses"]
    upstream.default = broken_stream(events[:-1], "cut")
    answer = two.test_client().post("/v1/responses", json={"model": "alias", "stream": True}, headers=FREE)
    assert b'"error"' in answer.get_data()
    assert b.received == []


def test_the_native_stream_moves_on_as_well(two: Flask, upstream: Upstream, b: Upstream) -> None:
    """Its `start` names who answers."""
    upstream.default = broken_stream(STREAMS["/v1/responses"][:1], "error")
    b.default = stream(STREAMS["/v1/responses"])
    body = ask(two, stream=True).get_data()
    assert b"event: done" in body
    assert b"event: error" not in body
    assert body.count(b"event: start") == 1


def broken_stream(events: list[bytes], ending: str) -> Answer:
    """A stream that begins so and then is cut, tells an error, or says nothing more."""
    head = b"HTTP/1.1 200 X\r\nContent-Type: text/event-stream\r\nConnection: close\r\nContent-Length: 99999\r\n\r\n"
    parts = [head, *events]
    if ending == "error":
        parts.append(b'event: error\ndata: {"type": "error", "error": {"code": "server_error"}}\n\n')
    return pieces(parts, close=ending != "silence")


@pytest.mark.parametrize(("failure", "moves"), [(reply(500, error_document()), True), (CUT, False)])
def test_where_a_budget_pays_nobody_is_asked_after_a_cost(
    make_two: Make, upstream: Upstream, b: Upstream, failure: Answer, moves: bool, database_url: str
) -> None:
    """What was reserved covers one answer: a failure that is free moves on, and one that may have cost does not."""
    app = make_two(auth_mode="token")
    token = service(Accounts, app).add("app", Limits(free_mode=True, budget_nano=10**9, budget_period="total"))
    upstream.default = failure
    body, headers = NATIVE | {"model": "gpt-4o-mini"}, {"Authorization": f"Bearer {token}"}
    answer = app.test_client().post("/api/v1/chat", json=body, headers=headers)
    assert (answer.status_code == 200, len(b.received)) == (moves, moves)
    (row,) = settled(database_url)
    assert row["cost_nano"] > 0


def test_an_attempt_that_may_cost_is_billed(two: Flask, upstream: Upstream, b: Upstream, database_url: str) -> None:
    """Of what was given up, too: the sum is the request's, and each upstream has its part."""
    upstream.default = reply(
        200, response_document("", status="failed", error={"code": "server_error"}, model="gpt-4o-mini")
    )
    assert ask(two, model="gpt-4o-mini").status_code == 200
    (row,) = settled(database_url)
    totals = two.test_client().get("/api/v1/usage?by=upstream").get_json()["totals"]
    assert [(total["key"], total["requests"], total["ok"], total["output_tokens"]) for total in totals] == [
        ("a", 1, 0, 7),
        ("b", 1, 1, 7),
    ]
    assert float(totals[0]["cost_usd"]) == float(totals[1]["cost_usd"]) > 0
    assert row["cost_nano"] == round(1e9 * sum(float(total["cost_usd"]) for total in totals))


@pytest.mark.parametrize("failure", [None, reply(400, error_document("bad"))])
def test_a_request_with_one_attempt(two: Flask, upstream: Upstream, failure: Answer | None, database_url: str) -> None:
    """Its row has what there is to say of that; it is told like any other, and counted for its upstream."""
    if failure is not None:
        upstream.default = failure
    ask(two, model="gpt-4o-mini")
    (row,) = settled(database_url)
    caller = two.test_client()
    told = caller.get(f"/api/v1/usage/requests/{row['request_id']}").get_json()
    (tried,) = told["attempts"]
    assert (tried["upstream"], tried["model"], tried["outcome"]) == ("a", "gpt-4o-mini", row["code"] or "ok")
    assert 0 < tried["ms"] <= told["total_ms"]
    same = {"model_answered", "api_key_fingerprint", "input_tokens", "cached_tokens", "output_tokens", "estimated"}
    assert {name: tried[name] for name in same | {"cost_usd"}} == {name: told[name] for name in same | {"cost_usd"}}
    assert not {"upstream", "upstream_model", "answer_ms"} & told.keys()
    (total,) = caller.get("/api/v1/usage?by=upstream").get_json()["totals"]
    assert (total["key"], total["requests"], total["ok"], total["failed"]) == ("a", 1, failure is None, bool(failure))
    assert caller.get("/api/v1/usage?by=upstream&upstream=b").get_json()["totals"] == []
    assert [len(caller.get(f"/api/v1/usage?upstream={name}").get_json()["rows"]) for name in "ab"] == [1, 0]


def test_an_upstreams_own_price_is_billed_and_reserved(
    make_two: Make, tmp_path: Path, upstream: Upstream, b: Upstream, database_url: str
) -> None:
    """Where it answers, whatever the model calls itself; the dearest of the plan is reserved, and fits the budget."""
    file = tmp_path / "upstreams.toml"
    file.write_text(file.read_text() + "\n[upstreams.b.prices.other]\ninput = 1\noutput = 1000\n")
    app = make_two(auth_mode="token")

    def turn(name: str, **limits: Any) -> Any:
        token = service(Accounts, app).add(name, Limits(free_mode=True, budget_period="total", **limits))
        headers = {"Authorization": f"Bearer {token}"}
        body = NATIVE | {"model": "priced", "max_tokens": 10}
        return app.test_client().post("/api/v1/chat", json=body, headers=headers)

    upstream.default = reply(500, error_document())
    b.default = text("from b", model="what-it-calls-itself")
    assert turn("one", budget_nano=10**9).get_json()["cost_usd"] == "0.007011"
    (row,) = settled(database_url)
    assert row["cost_nano"] == 11 * 1000 + 7 * 1_000_000
    assert row["reserved_nano"] > 10 * 1_000_000
    assert turn("two", budget_nano=5_000_000).get_json()["code"] == "budget_exceeded"


def test_every_kind_of_failure_is_tried() -> None:
    """A new row of the table needs one above."""
    tried = {code for _, code in MOVES.values()} - {"upstream_rejected_request"}
    tried |= {"context_length_exceeded", "server_credentials_rejected", "server_quota_exhausted", "api_key_rejected"}
    assert tried | {"server_busy"} == TABLE.keys()


def test_delayed_answers_are_answers(two: Flask, upstream: Upstream, b: Upstream) -> None:
    """Within `first_byte_seconds`."""
    upstream.default = delayed(0.2, text("from a"))
    assert ask(two).get_json()["response_text"] == "from a"
    assert b.received == []


def test_the_models_of_all(two: Flask, upstream: Upstream, b: Upstream) -> None:
    """What the file names and what upstreams offer, each once; one that is down does not break the list."""
    b.default = reply(200, {"object": "list", "data": [{"id": "qwen3"}, {"id": "alias"}]})
    upstream.default = reply(500, error_document())
    client = two.test_client()
    listed = client.get("/v1/models", headers=FREE).get_json()["data"]
    assert [model["id"] for model in listed] == ["alias", "priced", "gpt-4o-mini", "same", "qwen3"]
    assert client.get("/v1/models/qwen3", headers=FREE).get_json() == {"id": "qwen3"}
    assert client.get("/v1/models/alias", headers=FREE).get_json()["owned_by"] == "llm-server"
    assert client.get("/v1/models/nothing", headers=FREE).status_code == 404
    assert len(b.received) == 1


def test_the_plan_can_be_seen(two: Flask, upstream: Upstream, b: Upstream) -> None:
    """By the preview and on the command line, with the reason for each place; nobody is asked."""
    plan = two.test_client().post("/api/v1/chat/preview", json=NATIVE).get_json()["plan"]
    assert plan == [
        {"upstream": "a", "model": "alias", "reason": "chosen by weight"},
        {"upstream": "a", "model": "alias", "reason": "chosen by weight"},
        {"upstream": "b", "model": "other", "reason": "on failure"},
    ]
    service(Fleet, two).upstreams["a"].health.rest_for(9, "upstream_error")
    told = two.test_cli_runner().invoke(args=["upstreams", "explain", "alias"]).output
    assert told.splitlines() == [
        "1. b  other  on failure",
        "2. a  alias  chosen by weight, rests (upstream_error)",
        "3. a  alias  chosen by weight, rests (upstream_error)",
    ]
    assert upstream.received == b.received == []


def test_commands_show_who_rests_everywhere(make_two: Make, upstream: Upstream) -> None:
    """As the workers have told each other: the upstream, or the key alone. `explain` sorts the plan by it."""
    worker, command = make_two(), make_two()
    first = service(Fleet, worker).upstreams["a"]
    first.key_health(first.settings.keys[0]).rest_for(60, "server_quota_exhausted")
    service(SharedHealth, worker).exchange()
    told = command.test_cli_runner().invoke(args=["upstreams", "explain", "alias"]).output
    assert told.splitlines() == [
        "1. a  alias  chosen by weight",
        "2. b  other  on failure",
        "3. a  alias  chosen by weight, rests (server_quota_exhausted)",
    ]
    first.health.rest_for(60, "upstream_rate_limited")
    service(SharedHealth, worker).exchange()
    told = make_two().test_cli_runner().invoke(args=["upstreams", "check"]).output
    assert re.search(r"^a  .*  rests for (59|60) s \(upstream_rate_limited\)$", told, re.MULTILINE)
    assert re.search(r"^  key 1: .*  rests for (59|60) s \(server_quota_exhausted\)$", told, re.MULTILINE)
    assert len(re.findall(r"rests for", told)) == 2


def test_commands_without_a_database(make_two: Make) -> None:
    """They say that they do not know who rests, and show the rest."""
    app = make_two(database_url="sqlite:////proc/no/such/place.db", token_digest_key="a-key-for-digests")
    told = app.test_cli_runner().invoke(args=["upstreams", "explain", "alias"])
    assert told.exit_code == 0
    assert told.output.splitlines()[0] == "the database is not available: which upstreams rest is not known"
    assert "2. a  alias  chosen by weight" in told.output


def test_the_file_can_be_checked(two: Flask, upstream: Upstream, b: Upstream) -> None:
    """Each upstream is asked with each key."""
    upstream.script(reply(200, {"data": []}), reply(401, error_document()))
    done = two.test_cli_runner().invoke(args=["upstreams", "check"])
    assert done.exit_code == 1
    assert "key 1: answers" in done.output
    assert "key 2: server_credentials_rejected" in done.output
    assert "alias  ->  a, b" in done.output
    upstream.default = b.default = reply(200, {"data": []})
    assert two.test_cli_runner().invoke(args=["upstreams", "check"]).exit_code == 0


def test_weights_and_sessions(make_two: Make, tmp_path: Path, upstream: Upstream, b: Upstream) -> None:
    """A target is first as often as its weight says; with affinity always the same for one session."""
    file = tmp_path / "upstreams.toml"
    targets = 'targets = [{upstream = "a", weight = 3}, {upstream = "b"}]'
    file.write_text(file.read_text() + f'\n[models.w]\n{targets}\n[models.s]\n{targets}\naffinity = "session"\n')
    fleet = service(Fleet, make_two())
    payer = Payer((fleet.upstreams["a"].settings.keys[0],))

    def first(model: str, session: str = "") -> str:
        return fleet.plan(payer, Wanted(model, "responses", session=session)).attempts[0].upstream.settings.name

    turns = "".join(first("w") for _ in range(1000))
    assert abs(turns.count("a") - 750) <= 3
    # By chance alone one window of 16 in seven is further off.
    windows = [turns[at : at + 16].count("a") for at in range(0, 992, 16)]
    assert all(abs(count - 12) <= 2 for count in windows)
    chosen = {str(number): first("s", str(number)) for number in range(1000)}
    assert 640 < sum(name == "a" for name in chosen.values()) < 860
    assert all(first("s", session) == name for session, name in chosen.items())


def shares(turns: Turns, among: Sequence[int], *, rounds: int = 3000, every: int = 1) -> list[float]:
    """How often each place is first, of every so many turns."""
    firsts = [turns.take(among)[0] for _ in range(rounds)][::every]
    return [firsts.count(place) / len(firsts) for place in among]


def test_turns_among_some() -> None:
    """Who cannot be asked gives its turns to all others by their weights, and has its own share again afterwards; who
    asks in turn for two things has each of them everywhere; workers begin anywhere."""
    turns = Turns([8, 1, 1, 2])
    assert shares(turns, [1, 2, 3]) == pytest.approx([0.25, 0.25, 0.5], abs=0.01)
    assert shares(turns, range(4)) == pytest.approx([8 / 12, 1 / 12, 1 / 12, 2 / 12], abs=0.01)
    assert shares(Turns([1, 1]), range(2), every=2) == pytest.approx([0.5, 0.5], abs=0.12)
    assert len({Turns([1, 1, 1]).take(range(3))[0] for _ in range(100)}) == 3
    assert Turns([]).take([]) == []


@pytest.mark.parametrize("reason", ["rests", "dialect"])
def test_the_turns_of_who_cannot_be_asked(make_two: Make, tmp_path: Path, reason: str) -> None:
    """They go to all other targets, by their weights."""
    file = tmp_path / "upstreams.toml"
    text = file.read_text()
    spoken = {"x": "messages" if reason == "dialect" else "responses", "y": "responses"}
    more = "".join(
        f'\n[upstreams.{name}]\nbase_url = "http://127.0.0.1:9/v1"\ndialects = ["{dialect}"]\nkey_env = "KEY_A"\n'
        for name, dialect in spoken.items()
    )
    weights = {"x": 8, "y": 1, "a": 1, "b": 2}
    targets = ", ".join(f'{{upstream = "{name}", weight = {weight}}}' for name, weight in weights.items())
    file.write_text(f"{text}{more}\n[models.w]\ntargets = [{targets}]\n")
    fleet = service(Fleet, make_two())
    payer = Payer((fleet.upstreams["a"].settings.keys[0],))
    if reason == "rests":
        fleet.upstreams["x"].health.rest_for(60, "upstream_error")
    plans = [fleet.plan(payer, Wanted("w", "responses")).attempts for _ in range(3000)]
    firsts = [attempts[0].upstream.settings.name for attempts in plans]
    assert [firsts.count(name) / 3000 for name in "yab"] == pytest.approx([0.25, 0.25, 0.5], abs=0.01)
    assert {attempts[-1].upstream.settings.name == "x" for attempts in plans} == {reason == "rests"}


def test_how_they_do_can_be_seen(two: Flask, upstream: Upstream, b: Upstream) -> None:
    """By a route for admins and by metrics; nothing in it is a key."""
    upstream.script(reply(401, error_document()))
    upstream.default = reply(500, error_document())
    for _ in range(5):
        with ask(two) as answer:
            assert answer.status_code == 200
    told = two.test_client().get("/api/v1/upstreams").get_data(as_text=True)
    first, second = json.loads(told)["upstreams"]
    assert (first["name"], first["state"], first["reason"]) == ("a", "rests", "upstream_error")
    assert 20 < first["due_in_seconds"] <= 36
    assert (first["recent_attempts"], first["success_rate"], first["p50_ms"]) == (6, 0, None)
    assert [key["state"] for key in first["keys"]] == ["rests", "well"]
    assert first["keys"][0]["reason"] == "server_credentials_rejected"
    assert (second["state"], second["success_rate"], second["in_flight"]) == ("well", 1, 0)
    assert "sk-" not in told
    metrics = samples(two.test_client().get("/metrics").get_data(as_text=True))
    assert value(metrics, "upstream_attempts_total", upstream="b", outcome="ok") == 5
    assert value(metrics, "upstream_attempts_total", upstream="a", outcome="upstream_error") == 5


def test_a_list_of_all_models_is_several_answers(
    two: Flask, upstream: Upstream, b: Upstream, database_url: str
) -> None:
    """Each is an attempt that went well."""
    upstream.default = b.default = reply(200, {"data": [{"id": "m"}]})
    assert two.test_client().get("/v1/models", headers=FREE).status_code == 200
    (row,) = settled(database_url)
    told = two.test_client().get(f"/api/v1/usage/requests/{row['request_id']}").get_json()["attempts"]
    assert [(one["upstream"], one["outcome"]) for one in told] == [("a", "ok"), ("b", "ok")]


def alone(make_two: Make, file: Path, upstream: Upstream, more: str = "") -> Flask:
    """An app whose file has one upstream."""
    file.write_text(f'[upstreams.a]\nbase_url = "{upstream.base_url}"\ndialects = ["responses"]\n{more}')
    return make_two()


def test_a_list_that_nobody_gives_has_failed(
    make_two: Make, tmp_path: Path, upstream: Upstream, database_url: str
) -> None:
    """The request is answered all the same; its only attempt is not taken for an answer."""
    app = alone(make_two, tmp_path / "upstreams.toml", upstream, 'key_env = "KEY_A"')
    upstream.default = reply(400, error_document())
    assert app.test_client().get("/v1/models", headers=FREE).status_code == 200
    (row,) = settled(database_url)
    caller = app.test_client()
    (tried,) = caller.get(f"/api/v1/usage/requests/{row['request_id']}").get_json()["attempts"]
    assert (row["status"], tried["outcome"] == "ok", tried["upstream"]) == ("ok", False, "a")
    (total,) = caller.get("/api/v1/usage?by=upstream").get_json()["totals"]
    assert (total["requests"], total["ok"], total["failed"]) == (1, 0, 1)


def test_an_upstream_without_a_key(make_two: Make, tmp_path: Path, upstream: Upstream, database_url: str) -> None:
    """Has no fingerprint of one."""
    app = alone(make_two, tmp_path / "upstreams.toml", upstream)
    upstream.default = GOOD
    assert ask(app).status_code == 200
    (row,) = settled(database_url)
    (tried,) = app.test_client().get(f"/api/v1/usage/requests/{row['request_id']}").get_json()["attempts"]
    assert (tried["outcome"], tried["api_key_fingerprint"], row["api_key_fingerprint"]) == ("ok", None, None)


def test_plain_python_asks_the_same_upstreams(
    two: Flask, upstream: Upstream, b: Upstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the same file, and after a failure the next one."""
    monkeypatch.setenv("UPSTREAMS_FILE", str(tmp_path / "upstreams.toml"))
    upstream.default = reply(500, error_document())
    assert ChatService().process_chat_request(ChatRequest(user_message="hi", model="alias")).response_text == "from b"


def test_what_an_attempt_counted_is_its_own(two: Flask, upstream: Upstream, b: Upstream, database_url: str) -> None:
    """The input that one upstream counted before it broke off is not the next one's."""
    begun = event({"type": "message_start", "message": {"model": "x", "usage": {"input_tokens": 500}}}, "message_start")
    upstream.default = broken_stream([begun], "cut")
    b.default = broken_stream([begun.replace(b"500", b"7")], "cut")
    two.test_client().post("/v1/messages", json=CLAUDE, headers=FREE).get_data()
    (row,) = settled(database_url)
    told = two.test_client().get(f"/api/v1/usage/requests/{row['request_id']}").get_json()["attempts"]
    assert [one["input_tokens"] for one in told] == [500, 7]
