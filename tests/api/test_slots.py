"""The limit of calls through the app: a busy server, and slots that come back."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from flask import Flask

from app.calls.call import Call
from app.errors import ConfigurationException
from app.models import ChatRequest
from app.services.chat import ChatService
from app.upstreams.slots import Slots
from app.web.services import service
from tests.unit.test_slots import wait_until
from tests.upstream import Upstream, delayed, echo, error_document, reply, reset, silence

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
