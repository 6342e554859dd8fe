"""The response cache: what is kept, for how long, for whom, and that a crowd makes one upstream call."""

from __future__ import annotations

import itertools
import socket
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app.calls.call import Call
from app.ledger.accounts import Accounts, Limits
from app.store.threads import wait_until
from app.upstreams.slots import Slots
from app.web.services import service
from tests.conftest import CALLER_KEY
from tests.unit.test_cache import NOT_SHAPING, SHAPING
from tests.unit.test_keys import refuse
from tests.upstream import Answer, Received, Upstream, delayed, echo, error_document, reply, text

CHAT = "/api/v1/chat"
QUESTION = {"user_message": "hi", "free_mode": True}


@pytest.fixture
def client(make_app: Callable[..., Flask]) -> FlaskClient:
    return make_app(cache_enabled=True).test_client()


def ask(client: FlaskClient, headers: dict[str, str] | None = None, **fields: Any) -> TestResponse:
    """Ask the question, changed by `fields`."""
    return client.post(CHAT, json=QUESTION | fields, headers=headers)


def hits(client: FlaskClient, **fields: Any) -> bool:
    """Tell whether the question, changed by `fields`, is answered from the cache."""
    answer = ask(client, **fields)
    assert answer.status_code == 200
    cached = answer.get_json()["cached"]
    assert answer.headers.get("X-Cache") == ("hit" if cached else None)
    return bool(cached)


def numbered() -> Answer:
    """Answer 1, 2, 3, …: every upstream call shows."""
    count = itertools.count(1)

    async def answer(received: Received, writer: Any) -> None:
        await text(str(next(count)))(received, writer)

    return answer


def test_off_by_default(make_app: Callable[..., Flask], upstream: Upstream) -> None:
    """Unless it is enabled, every request is a call of its own and says nothing of a cache."""
    client = make_app().test_client()
    for _ in range(2):
        answer = ask(client)
        assert (answer.get_json()["cached"], "X-Cache" in answer.headers) == (False, False)
    assert len(upstream.received) == 2


def test_a_hit_is_the_same_answer(client: FlaskClient, upstream: Upstream) -> None:
    """A hit repeats the answer, says so, costs nothing, and has its own request id and time."""
    upstream.default = numbered()
    first, second = ask(client), ask(client)
    assert len(upstream.received) == 1
    assert (first.get_json()["cached"], "X-Cache" in first.headers) == (False, False)
    assert (second.get_json()["cached"], second.headers["X-Cache"]) == (True, "hit")
    own = {"cached", "request_id", "response_time", "cost_usd"}
    assert {name for name, value in first.get_json().items() if second.get_json()[name] != value} == own
    assert second.get_json()["request_id"] == second.headers["X-Request-ID"]
    assert "X-Upstream-Request-ID" not in second.headers


def test_a_hit_takes_no_slot(make_app: Callable[..., Flask], upstream: Upstream) -> None:
    """What is kept is answered although every slot is taken; what is not has to wait."""
    app = make_app(cache_enabled=True, max_concurrent_requests=1, max_queue_seconds=0)
    client = app.test_client()
    assert not hits(client)
    service(Slots, app).acquire(Call(10))
    assert hits(client)
    assert ask(client, user_message="other").get_json()["code"] == "server_busy"


@pytest.mark.parametrize("value", ["no-cache", "No-Cache", "max-age=0, no-cache"])
def test_no_cache_skips_it(client: FlaskClient, upstream: Upstream, value: str) -> None:
    """A request that asks for it is answered by upstream, and leaves what is kept as it was."""
    upstream.default = numbered()
    told = [ask(client, {"Cache-Control": header}).get_json() for header in ("", value, "max-age=0")]
    assert [(answer["response_text"], answer["cached"]) for answer in told] == [
        ("1", False),
        ("2", False),
        ("1", True),
    ]


@pytest.mark.parametrize("field", SHAPING)
def test_what_shapes_the_answer_is_in_the_key(client: FlaskClient, upstream: Upstream, field: str) -> None:
    """Two requests that differ in such a field never share an answer."""
    upstream.default = numbered()
    assert not hits(client)
    assert not hits(client, **{field: SHAPING[field]})
    assert hits(client, **{field: SHAPING[field]})
    assert hits(client)
    assert len(upstream.received) == 2


@pytest.mark.parametrize("field", NOT_SHAPING)
def test_what_does_not_is_not(client: FlaskClient, field: str) -> None:
    """Who asks, and a default that is spelled out, change nothing; the session id of the asker is echoed."""
    assert not hits(client, session_id="one session")
    answer = ask(client, **{field: NOT_SHAPING[field]}).get_json()
    assert (answer["cached"], answer["session_id"]) == (True, NOT_SHAPING[field] if field == "session_id" else "")


def test_turns_that_are_dropped_do_not_count(client: FlaskClient, upstream: Upstream) -> None:
    """What shapes the answer is the history that upstream sees: a hit tells how much of this request's was dropped."""
    history = ["user: " + "long ago " * 2000, "assistant: yes", "user: and now?"]
    assert not hits(client, conversation_history=history)
    assert not hits(client, conversation_history=history, max_context_tokens=500)
    answer = ask(client, conversation_history=history[2:]).get_json()
    assert (answer["cached"], answer["dropped_turns"]) == (True, 0)
    assert ask(client, conversation_history=history, max_context_tokens=500).get_json()["dropped_turns"] == 2
    assert len(upstream.received) == 2


def test_another_key_never_gets_the_answer(client: FlaskClient, upstream: Upstream) -> None:
    """An answer belongs to the key that paid for it: each caller's, and the server's."""
    upstream.default = numbered()
    payers = [{"openai_api_key": CALLER_KEY}, {"openai_api_key": CALLER_KEY + "0"}, {}]
    for expected in ((False, "123"), (True, "123")):
        answers = [ask(client, **payer).get_json() for payer in payers]
        assert {answer["cached"] for answer in answers} == {expected[0]}
        assert "".join(answer["response_text"] for answer in answers) == expected[1]
    assert ask(client, free_mode=False).status_code == 401


def test_an_answer_that_the_servers_key_paid_for_is_not_the_callers(client: FlaskClient, upstream: Upstream) -> None:
    """When the caller's key is refused and the server's pays, the answer is kept under the server's key."""
    upstream.default = refuse(CALLER_KEY)
    assert ask(client, openai_api_key=CALLER_KEY).get_json()["api_key_source"] == "default"
    hit = ask(client).get_json()
    assert (hit["cached"], hit["api_key_source"]) == (True, "default")
    assert ask(client, openai_api_key=CALLER_KEY, free_mode=False).get_json()["code"] == "api_key_rejected"


def test_failures_are_not_kept(client: FlaskClient, upstream: Upstream) -> None:
    """After a failure the next request tries anew."""
    for answer in (reply(400, error_document()), reply(200, b"?")):
        upstream.script(answer)
        assert ask(client).status_code in {400, 502}
    assert not hits(client)
    assert hits(client)


def test_a_crowd_makes_one_call(
    make_app: Callable[..., Flask], upstream: Upstream, threads: ThreadPoolExecutor
) -> None:
    """Identical requests at once: one asks upstream, the others get its answer and take no slot."""
    app = make_app(cache_enabled=True, max_concurrent_requests=1, max_queue_seconds=0)
    upstream.script(delayed(0.3, echo))
    answers = list(threads.map(lambda _: ask(app.test_client()).get_json(), range(20)))
    assert [answer["response_text"] for answer in answers] == ["hi"] * 20
    assert sorted(answer["cached"] for answer in answers) == [False] + [True] * 19
    assert len(upstream.received) == 1


def test_different_requests_do_not_wait_for_each_other(
    make_app: Callable[..., Flask], upstream: Upstream, threads: ThreadPoolExecutor
) -> None:
    """Only identical requests share a call."""
    app = make_app(cache_enabled=True)
    upstream.default = delayed(0.2, echo)
    began = time.monotonic()
    answers = list(threads.map(lambda name: ask(app.test_client(), user_message=name).get_json(), "abcdefgh"))
    assert [answer["response_text"] for answer in answers] == list("abcdefgh")
    assert upstream.most_in_flight > 1
    assert time.monotonic() - began < 1.5


def test_a_follower_whose_caller_leaves_waits_no_longer(
    make_app: Callable[..., Flask], upstream: Upstream, threads: ThreadPoolExecutor
) -> None:
    """It is noticed although the request has no slot and no upstream call of its own."""
    app = make_app(cache_enabled=True)
    upstream.default = delayed(3, text("slow"))
    leader = threads.submit(ask, app.test_client())
    wait_until(lambda: len(upstream.received) == 1, 5)
    here, there = socket.socketpair()
    there.close()
    with here:
        left = app.test_client().post(CHAT, json=QUESTION, environ_overrides={"gunicorn.socket": here})
    assert (left.status_code, leader.done()) == (499, False)
    assert leader.result().status_code == 200


def test_followers_try_themselves_when_the_leader_fails(
    make_app: Callable[..., Flask], upstream: Upstream, threads: ThreadPoolExecutor
) -> None:
    """A failure is its own caller's only: the next in line asks upstream, and the rest get that answer."""
    app = make_app(cache_enabled=True)
    failure = delayed(0.2, reply(400, error_document()))
    upstream.script(failure, failure, delayed(0.2, echo))
    statuses = list(threads.map(lambda _: ask(app.test_client()).status_code, range(10)))
    assert sorted(statuses) == [200] * 8 + [400] * 2
    assert len(upstream.received) == 3


def test_a_hit_is_cleaned_like_the_first_answer(client: FlaskClient, upstream: Upstream) -> None:
    """The bytes that are kept are read anew: lone surrogates are replaced in a hit as well."""
    upstream.script(text("a\ud800"))
    assert [ask(client).get_json()["response_text"] for _ in range(2)] == ["a\ufffd"] * 2


def test_each_client_has_its_own_answers(make_app: Callable[..., Flask], upstream: Upstream) -> None:
    """A client does not learn by `X-Cache` what another one has asked, although the same key pays for both."""
    upstream.default = numbered()
    app = make_app(cache_enabled=True, auth_mode="token")
    client, accounts = app.test_client(), service(Accounts, app)
    alice, bob = ({"Authorization": f"Bearer {accounts.add(name, Limits())}"} for name in ("alice", "bob"))
    answers = [ask(client, headers).get_json() for headers in (alice, bob, alice, bob)]
    assert [answer["cached"] for answer in answers] == [False, False, True, True]
    assert [answer["response_text"] for answer in answers] == ["1", "2", "1", "2"]
