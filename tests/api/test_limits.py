"""Limits: what a client may do, how it is told no, and that no crowd, worker or crash gets past them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import pytest
from flask import Flask

from app.ledger.accounts import Accounts, Limits
from app.web.services import service
from tests.conftest import CALLER_KEY, EVERY_STORE
from tests.records import settled, spent
from tests.upstream import Upstream, text

MODEL = "gpt-4o-mini"
TURN = {"user_message": "hi", "free_mode": True, "model": MODEL, "max_tokens": 100}
MINUTE = 60


pytestmark = EVERY_STORE


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Flask:
    return make_app(auth_mode="token")


def chat(app: Flask, token: str, **fields: Any) -> Any:
    """One chat turn."""
    headers = {"Authorization": f"Bearer {token}"}
    return app.test_client().post("/api/v1/chat", json=TURN | fields, headers=headers)


def assert_limited(answer: Any, code: str, quota: int, window: int) -> int:
    """A 429 that says which limit it was and when to come back; gives those seconds."""
    assert (answer.status_code, answer.get_json()["code"]) == (429, code)
    seconds = int(answer.headers["Retry-After"])
    assert answer.headers["RateLimit-Policy"] == f'"{code}";q={quota};w={window}'
    assert answer.headers["RateLimit"] == f'"{code}";r=0;t={seconds}'
    assert 1 <= seconds <= max(window, 1)
    return seconds


@pytest.mark.parametrize(
    ("patterns", "model", "allowed"),
    [
        ("", "anything", True),
        ("gpt-4o", "gpt-4o", True),
        ("gpt-4o", "gpt-4o-mini", False),
        ("gpt-4o*", "gpt-4o-mini", True),
        ("o1,gpt-4o*", "o1", True),
        ("o1,gpt-4o*", "O1", False),
        ("gpt-4o*", "xgpt-4o", False),
    ],
)
def test_models(app: Flask, upstream: Upstream, patterns: str, model: str, allowed: bool) -> None:
    """By pattern, on both routes; what is not allowed never reaches upstream."""
    token = service(Accounts, app).add("web", Limits(models=patterns))
    answer = chat(app, token, model=model)
    door = app.test_client().post(
        "/v1/responses",
        json={"model": model, "input": [{"content": "x"}]},
        headers={"Authorization": f"Bearer {token}", "X-Free-Mode": "true"},
    )
    assert answer.status_code == door.status_code == (200 if allowed else 403)
    assert allowed or answer.get_json()["code"] == door.get_json()["error"]["code"] == "model_not_allowed"
    assert bool(upstream.received) == allowed


def test_a_client_without_free_mode(app: Flask, upstream: Upstream) -> None:
    """It has to bring its own key."""
    token = service(Accounts, app).add("web", Limits(free_mode=False))
    refused = chat(app, token)
    assert (refused.status_code, refused.get_json()["code"]) == (403, "free_mode_not_allowed")
    assert chat(app, token, free_mode=False, openai_api_key=CALLER_KEY).status_code == 200
    assert [received.key for received in upstream.received] == [CALLER_KEY]


def test_requests_per_minute(app: Flask, upstream: Upstream, database_url: str) -> None:
    """Each client has its own; refused requests count for nothing."""
    accounts = service(Accounts, app)
    web, other = (
        accounts.add("web", Limits(requests_per_minute=3)),
        accounts.add("other", Limits(requests_per_minute=1)),
    )
    assert [chat(app, web).status_code for _ in range(3)] == [200] * 3
    for _ in range(3):
        assert assert_limited(chat(app, web), "rate_limited", 3, MINUTE) > MINUTE - 10
    assert chat(app, other).status_code == 200
    assert len(settled(database_url)) == len(upstream.received) == 4


def test_the_minute_slides(app: Flask, database_url: str) -> None:
    """A request counts for 60 seconds after it came."""
    from app.store.tables import requests
    from tests.records import connected

    token = service(Accounts, app).add("web", Limits(requests_per_minute=2))
    assert [chat(app, token).status_code for _ in range(2)] == [200, 200]
    settled(database_url)
    with connected(database_url) as connection:
        connection.execute(requests.update().where(requests.c.id == 1).values(created_at=int((time.time() - 50) * 1e6)))
    assert assert_limited(chat(app, token), "rate_limited", 2, MINUTE) <= 10
    with connected(database_url) as connection:
        connection.execute(requests.update().where(requests.c.id == 1).values(created_at=int((time.time() - 61) * 1e6)))
    assert [chat(app, token).status_code for _ in range(2)] == [200, 429]


def test_a_budget(app: Flask, upstream: Upstream, database_url: str) -> None:
    """The worst case must fit; what is left of it after the answer can be used again."""
    budget = 100 * 600 + 50 * 150
    token = service(Accounts, app).add("web", Limits(budget_nano=budget, budget_period="total"))
    upstream.default = text("x")
    assert chat(app, token).status_code == 200
    settled(database_url)
    assert spent(database_url) == (11 * 150 + 7 * 600, 0)
    assert_limited(chat(app, token, max_tokens=101), "budget_exceeded", budget, 86_400)
    assert chat(app, token, max_tokens=10).status_code == 200
    settled(database_url)
    assert spent(database_url) == (2 * (11 * 150 + 7 * 600), 0)
    assert chat(app, token, free_mode=False, openai_api_key=CALLER_KEY).status_code == 200
    unknown = chat(app, token, model="no-such-model")
    assert (unknown.status_code, unknown.get_json()["code"]) == (403, "model_price_unknown")
