"""The limit of calls through the app: a busy server, and slots that come back."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask

from app.calls.call import Call
from app.errors import ConfigurationException
from app.models import ChatRequest
from app.services.chat import ChatService
from app.upstreams.slots import Slots
from app.web.services import service
from tests.unit.test_slots import wait_until
from tests.upstream import Answer, Received, Upstream, delayed, echo, error_document, reply, reset, silence

CHAT = "/api/v1/chat"


def test_busy_server(make_app: Callable[..., Flask], upstream: Upstream, threads: ThreadPoolExecutor) -> None:
    """Over the API: the call in the slot is answered, the other is a 503 with Retry-After, and upstream sees one."""
    app = make_app(max_concurrent_requests=1, max_queue_seconds=0.1)
    upstream.script(delayed(0.5, echo))

    def chat(message: str) -> tuple[int, object, str | None]:
        answer = app.test_client().post(CHAT, json={"user_message": message, "free_mode": True})
        body = answer.get_json()
        return answer.status_code, body.get("response_text") or body["code"], answer.headers.get("Retry-After")

    first = threads.submit(chat, "first")
    wait_until(lambda: upstream.received)
    assert chat("second") == (503, "server_busy", "1")
    assert first.result() == (200, "first", None)
    assert len(upstream.received) == 1
    assert chat("third") == (200, "third", None)


def test_a_request_nobody_pays_for_does_not_wait(make_app: Callable[..., Flask], upstream: Upstream) -> None:
    """What is refused anyway is refused at once, however busy the server is."""
    app = make_app(max_concurrent_requests=1, max_queue_seconds=5)
    service(Slots, app).acquire(Call(10))
    began = time.monotonic()
    with pytest.raises(ConfigurationException):
        service(ChatService, app).process_chat_request(ChatRequest(user_message="hi"))
    for body, status in [({"user_message": "hi"}, 401), ({"user_message": "", "free_mode": True}, 422)]:
        assert app.test_client().post(CHAT, json=body).status_code == status
    assert time.monotonic() - began < 1


OTHER_KEY = "sk-limited-0123456789"


@pytest.mark.parametrize(
    "limited",
    [
        reply(429, error_document(), {"Retry-After": "30"}),
        reply(429, error_document(), {"Retry-After": "2"}),
        reply(429, [{"error": {"code": 429, "details": [{"retryDelay": "37s"}]}}]),
        reply(503, error_document(), {"Retry-After": "4"}),
    ],
    ids=["30 s", "2 s", "37 s in the body", "503"],
)
def test_nobody_sleeps_in_a_slot(
    make_app: Callable[..., Flask], upstream: Upstream, threads: ThreadPoolExecutor, limited: Answer
) -> None:
    """While one key is limited, a call with another key is answered at once, however few slots there are."""
    app = make_app(max_concurrent_requests=2, max_queue_seconds=0.2, request_timeout=10)

    async def answer(received: Received, writer: Any) -> None:
        await (limited if received.key == OTHER_KEY else echo)(received, writer)

    def chat(key: str) -> int:
        return app.test_client().post(CHAT, json={"user_message": "hi", "openai_api_key": key}).status_code

    upstream.default = answer
    waiting = [threads.submit(chat, OTHER_KEY) for _ in range(4)]
    wait_until(lambda: len(upstream.received) >= 4)
    wait_until(lambda: service(Slots, app).in_use == 0)
    began = time.monotonic()
    assert chat("sk-another-0123456789") == 200
    assert time.monotonic() - began < 1
    assert {answer.result() for answer in waiting} <= {429, 503}
    assert service(Slots, app).in_use == 0


@pytest.mark.parametrize(
    ("headers", "retry_after"),
    [
        ({"Retry-After": "30"}, "30"),
        ({"retry-after-ms": "30000"}, "30"),
        ({"x-ratelimit-reset-requests": "30s"}, "30"),
        ({"Retry-After": "5.5"}, "6"),
    ],
)
def test_a_long_wait_is_told_at_once(
    make_app: Callable[..., Flask], upstream: Upstream, headers: dict[str, str], retry_after: str
) -> None:
    """More than five seconds are the caller's to wait."""
    app = make_app(request_timeout=60)
    upstream.default = reply(429, error_document(), headers)
    began = time.monotonic()
    answer = app.test_client().post(CHAT, json={"user_message": "hi", "free_mode": True})
    assert time.monotonic() - began < 1
    assert (answer.status_code, answer.headers["Retry-After"]) == (429, retry_after)
    assert answer.headers["X-Should-Retry"] == "true"
    assert len(upstream.received) == 1


def test_a_short_wait_is_ours(make_app: Callable[..., Flask], upstream: Upstream) -> None:
    """To the millisecond, where upstream says it."""
    upstream.script(reply(429, error_document(), {"retry-after-ms": "300", "Retry-After": "1"}))
    answer = make_app().test_client().post(CHAT, json={"user_message": "hi", "free_mode": True})
    assert answer.status_code == 200
    first, second = upstream.received
    assert 0.3 <= second.came - first.came < 0.9


def test_slots_come_back_whatever_happens(
    make_app: Callable[..., Flask], upstream: Upstream, threads: ThreadPoolExecutor
) -> None:
    """A burst of good calls, failures, resets, silence and refusals for want of a slot leaves every slot free."""
    app = make_app(max_concurrent_requests=4, max_queue_seconds=0.05, request_timeout=0.4)
    upstream.script(
        *[echo, reset(), silence(), reply(500, error_document()), reply(200, b"?"), delayed(0.1, echo)] * 10
    )

    def chat(number: int) -> int:
        return app.test_client().post(CHAT, json={"user_message": str(number), "free_mode": True}).status_code

    statuses = set(threads.map(chat, range(80)))
    assert statuses >= {200, 502, 503, 504}
    assert upstream.most_in_flight <= 4
    assert service(Slots, app).in_use == 0
