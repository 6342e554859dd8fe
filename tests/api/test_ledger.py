"""The ledger: one row per accepted request, true in every ending, on SQLite and PostgreSQL."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import re
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import sqlalchemy as sa
from flask import Flask
from flask.testing import FlaskClient

from app.calls.call import Call, Calls
from app.calls.receipt import Receipt
from app.ledger.accounts import NOBODY, Accounts, Limits
from app.ledger.admission import Admission, Admitted
from app.ledger.entry import Entry
from app.ledger.ledger import Ledger, owner_name
from app.ledger.limits import Ask, Opening
from app.ledger.reports import Period, UsageReports
from app.models import ApiKey, Usage
from app.store.database import Database
from app.store.tables import requests, spending, user_spending
from app.upstreams.usage import TOKENS_MAX
from app.web.services import service
from tests.conftest import CALLER_KEY, EVERY_STORE, SERVER_KEY
from tests.records import accounts_of, connected, rows, settled, spent
from tests.streams import chunk, completion_events, delta, read_events, response_events, stream
from tests.upstream import Answer, Received, Upstream, error_document, reply, reset, silence, text

MODEL = "gpt-4o-mini"
CHAT, RESPONSES, COMPLETIONS, EMBEDDINGS = "/api/v1/chat", "/v1/responses", "/v1/chat/completions", "/v1/embeddings"
PROMPT, ANSWERED = "CANARY-PROMPT", "CANARY-ANSWER"
TURN = {"user_message": PROMPT, "free_mode": True, "model": MODEL, "session_id": "s-1"}
COST = 11 * 150 + 7 * 600
"""Nano-dollars of what the scripted upstream counts, by OpenAI's list: 0.15 and 0.60 dollars per million tokens."""


pytestmark = EVERY_STORE


class Case(NamedTuple):
    """A request, what upstream does with it, and what its row says."""

    path: str
    body: dict[str, Any] | None
    answer: Answer
    want: dict[str, Any]


COUNTED = {"input_tokens": 11, "output_tokens": 7, "cost_nano": COST, "estimated": False}
NOTHING = {"input_tokens": 0, "output_tokens": 0, "cost_nano": 0, "estimated": False}
OK = {"status": "ok", "code": None, "model": MODEL, "api_key_source": "default", "cached": False} | COUNTED
DETAILS = {
    "input_tokens": 11,
    "input_tokens_details": {"cached_tokens": 4},
    "output_tokens": 7,
    "output_tokens_details": {"reasoning_tokens": 3},
    "total_tokens": 18,
}
PASSED = {"model": MODEL, "input": PROMPT}
COMPLETION = {
    "model": "gpt-4o-mini-2024-07-18",
    "choices": [],
    "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
}
VECTORS = {"model": "text-embedding-3-small", "data": [], "usage": {"prompt_tokens": 11, "total_tokens": 11}}

CASES = {
    "plain": Case(CHAT, TURN, text(ANSWERED), OK | {"session_id": "s-1", "model_answered": "gpt-4o-mini-2024"}),
    "tokens in detail": Case(
        CHAT,
        TURN,
        text(ANSWERED, usage=DETAILS),
        OK | {"cached_tokens": 4, "reasoning_tokens": 3, "cost_nano": COST - 4 * 75},
    ),
    "own key": Case(
        CHAT,
        TURN | {"free_mode": False, "openai_api_key": CALLER_KEY},
        text(ANSWERED),
        OK | {"api_key_source": "user_provided"},
    ),
    "streamed": Case(CHAT, TURN | {"stream": True}, stream(response_events(ANSWERED)), OK | {"streamed": True}),
    "unknown price": Case(
        CHAT, TURN | {"model": "no-such-model"}, text("x", model="nobody's"), {"status": "ok", "cost_nano": None}
    ),
    "refused by upstream": Case(
        CHAT,
        TURN,
        reply(400, error_document()),
        {"status": "error", "code": "upstream_rejected_request"} | NOTHING,
    ),
    "lost": Case(
        CHAT,
        TURN,
        reset(),
        {"status": "error", "code": "upstream_connection_error", "estimated": True, "output_tokens": 0},
    ),
    "broken stream": Case(
        CHAT,
        TURN | {"stream": True},
        stream([delta("four chars, five!")]),
        {"status": "error", "code": "upstream_connection_error", "estimated": True, "output_tokens": 5},
    ),
    "passed": Case(RESPONSES, PASSED, text(ANSWERED), OK | {"session_id": ""}),
    "passed, completions": Case(COMPLETIONS, PASSED, reply(200, COMPLETION), OK),
    "passed, streamed": Case(
        RESPONSES, PASSED | {"stream": True}, stream(response_events(ANSWERED)), OK | {"streamed": True}
    ),
    "passed, completions streamed": Case(
        COMPLETIONS,
        PASSED | {"stream": True},
        stream(completion_events(ANSWERED)),
        OK | {"streamed": True, "model_answered": "gpt-4o-mini-2024"},
    ),
    "passed, broken stream": Case(
        COMPLETIONS,
        PASSED | {"stream": True},
        stream([chunk("four chars, five!")]),
        {"status": "error", "code": "upstream_connection_error", "estimated": True, "output_tokens": 5},
    ),
    "passed, refused": Case(
        RESPONSES,
        PASSED,
        reply(404, error_document("model_not_found")),
        {"status": "error", "code": "model_not_found"} | NOTHING,
    ),
    "embeddings": Case(
        EMBEDDINGS,
        PASSED | {"model": "text-embedding-3-small"},
        reply(200, VECTORS),
        {"status": "ok", "input_tokens": 11, "output_tokens": 0, "cost_nano": 220},
    ),
    "models": Case("/v1/models", None, reply(200, {"data": []}), {"status": "ok", "model": ""} | NOTHING),
    "model": Case("/v1/models/x", None, reply(200, {"id": "x"}), {"status": "ok", "model": "x"} | NOTHING),
}


def send(client: FlaskClient, case: Case) -> Any:
    """Send a case's request."""
    headers = {"X-Free-Mode": "true", "X-Request-ID": "r-1"}
    if case.body is None:
        return client.get(case.path, headers=headers)
    return client.post(case.path, json=case.body, headers=headers)


@pytest.mark.parametrize("name", CASES)
def test_one_row_and_its_fields(
    make_app: Callable[..., Flask], upstream: Upstream, database_url: str, name: str
) -> None:
    """Who, what, how it ended and what it cost; and no prompt, answer or key in any column."""
    case = CASES[name]
    upstream.default = case.answer
    assert send(make_app().test_client(), case).data
    (row,) = settled(database_url)
    assert {field: row[field] for field in case.want} == case.want
    assert (row["request_id"], row["client_id"]) == ("r-1", None)
    assert row["route"] == (case.path if "models/" not in case.path else "/v1/models/<model>")
    assert row["price_version"].startswith("genai-prices ")
    assert 0 <= row["queue_ms"] <= row["total_ms"]
    assert 0 < row["upstream_ms"] <= row["total_ms"]
    assert row["created_at"] <= row["settled_at"] <= time.time() * 1_000_000
    assert re.fullmatch("[0-9a-f]{16}", row["api_key_fingerprint"])
    assert (row["first_token_ms"] is not None) == (bool(row["streamed"]) and row["output_tokens"] > 0)
    for secret in (PROMPT, ANSWERED, "four chars", SERVER_KEY, CALLER_KEY):
        assert secret not in str(row)


def test_the_fingerprint_tells_keys_apart(make_app: Callable[..., Flask], database_url: str) -> None:
    """The same key has the same one."""
    client = make_app().test_client()
    for key in (CALLER_KEY, CALLER_KEY, SERVER_KEY):
        assert client.post(CHAT, json={"user_message": "x", "openai_api_key": key}).status_code == 200
    first, second, third = (row["api_key_fingerprint"] for row in settled(database_url))
    assert first == second != third


def test_a_cached_answer_costs_nothing(make_app: Callable[..., Flask], upstream: Upstream, database_url: str) -> None:
    """And is a row all the same, plain and streamed."""
    client = make_app(cache_enabled=True).test_client()
    upstream.default = text(ANSWERED)
    turns = [TURN, TURN, TURN | {"stream": True}]
    answers = [client.post(CHAT, json=turn) for turn in turns]
    assert [answer.get_json()["cost_usd"] for answer in answers[:2]] == ["0.00000585", "0"]
    assert read_events(answers[2].data)[-1][1]["cost_usd"] == "0"
    found = settled(database_url)
    assert [(row["cached"], row["cost_nano"], row["status"]) for row in found] == [
        (False, COST, "ok"),
        (True, 0, "ok"),
        (True, 0, "ok"),
    ]
    assert len(upstream.received) == 1


@pytest.mark.parametrize("route", [(CHAT, TURN), (COMPLETIONS, PASSED)], ids=["native", "passed"])
@pytest.mark.parametrize("streamed", [False, True])
def test_the_deadline(
    app: Flask, upstream: Upstream, database_url: str, route: tuple[str, dict[str, Any]], streamed: bool
) -> None:
    """What was sent may have been paid for: the prompt is estimated, and so is what came.

    The deadline passes when upstream has the request, or when its piece is here, however slow this machine is.
    """

    async def wait_too_long(received: Received, writer: asyncio.StreamWriter) -> None:
        service(Calls, app).end("deadline")
        await silence()(received, writer)

    piece = delta("four chars, five!") if route[0] == CHAT else chunk("four chars, five!")
    upstream.default = stream([piece], pause=30) if streamed else wait_too_long
    body, headers = route[1] | {"stream": streamed}, {"X-Free-Mode": "true"}
    with app.test_client().post(route[0], json=body, headers=headers) as answer:
        for part in answer.iter_encoded():
            if b"four chars" in part:
                service(Calls, app).end("deadline")
    (row,) = settled(database_url)
    assert (row["status"], row["code"], row["estimated"]) == ("timeout", "upstream_timeout", True)
    assert row["input_tokens"] > 0
    assert row["output_tokens"] == (5 if streamed else 0)
    assert row["cost_nano"] == row["input_tokens"] * 150 + row["output_tokens"] * 600


def test_refused_requests_leave_no_row(make_app: Callable[..., Flask], upstream: Upstream, database_url: str) -> None:
    """Nothing is written, reserved or sent for what is not accepted."""
    app = make_app(auth_mode="token")
    client, accounts = app.test_client(), service(Accounts, app)
    tokens = {
        "model": accounts.add("model", Limits(models="o1*")),
        "key": accounts.add("key", Limits(free_mode=False)),
        "budget": accounts.add("budget", Limits(budget_nano=1, budget_period="day")),
        "good": accounts.add("good", Limits()),
        "none": "llms_x",
    }
    refusals = [
        ("none", TURN, 401, "unauthorized"),
        ("model", TURN, 403, "model_not_allowed"),
        ("key", TURN, 403, "free_mode_not_allowed"),
        ("budget", TURN, 429, "budget_exceeded"),
        ("budget", TURN | {"model": "no-such-model"}, 403, "model_price_unknown"),
        ("good", TURN | {"temperature": 9}, 422, "validation_error"),
        ("good", TURN | {"free_mode": False}, 401, "api_key_required"),
    ]
    for who, body, status, code in refusals:
        answer = client.post(CHAT, json=body, headers={"Authorization": f"Bearer {tokens[who]}"})
        assert (answer.status_code, answer.get_json()["code"]) == (status, code)
    assert rows(database_url) == []
    assert spent(database_url) == (0, 0)
    assert not upstream.received


def test_answers_say_what_they_cost(make_app: Callable[..., Flask], upstream: Upstream) -> None:
    """In the native answer, in a header and a comment behind the streams of `/v1`; unknown is not 0."""
    client = make_app().test_client()
    free = {"X-Free-Mode": "true"}
    for model, told in ((MODEL, "0.00000585"), ("no-such-model", None)):
        answered = {"model": model}
        upstream.script(text("x", **answered), stream(response_events("x")), text("x", **answered))
        upstream.script(stream(completion_events("x")))
        assert client.post(CHAT, json=TURN | {"model": model}).get_json()["cost_usd"] == told
        events = read_events(client.post(CHAT, json=TURN | {"model": model, "stream": True}).data)
        assert events[-1][1]["cost_usd"] == told
        answer = client.post(RESPONSES, json={"model": model}, headers=free)
        assert answer.headers.get("X-Cost-USD") == told
        streamed = client.post(COMPLETIONS, json={"model": model, "stream": True}, headers=free)
        assert streamed.data.endswith(f"\n: cost-usd {told or 'unknown'}\n".encode())


def test_own_prices(make_app: Callable[..., Flask], upstream: Upstream, database_url: str, tmp_path: Path) -> None:
    """They add to the list and win over it, by the name that was asked for as well; the row says which list it was."""
    own = tmp_path / "prices.toml"
    own.write_text(
        '[models."gpt-4o-mini"]\ninput = "1"\noutput = "2.5"\n[models.mine]\ninput = 3\ncached = 0.5\noutput = 0'
    )
    client = make_app(prices_file=str(own)).test_client()
    upstream.script(text("x", model="gpt-4o-mini-2024-07-18"), text("x", model="mine", usage=DETAILS), text("x"))
    upstream.script(text("x", model="gpt-4o-mini-2024-07-18"))
    for model in (MODEL, "mine", "mine", "gpt-4o"):
        assert client.post(CHAT, json=TURN | {"model": model}).status_code == 200
    found = settled(database_url)
    assert [row["cost_nano"] for row in found] == [11_000 + 17_500, 7 * 3000 + 4 * 500, 33_000, COST]
    assert re.fullmatch(r"genai-prices [\d.]+ \+ [0-9a-f]{8}", found[0]["price_version"])


def test_the_sums_are_what_upstream_counted(
    make_app: Callable[..., Flask], upstream: Upstream, database_url: str
) -> None:
    """Tokens over many requests of all kinds at once, and the cost of them, by report and by row."""
    app = make_app()
    counted = {"input": 0, "output": 0}
    lock = threading.Lock()

    async def counting(received: Any, writer: Any) -> None:
        with lock:
            number = len(upstream.received)
            counted["input"] += number
            counted["output"] += 2 * number
        usage = {"input_tokens": number, "output_tokens": 2 * number, "total_tokens": 3 * number}
        if received.json.get("stream"):
            events = response_events("x")
            events[-1] = events[-1].replace(
                b'"input_tokens": 11, "output_tokens": 7, "total_tokens": 18', _counts(number)
            )
            await stream(events)(received, writer)
        else:
            await text("x", usage=usage)(received, writer)

    upstream.default = counting

    def call(index: int) -> None:
        streamed = {"stream": bool(index % 2)}
        if index % 3:
            answer = app.test_client().post(CHAT, json=TURN | streamed)
        else:
            answer = app.test_client().post(RESPONSES, json=PASSED | streamed, headers={"X-Free-Mode": "true"})
        assert answer.status_code == 200
        assert answer.data

    threads = [threading.Thread(target=call, args=(index,)) for index in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = settled(database_url)
    assert len(found) == len(upstream.received) == 30
    assert sum(row["input_tokens"] for row in found) == counted["input"]
    assert sum(row["output_tokens"] for row in found) == counted["output"]
    (total,) = app.test_client().get("/api/v1/usage?by=model").get_json()["totals"]
    assert (total["input_tokens"], total["output_tokens"]) == (counted["input"], counted["output"])
    nano = counted["input"] * 150 + counted["output"] * 600
    assert sum(row["cost_nano"] for row in found) == nano
    assert round(float(total["cost_usd"]) * 10**9) == nano


def _counts(number: int) -> bytes:
    return f'"input_tokens": {number}, "output_tokens": {2 * number}, "total_tokens": {3 * number}'.encode()


ASK = Ask(route=CHAT, model=MODEL, prompt_tokens=1000, max_tokens=1000)
WORST = 1000 * 150 + 1000 * 600


def opened(app: Flask, token: str = "", ask: Ask = ASK) -> tuple[Entry, Receipt]:
    """A request that is admitted and goes on."""
    call, receipt = Call(5, request_id="r-1"), Receipt()
    principal = service(Accounts, app).principal(token) if token else NOBODY
    return service(Ledger, app).open(ask, principal, call, receipt, server_pays=True), receipt


def budgeted(app: Flask) -> str:
    """The token of a client with a budget."""
    limits = Limits(budget_nano=10 * WORST, budget_period="day")
    token: str = service(Accounts, app).add("web", limits)
    return token


def test_a_row_is_settled_once(make_app: Callable[..., Flask], database_url: str) -> None:
    """Only the first ending counts, and the reservation becomes what was spent."""
    app = make_app()
    entry, receipt = opened(app, budgeted(app))
    assert spent(database_url) == (0, WORST)
    assert rows(database_url)[0]["status"] == "pending"
    receipt.key, receipt.usage, receipt.may_cost = ApiKey(SERVER_KEY, "default"), Usage(11, 7, 18), True
    assert [entry.settle("ok"), entry.settle("error", "internal_error")] == [True, False]
    assert [row["status"] for row in settled(database_url)] == ["ok"]
    assert spent(database_url) == (COST, 0)


def test_the_callers_own_key_is_priced_and_not_charged(make_app: Callable[..., Flask], database_url: str) -> None:
    """A budget is for the server's key."""
    app = make_app()
    headers = {"Authorization": f"Bearer {budgeted(app)}"}
    body = TURN | {"free_mode": False, "openai_api_key": CALLER_KEY}
    assert app.test_client().post(CHAT, json=body, headers=headers).status_code == 200
    (row,) = settled(database_url)
    assert (row["cost_nano"], row["client_name"]) == (COST, "web")
    assert spent(database_url) == (0, 0)


@pytest.mark.parametrize("why", ["owner is gone", "lease is over"])
def test_the_sweep(make_app: Callable[..., Flask], database_url: str, why: str) -> None:
    """What a dead worker left is abandoned, once, and its reservation spent; what is alive stays."""
    app = make_app()
    token = budgeted(app)
    ledger: Ledger = service(Ledger, app)
    opened(app, token)
    opened(app, token)
    host, pid, _ = owner_name().rsplit(":", 2)
    values = {"owner": f"{host}:{pid}:1"} if why == "owner is gone" else {"lease_until": 1, "owner": "elsewhere:1:1"}
    with connected(database_url) as connection:
        connection.execute(requests.update().where(requests.c.id == 1).values(values))
    assert [ledger.sweep(), ledger.sweep()] == [1, 0]
    lost, alive = rows(database_url)
    assert (lost["status"], lost["code"], lost["estimated"]) == ("abandoned", "worker_lost", True)
    assert lost["settled_at"]
    assert alive["status"] == "pending"
    assert spent(database_url) == (WORST, WORST)


def test_a_late_settlement_does_not_count_after_the_sweep(make_app: Callable[..., Flask], database_url: str) -> None:
    """A worker that was only slow does not give the reservation back a second time."""
    app = make_app()
    entry, _ = opened(app, budgeted(app))
    with connected(database_url) as connection:
        connection.execute(requests.update().values(lease_until=1, owner="elsewhere:1:1"))
    assert service(Ledger, app).sweep() == 1
    entry.settle("ok")
    service(Database, app).flush(5)
    assert [row["status"] for row in rows(database_url)] == ["abandoned"]
    assert spent(database_url) == (WORST, 0)


@pytest.mark.parametrize("owner", ["elsewhere", "another worker", "its own"])
def test_what_is_alive_is_not_swept(make_app: Callable[..., Flask], database_url: str, owner: str) -> None:
    """Before its lease has ended on another machine, and on this one whatever the clock says."""
    app = make_app()
    opened(app)
    names = {"elsewhere": "elsewhere:1:1", "another worker": _name_of(os.getppid()), "its own": owner_name()}
    lease = {} if owner == "elsewhere" else {"lease_until": 1}
    with connected(database_url) as connection:
        connection.execute(requests.update().values({"owner": names[owner]} | lease))
    assert service(Ledger, app).sweep() == 0
    assert [row["status"] for row in rows(database_url)] == ["pending"]


def _name_of(pid: int) -> str:
    """How a process of this machine is named as an owner."""
    started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    return f"{owner_name().split(':')[0]}:{pid}:{started}"


def test_many_rows_that_are_alive_hide_no_dead_one(make_app: Callable[..., Flask], database_url: str) -> None:
    """A dead worker's rows are found among any number of others, its newest ones too."""
    app = make_app()
    opened(app)
    machine, pid, _ = owner_name().split(":")
    with connected(database_url) as connection:
        (row,) = [dict(row._mapping) for row in connection.execute(requests.select())]
        copy = {name: value for name, value in row.items() if name != "id"}
        connection.execute(requests.insert(), [copy | {"owner": "elsewhere:1:1"} for _ in range(1200)])
        connection.execute(requests.insert(), [copy | {"owner": f"{machine}:{pid}:1"} for _ in range(3)])
    assert service(Ledger, app).sweep() == 3
    assert sorted({row["status"] for row in rows(database_url)}) == ["abandoned", "pending"]


@pytest.mark.parametrize("tokens", [2**53 - 1, 2**63, 10**30, 10**400], ids=["2**53-1", "2**63", "10**30", "10**400"])
def test_usage_beyond_all_bounds(
    make_app: Callable[..., Flask], upstream: Upstream, database_url: str, tokens: int
) -> None:
    """Its row is settled with what fits, and the worker goes on to record for everybody."""
    app = make_app()
    client = app.test_client()
    usage = {"input_tokens": tokens, "output_tokens": tokens, "total_tokens": 2 * tokens}
    upstream.script(text(ANSWERED, usage=usage, model="gpt-4"), text(ANSWERED))
    assert [client.post(CHAT, json=TURN | {"model": "gpt-4"}).status_code for _ in range(2)][1] == 200
    huge, usual = settled(database_url)
    assert huge["input_tokens"] == TOKENS_MAX
    assert usual["status"] == "ok"
    assert service(UsageReports, app).totals("model", Period(since=0))


@pytest.mark.parametrize("model", ["gpt\0-4o", "m" * 400, "\ud800"])
def test_a_name_that_no_column_takes(
    make_app: Callable[..., Flask], upstream: Upstream, database_url: str, model: str
) -> None:
    """From a caller or from upstream: the request is answered at once, and nobody else waits."""
    client = make_app().test_client()
    upstream.script(text(ANSWERED, model=model), text(ANSWERED))
    began = time.monotonic()
    assert client.post(CHAT, json=TURN).status_code == 200
    body = json.dumps(PASSED | {"model": model})
    assert client.post(RESPONSES, data=body, content_type="application/json").status_code < 500
    assert time.monotonic() - began < 2
    assert {row["status"] for row in settled(database_url)} <= {"ok", "error"}


@pytest.mark.parametrize("whose", ["", "per_user_"], ids=["clients", "users"])
def test_budgets_without_deadlocks(
    make_app: Callable[..., Flask], database_url: str, threads: ThreadPoolExecutor, whose: str
) -> None:
    """Two workers that settle and admit for the same clients in any order never wait for each other."""
    apps = [make_app(), make_app()]
    limits = Limits(**{f"{whose}budget_nano": 10_000 * WORST, f"{whose}budget_period": "day"})
    tokens = [service(Accounts, apps[0]).add(f"web{number}", limits) for number in range(4)]
    ask = dataclasses.replace(ASK, end_user="ann")

    def work(number: int) -> None:
        for turn in range(15):
            entry, _ = opened(apps[number % 2], tokens[(number + turn) % 4], ask)
            entry.settle("ok")

    for done in [threads.submit(work, number) for number in range(16)]:
        done.result(60)
    assert [row["status"] for row in settled(database_url)] == ["ok"] * 240
    table = user_spending if whose else spending
    with connected(database_url) as connection:
        assert list(connection.execute(sa.select(table.c.reserved_nano)).scalars()) == [0] * 4
    for app in apps:
        assert service(Database, app).deadlocks == 0


def test_each_admission_has_its_own_row(database_url: str) -> None:
    """However many are admitted at once: the database gives the ids of all rows together."""
    accounts, database = accounts_of(database_url)
    admission = Admission(accounts, "owner", token_required=False, max_output_tokens=100)
    calls = [Call(30, request_id=f"request-{number}") for number in range(100)]
    openings = [
        Opening(call=call, principal=NOBODY, ask=Ask(route=CHAT), server_pays=True, worst_nano=lambda _: None)
        for call in calls
    ]
    admitted = database.write(lambda connection: admission.admit_all(connection, openings, []))
    written = {row["id"]: row["request_id"] for row in rows(database_url)}
    assert [written[one.row_id] for one in admitted if isinstance(one, Admitted)] == [one.request_id for one in calls]
    database.close()


def test_retention(make_app: Callable[..., Flask], database_url: str) -> None:
    """Old settled rows go, in small batches; pending ones stay, whatever their age."""
    app = make_app()
    for _ in range(2):
        opened(app)[0].settle("ok")
    opened(app)
    service(Database, app).flush(5)
    with connected(database_url) as connection:
        old = [dict(row._mapping) | {"id": None} for row in connection.execute(requests.select().limit(1))]
        copies = [{name: value for name, value in old[0].items() if name != "id"} | {"created_at": 5}] * 700
        connection.execute(requests.insert(), copies)
        connection.execute(requests.update().where(requests.c.status == "pending").values(created_at=5))
    assert [service(Ledger, app).forget(6) for _ in range(3)] == [500, 200, 0]
    assert len(rows(database_url)) == 3


def test_a_row_is_durable_before_upstream_is_called(
    make_app: Callable[..., Flask], upstream: Upstream, database_url: str
) -> None:
    """Upstream finds the row when it is asked."""
    found: list[str] = []

    async def look(received: Any, writer: Any) -> None:
        found.extend(row["status"] for row in rows(database_url))
        await text("x")(received, writer)

    upstream.default = look
    assert make_app().test_client().post(CHAT, json=TURN).status_code == 200
    assert found == ["pending"]


def test_usage_is_paged_and_grouped(make_app: Callable[..., Flask], database_url: str) -> None:
    """Pages by cursor without a gap or a double; sums by every group; a request by its id."""
    client = make_app().test_client()
    for number in range(5):
        client.post(
            CHAT, json=TURN | {"model": "gpt-4o" if number == 4 else MODEL}, headers={"X-Request-ID": f"r{number}"}
        )
    settled(database_url)
    seen, cursor = [], ""
    while cursor is not None:
        page = client.get(f"/api/v1/usage?limit=2{cursor and f'&cursor={cursor}'}").get_json()
        seen += [row["request_id"] for row in page["rows"]]
        cursor = page["next_cursor"]
    assert seen == ["r4", "r3", "r2", "r1", "r0"]
    for by, keys in (("model", ["gpt-4o", MODEL]), ("client", [""]), ("api_key_source", ["default"])):
        totals = client.get(f"/api/v1/usage?by={by}").get_json()["totals"]
        assert [total["key"] for total in totals] == keys
        assert sum(total["requests"] for total in totals) == 5
    (day,) = client.get("/api/v1/usage?by=day").get_json()["totals"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\d", day["key"])
    assert client.get("/api/v1/usage?until=2020-01-01T00:00:00%2B00:00").get_json()["rows"] == []
    one = client.get("/api/v1/usage/requests/r3").get_json()
    assert (one["request_id"], one["cost_usd"], one["status"]) == ("r3", "0.00000585", "ok")
    assert client.get("/api/v1/usage/requests/r9").status_code == 404
    assert client.get("/api/v1/usage/requests/%00").status_code == 404
