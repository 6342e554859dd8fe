"""Limits: what a client may do, how it is told no, and that no crowd, worker or crash gets past them."""

from __future__ import annotations

import datetime as dt
import json
import time
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from app.calls.call import Call
from app.ledger.accounts import Accounts, Limits
from app.ledger.admission import Admission
from app.ledger.client_rows import hold
from app.ledger.ledger import Ledger
from app.ledger.limits import Ask, Opening
from app.store.database import Database
from app.store.tables import requests, spending
from app.tokens import estimate_tokens
from app.units import MICROSECONDS, MICROSECONDS_PER_DAY
from app.web.services import service
from tests.conftest import CALLER_KEY, EVERY_STORE
from tests.records import connected, settled, spent
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
    passed = app.test_client().post(
        "/v1/responses",
        json={"model": model, "input": [{"content": "x"}]},
        headers={"Authorization": f"Bearer {token}", "X-Free-Mode": "true"},
    )
    assert answer.status_code == passed.status_code == (200 if allowed else 403)
    assert allowed or answer.get_json()["code"] == passed.get_json()["error"]["code"] == "model_not_allowed"
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
    token = service(Accounts, app).add("web", Limits(requests_per_minute=2))
    assert [chat(app, token).status_code for _ in range(2)] == [200, 200]
    settled(database_url)
    with connected(database_url) as connection:
        connection.execute(requests.update().where(requests.c.id == 1).values(created_at=int((time.time() - 50) * 1e6)))
    assert assert_limited(chat(app, token), "rate_limited", 2, MINUTE) <= 10
    with connected(database_url) as connection:
        connection.execute(requests.update().where(requests.c.id == 1).values(created_at=int((time.time() - 61) * 1e6)))
    assert [chat(app, token).status_code for _ in range(2)] == [200, 429]


@pytest.mark.parametrize("ahead_seconds", [20, 120, 3600, 86_400])
def test_the_clock_is_set_back(app: Flask, database_url: str, ahead_seconds: int) -> None:
    """What was written by the clock of before locks nobody out, and nobody is told to wait longer than the window."""
    token = service(Accounts, app).add("web", Limits(requests_per_minute=2, concurrency=1))
    assert [chat(app, token).status_code for _ in range(2)] == [200, 200]
    settled(database_url)
    ahead = int((time.time() + ahead_seconds) * 1e6)
    with connected(database_url) as connection:
        values = {"created_at": ahead, "lease_until": ahead + 60_000_000, "status": "pending"}
        connection.execute(requests.update().values(values))
    assert [chat(app, token).status_code for _ in range(2)] == [200, 200]
    assert assert_limited(chat(app, token), "rate_limited", 2, MINUTE) <= MINUTE


@pytest.mark.parametrize("ahead_seconds", [0.5, 4])
def test_a_clock_that_is_a_little_ahead(app: Flask, database_url: str, ahead_seconds: float) -> None:
    """Another worker's requests count, and Retry-After stays within the window."""
    token = service(Accounts, app).add("web", Limits(requests_per_minute=2))
    assert [chat(app, token).status_code for _ in range(2)] == [200, 200]
    settled(database_url)
    with connected(database_url) as connection:
        connection.execute(requests.update().values(created_at=int((time.time() + ahead_seconds) * 1e6)))
    assert assert_limited(chat(app, token), "rate_limited", 2, MINUTE) <= MINUTE


def _set_ahead(database_url: str, hours: int) -> int:
    """Have PostgreSQL's clock be so many hours ahead of the machine's; gives by how many the store's clock is."""
    if database_url.startswith("sqlite"):
        return 0
    with connected(database_url) as connection:
        name = connection.execute(sa.text("SELECT current_database()")).scalar_one()
        connection.execute(sa.text(f"ALTER DATABASE {name} SET search_path = public, pg_catalog"))
        ahead = f"SELECT pg_catalog.clock_timestamp() + interval '{hours} hours'"
        function = f"public.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS $${ahead}$$"
        connection.execute(sa.text(f"CREATE OR REPLACE FUNCTION {function}"))
    return hours


def test_the_clock_of_a_shared_database_counts(make_app: Callable[..., Flask], database_url: str) -> None:
    """For rows, leases and tokens, from the first request on, and each sweep asks again. SQLite has none of its own."""
    first = _set_ahead(database_url, 5)
    app = make_app(auth_mode="token")
    in_an_hour = int((time.time() + 3600) * MICROSECONDS)
    accounts = service(Accounts, app)
    token, expiring = accounts.add("app", Limits()), accounts.add("expiring", Limits(expires_at=in_an_hour))
    assert [chat(app, token).status_code, chat(app, expiring).status_code] == [200, 401 if first else 200]
    second = _set_ahead(database_url, 10)
    service(Ledger, app).sweep()
    assert chat(app, token).status_code == 200
    for ahead, row in zip((first, second), (settled(database_url)[0], settled(database_url)[-1]), strict=True):
        moments = [row[name] / MICROSECONDS for name in ("created_at", "lease_until", "settled_at")]
        assert [round((moment - time.time()) / 3600) for moment in moments] == [ahead] * 3


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


@pytest.mark.parametrize(
    ("period", "day", "seconds"),
    [("month", 10, 86_400), ("month", 31, 43_200), ("day", 10, 43_200), ("total", 10, 86_400)],
)
def test_when_a_used_up_budget_is_asked_again(app: Flask, period: str, day: int, seconds: int) -> None:
    """When its period ends, and after a day at most: a caller that sleeps for weeks would not notice a new limit."""
    noon = dt.datetime(2027, 1, day, 12, tzinfo=dt.UTC).timestamp()
    database = service(Database, app)
    accounts = Accounts(database, b"k" * 32, clock=lambda: noon)
    principal = accounts.principal(accounts.add("web", Limits(budget_nano=1, budget_period=period)))
    ask, call = Ask(route="/api/v1/chat", model=MODEL, max_tokens=10), Call(5)
    opening = Opening(call=call, principal=principal, ask=ask, server_pays=True, worst_nano=lambda limit: 1000)
    admission = Admission(accounts, "owner", token_required=True, max_output_tokens=10, clock=lambda: noon)

    def admit(connection: sa.Connection) -> list[Any]:
        return admission.admit_all(connection, [opening], hold(connection, [principal.account.id]))

    (refused,) = database.write(admit)
    assert (refused.error_code, refused.retry_after) == ("budget_exceeded", seconds)


def test_a_budget_renews_with_its_period(app: Flask, upstream: Upstream, database_url: str) -> None:
    """What was spent yesterday does not count today; today has a sum of its own, which begins at midnight UTC."""
    budget = 100 * 600 + 50 * 150
    token = service(Accounts, app).add("web", Limits(budget_nano=budget, budget_period="day"))
    upstream.default = text("x", usage={"input_tokens": 0, "output_tokens": 100, "total_tokens": 100})
    today = int(time.time() * MICROSECONDS) // MICROSECONDS_PER_DAY * MICROSECONDS_PER_DAY
    assert chat(app, token).status_code == 200
    settled(database_url)
    assert chat(app, token).status_code == 429
    with connected(database_url) as connection:
        yesterday = today - MICROSECONDS_PER_DAY
        connection.execute(spending.update().values(period_start=spending.c.period_start - MICROSECONDS_PER_DAY))
    assert chat(app, token).status_code == 200
    settled(database_url)
    with connected(database_url) as connection:
        periods = connection.execute(sa.select(spending.c.period_start).order_by(spending.c.period_start)).scalars()
        assert list(periods) == [yesterday, today]


@pytest.mark.parametrize(
    ("limit", "tokens"),
    [
        ({"max_completion_tokens": 8}, 8),
        ({"max_tokens": 9}, 9),
        ({"max_tokens": 9, "max_completion_tokens": 3}, 9),
        ({"max_tokens": 9, "n": 4}, 36),
        ({"max_tokens": 9, "best_of": 4}, 36),
        ({"max_tokens": 9, "n": 2, "best_of": 4}, 36),
        ({"max_output_tokens": 7, "max_tokens": 9}, 9),
        ({"max_output_tokens": 7}, 50),
        ({"max_tokens": None}, 50),
        ({}, 50),
    ],
)
def test_what_a_passed_through_request_reserves(
    make_app: Callable[..., Flask], upstream: Upstream, database_url: str, limit: dict[str, Any], tokens: int
) -> None:
    """Its prompt and the largest limit that its route obeys, for each choice, as long as it is in flight.

    A request that names none is given MAX_OUTPUT_TOKENS as its limit.
    """
    app = make_app(auth_mode="token", max_output_tokens=50)
    token = service(Accounts, app).add("web", Limits(budget_nano=10**9, budget_period="total"))
    reserved: list[int] = []

    async def look(received: Any, writer: Any) -> None:
        reserved.append(spent(database_url)[1])
        await text("x")(received, writer)

    upstream.default = look
    headers = {"Authorization": f"Bearer {token}", "X-Free-Mode": "true"}
    body = json.dumps({"model": MODEL, "messages": []} | limit)
    answer = app.test_client().post("/v1/chat/completions", data=body, content_type="application/json", headers=headers)
    assert answer.status_code == 200
    assert reserved == [estimate_tokens(body) * 150 + tokens * 600]
    assert upstream.received[0].json.get("max_completion_tokens", tokens) in {tokens, 3}
    settled(database_url)
    assert spent(database_url)[1] == 0
