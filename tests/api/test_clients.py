"""Clients over HTTP: an admin adds them, changes their limits and ends their tokens, by the rules of the commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from app.ledger.accounts import Accounts, Limits
from app.ledger.tokens import is_token
from app.web.services import service
from tests.conftest import EVERY_STORE
from tests.records import settled

Call = Callable[..., Any]
LIMITS: dict[str, Any] = {
    "rpm": 60,
    "concurrency": 20,
    "budget_usd": "5/day",
    "per_user_rpm": 6,
    "per_user_budget_usd": "0.5/month",
    "models": ["gpt-4o*", "o1"],
    "free_mode": False,
    "admin": True,
    "expires_at": "2999-01-31T09:00:00+09:00",
}
TOLD = LIMITS | {"expires_at": "2999-01-31T00:00:00+00:00"}
NONE = dict.fromkeys(LIMITS) | {"free_mode": True, "admin": False}


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Flask:
    return make_app(auth_mode="token")


@pytest.fixture
def call(app: Flask) -> Call:
    """Ask as an admin: gives the status and the document."""
    token = service(Accounts, app).add("root", Limits(admin=True))

    def call(method: str, path: str = "", body: Any = None, **options: Any) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {token}"}
        sent = {"data": json.dumps(body), "content_type": "application/json"} if body is not None else {}
        answer = app.test_client().open(f"/api/v1/clients{path}", method=method, headers=headers, **(sent | options))
        return answer.status_code, answer.get_json(silent=True)

    return call


def chat(app: Flask, token: str) -> int:
    turn, headers = {"user_message": "hi", "free_mode": True}, {"Authorization": f"Bearer {token}"}
    return app.test_client().post("/api/v1/chat", json=turn, headers=headers).status_code


@EVERY_STORE
def test_a_clients_life(app: Flask, call: Call, database_url: str) -> None:
    """Its token is told once; every limit is told as it was given, and null takes it away."""
    status, made = call("POST", "", {"name": "web", **LIMITS})
    assert status == 201
    first = made.pop("token")
    assert is_token(first)
    assert {name: made[name] for name in LIMITS} == TOLD
    assert (made["name"], made["state"], made["spent_usd"], made["reserved_usd"]) == ("web", "active", "0", "0")
    assert call("GET", "/web") == (200, made)
    assert call("PATCH", "/web", {}) == (200, made)
    assert call("PATCH", "/web", {"rpm": 1})[1] == made | {"rpm": 1}
    status, freed = call("PATCH", "/web", NONE)
    assert {name: freed[name] for name in NONE} == NONE
    assert freed["spent_usd"] is freed["renews_at"] is None
    assert chat(app, first) == 200
    second = call("POST", "/web/rotate", {})[1]["token"]
    assert [chat(app, token) for token in (first, second)] == [401, 200]
    assert call("POST", "/web/revoke", {})[1]["state"] == "revoked"
    assert chat(app, second) == 401
    assert chat(app, call("POST", "/web/rotate", {})[1]["token"]) == 200
    settled(database_url)
    assert call("DELETE", "/web") == (204, None)
    for asked in (("GET",), ("DELETE",), ("PATCH", {"rpm": 1}), ("PATCH", {})):
        assert call(asked[0], "/web", *asked[1:])[0] == 404
    assert {call("POST", f"/web/{verb}", {})[0] for verb in ("rotate", "revoke")} == {404}


@EVERY_STORE
def test_the_list_has_what_each_has_spent(app: Flask, call: Call, database_url: str) -> None:
    """In its present period, read at once for all; the states as well."""
    accounts, queries = service(Accounts, app), list[str]()
    budget = {"budget_nano": 5 * 10**9}
    token = accounts.add("day", Limits(budget_period="day", **budget))
    accounts.add("month", Limits(budget_period="month", **budget))
    accounts.add("over", Limits(expires_at=0))
    accounts.add("ended", Limits())
    accounts.revoke("ended")
    assert chat(app, token) == 200
    settled(database_url)

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        queries.append(statement)

    sa.event.listen(sa.Engine, "after_cursor_execute", note)
    try:
        found = {one["name"]: one for one in call("GET")[1]["clients"]}
    finally:
        sa.event.remove(sa.Engine, "after_cursor_execute", note)
    assert sum("FROM spending" in query for query in queries) == 1
    assert list(found) == ["day", "ended", "month", "over", "root"]
    assert [one["state"] for one in found.values()] == ["active", "revoked", "active", "expired", "active"]
    assert float(found["day"]["spent_usd"]) > 0
    assert [found[name]["spent_usd"] for name in ("month", "over")] == ["0", None]
    assert call("GET", "/day")[1] == found["day"]
    accounts.change("day", budget_period="month")
    assert call("GET", "/day")[1]["spent_usd"] == "0"
    assert "token" not in str(found)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "<script>"}, "name"),
        ({"name": "a" * 65}, "name"),
        ({"name": "root"}, "name"),
        ({"name": "web", "rpm": 0}, "rpm"),
        ({"name": "web", "concurrency": "5"}, "concurrency"),
        ({"name": "web", "budget_usd": "5"}, "budget_usd"),
        ({"name": "web", "budget_usd": ""}, "budget_usd"),
        ({"name": "web", "per_user_budget_usd": "-5/day"}, "per_user_budget_usd"),
        ({"name": "web", "models": []}, "models"),
        ({"name": "web", "models": ["a,b"]}, "models"),
        ({"name": "web", "models": ["m" * 600, "n" * 600]}, "models"),
        ({"name": "web", "admin": None}, "admin"),
        ({"name": "web", "models": ["a\ud800"]}, "models"),
        ({"name": "web", "expires_at": "tomorrow"}, "expires_at"),
        ({"name": "web", "expires_at": "0001-01-01T00:00:00+01:00"}, "expires_at"),
        ({"name": "web", "expires_at": "9999-12-31T23:59:59.999999+00:00"}, "expires_at"),
        ({"name": "web", "token": "llms_mine"}, "token"),
    ],
)
def test_rules_of_a_client(call: Call, body: dict[str, Any], field: str) -> None:
    """Those of the commands; the field that breaks one is named, and nothing is made or changed."""
    status, told = call("POST", "", body)
    assert (status, told["code"]) == (422, "validation_error")
    assert field in str(told["errors"])
    if len(body) > 1 and field != "token":
        assert call("PATCH", "/root", {field: body[field]})[0] == 422
    assert [one["name"] for one in call("GET")[1]["clients"]] == ["root"]


@pytest.mark.parametrize(
    ("method", "path"), [("POST", ""), ("POST", "/root/rotate"), ("POST", "/root/revoke"), ("PATCH", "/root")]
)
def test_a_page_of_another_origin_changes_nothing(call: Call, method: str, path: str) -> None:
    """A browser sends forms and texts across origins without asking first; JSON it does not."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", None):
        assert call(method, path, data=b'{"name": "made"}', content_type=kind)[0] == 415
    assert [(one["name"], one["state"]) for one in call("GET")[1]["clients"]] == [("root", "active")]


def test_an_admin_may_end_its_own_token(app: Flask, call: Call) -> None:
    """As on the command line: it is refused from the next request on."""
    assert call("POST", "/root/revoke", {})[1]["state"] == "revoked"
    assert call("GET")[0] == 401
