"""Metrics: what Prometheus reads is what happened, over all workers, with a bounded number of series."""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from flask import Flask
from flask.testing import FlaskClient

from app.failures import FAILURES
from app.ledger.accounts import Accounts, Limits
from app.web.services import service
from tests.prometheus import Samples, samples, value
from tests.server import ROOT
from tests.streams import response_events, stream
from tests.unit.test_metrics import RULES
from tests.upstream import Upstream, error_document, reply, text

DASHBOARD = ROOT / "deploy" / "grafana-dashboard.json"
CHAT = "/api/v1/chat"


def ask(client: FlaskClient, expected: int = 200, **fields: Any) -> None:
    """One chat turn, read to its end."""
    body = {"user_message": "hi", "free_mode": True} | fields
    with client.post(CHAT, json=body, headers=fields.pop("headers", None)) as answer:
        assert answer.status_code == expected
        answer.get_data()


def scrape(client: FlaskClient, **headers: str) -> Samples:
    with client.get("/metrics", headers=headers) as answer:
        assert answer.status_code == 200
        assert answer.content_type == "text/plain; version=0.0.4; charset=utf-8"
        return samples(answer.get_data(as_text=True))


def test_an_answer_is_counted(client: FlaskClient, upstream: Upstream) -> None:
    """One request by route, status, code and origin; its seconds, tokens and cost."""
    upstream.default = text("hi", model="gpt-4o-mini")
    ask(client)
    found = scrape(client)
    assert value(found, "requests_total", route=CHAT, status="200", code="-", origin="-") == 1
    assert value(found, "tokens_total", direction="input") == 11
    assert value(found, "tokens_total", direction="output") == 7
    assert value(found, "cost_usd_total", api_key_source="default") == pytest.approx(11 * 0.15e-6 + 7 * 0.6e-6)
    for name in ("queue", "overhead", "upstream"):
        assert value(found, f"{name}_seconds_count", route=CHAT) == 1
    assert value(found, "first_token_seconds_count") == 0
    assert value(found, "requests_in_flight") == 1
    assert (value(found, "slots"), value(found, "slots_in_use")) == (200, 0)


def test_failures_are_counted_by_who_failed(client: FlaskClient, upstream: Upstream) -> None:
    """Broken requests, unknown addresses and upstream's faults are told apart."""
    ask(client, 422, max_tokens=0)
    client.get(f"/nowhere/{uuid.uuid4()}").close()
    upstream.default = reply(400, error_document())
    ask(client, 400)
    found = scrape(client)
    assert value(found, "requests_total", route=CHAT, status="422", code="validation_error", origin="client") == 1
    assert value(found, "requests_total", route="-", status="404", code="not_found") == 1
    assert value(found, "requests_total", code="upstream_rejected_request", status="400") == 1
    assert value(found, "requests_in_flight") == 1


def test_costs_that_are_not_known_are_no_zero(client: FlaskClient, upstream: Upstream) -> None:
    """A model without a price adds nothing to the cost and one to what is unpriced."""
    upstream.default = text("hi", model="nobody-knows-it")
    ask(client, model="nobody-knows-it")
    found = scrape(client)
    assert (value(found, "cost_usd_total"), value(found, "unpriced_requests_total")) == (0, 1)


def test_the_cache_is_counted(make_app: Callable[..., Flask]) -> None:
    """A miss, then a hit; a hit adds no tokens, and no-cache asks nobody."""
    client = make_app(cache_enabled=True).test_client()
    for _ in range(2):
        ask(client)
    client.post(CHAT, json={"user_message": "hi", "free_mode": True}, headers={"Cache-Control": "no-cache"}).close()
    found = scrape(client)
    assert value(found, "cache_requests_total", result="miss") == 1
    assert value(found, "cache_requests_total", result="hit") == 1
    assert value(found, "tokens_total", direction="output") == 14


def test_refusals_are_counted_by_limit(make_app: Callable[..., Flask], upstream: Upstream) -> None:
    """The limit that refused is named; a series is there before its first refusal."""
    app = make_app(auth_mode="token")
    token = service(Accounts, app).add("a-client", Limits(requests_per_minute=1, admin=True))
    client, bearer = app.test_client(), {"Authorization": f"Bearer {token}"}
    for status in (200, 429):
        body = {"user_message": "hi", "free_mode": True}
        with client.post(CHAT, json=body, headers=bearer) as answer:
            assert answer.status_code == status
    found = scrape(client, **bearer)
    assert value(found, "refusals_total", limit="rate_limited") == 1
    assert value(found, "refusals_total") == 1
    for limit in ("budget_exceeded", "user_rate_limited", "user_budget_exceeded"):
        assert ("refusals_total", frozenset({("limit", limit)})) in found


def test_only_an_admin_may_read_them(make_app: Callable[..., Flask]) -> None:
    """In token mode a client's token is not enough, and loopback is not either."""
    app = make_app(auth_mode="token")
    tokens = {admin: service(Accounts, app).add(f"client-{admin}", Limits(admin=admin)) for admin in (True, False)}
    client = app.test_client()
    assert client.get("/metrics").status_code == 401
    assert client.get("/metrics", headers={"Authorization": f"Bearer {tokens[False]}"}).status_code == 403
    assert client.get("/metrics", headers={"Authorization": f"Bearer {tokens[True]}"}).status_code == 200


def test_open_mode_answers_loopback_only(client: FlaskClient) -> None:
    """Without tokens whoever is elsewhere, or comes through a proxy, sees nothing."""
    assert client.get("/metrics").status_code == 200
    assert client.get("/metrics", headers={"X-Forwarded-For": "192.0.2.1"}).status_code == 403
    assert client.get("/metrics", environ_base={"REMOTE_ADDR": "192.0.2.1"}).status_code == 403


def test_no_label_comes_from_a_request(make_app: Callable[..., Flask], upstream: Upstream) -> None:
    """Whatever callers vary, series are not added, and none of their words is in a label."""
    app = make_app(auth_mode="token")
    accounts, client = service(Accounts, app), app.test_client()
    admin = {"Authorization": f"Bearer {accounts.add('admin', Limits(admin=True))}"}
    upstream.default = text("hi", model="answering-canary")

    def call_in_every_way(mark: str) -> None:
        bearer = {"Authorization": f"Bearer {accounts.add(f'canary-{mark}', Limits())}"}
        body = {"user_message": f"canary {mark}", "session_id": f"canary-{mark}", "model": f"canary-{mark}"}
        headers = bearer | {"X-Request-ID": f"canary-{mark}", "User-Agent": f"canary-{mark}"}
        client.post(CHAT, json=body | {"free_mode": True}, headers=headers).close()
        client.post(CHAT, json=body | {"openai_api_key": f"sk-canary-{mark}"}, headers=headers).close()
        client.post("/v1/responses", json={"model": f"canary-{mark}", "input": "x"}, headers=headers).close()
        client.get(f"/v1/models/canary-{mark}", headers=headers).close()
        client.get(f"/api/v1/usage/requests/canary-{mark}", headers=headers).close()
        client.get(f"/canary-{mark}", headers=headers).close()
        client.open("/livez", method=f"CANARY{mark}", headers=headers).close()

    call_in_every_way("1")
    scrape(client, **admin)
    first = scrape(client, **admin)
    for mark in ("2", "3", "4"):
        call_in_every_way(mark)
    last = scrape(client, **admin)
    assert last.keys() == first.keys()
    assert not [labels for _, labels in last if "canary" in str(labels).lower()]
    codes = {found for _, labels in last for name, found in labels if name == "code"}
    assert codes <= {"-", *FAILURES}


def metric_names(expressions: list[str]) -> set[str]:
    """Every metric that PromQL expressions name."""
    return {name for expression in expressions for name in re.findall(r"\bllm_server_\w+", expression)}


def expressions_in(value: Any) -> list[str]:
    """Every `expr` and template query, at any depth."""
    if isinstance(value, dict):
        own = [found for name, found in value.items() if name in {"expr", "query"} and isinstance(found, str)]
        return own + [found for inner in value.values() for found in expressions_in(inner)]
    return [found for inner in value for found in expressions_in(inner)] if isinstance(value, list) else []


@pytest.mark.parametrize("path", [DASHBOARD, RULES], ids=lambda path: path.name)
def test_what_we_ship_asks_for_what_there_is(client: FlaskClient, upstream: Upstream, path: Path) -> None:
    """Dashboard and alert rules name only metrics and labels that the server exposes."""
    ask(client)
    upstream.default = stream(response_events("hi"))
    ask(client, stream=True)
    found = scrape(client)
    exposed = {f"llm_server_{name}" for name, _ in found}
    labels = {name for _, has in found for name, _ in has} | {"job", "instance"}
    expressions = expressions_in(
        json.loads(path.read_text()) if path == DASHBOARD else yaml.safe_load(path.read_text())
    )
    assert len(expressions) > 5
    assert metric_names(expressions) - exposed == set()
    selected = {name for expression in expressions for name in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", expression)}
    grouped = {
        name
        for expression in expressions
        for group in re.findall(r"\b(?:by|on|without)\s*\(([^)]*)\)", expression)
        for name in re.split(r"\s*,\s*", group)
    }
    assert (selected | grouped) - labels == set()


def test_every_metric_is_documented(client: FlaskClient) -> None:
    """docs/deployment lists each of them."""
    document = (ROOT / "docs" / "deployment" / "README.md").read_text()
    with client.get("/metrics") as answer:
        names = set(re.findall(r"^# TYPE (\w+)", answer.get_data(as_text=True), re.MULTILINE))
    assert set(re.findall(r"^\| `(llm_server_\w+)`", document, re.MULTILINE)) == names
