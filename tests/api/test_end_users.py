"""End users: a client's limits for each of them are promises as its own are, and usage is told by user."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask import Flask
from werkzeug.test import TestResponse

from app.calls.call import Call
from app.calls.receipt import Receipt
from app.ledger.accounts import Accounts, Limits
from app.ledger.admission import Admitted
from app.ledger.ledger import Ledger
from app.ledger.limits import Ask
from app.ledger.settlement import take_back
from app.store.database import Database
from app.store.tables import clients, requests, user_spending
from app.units import MICROSECONDS, MICROSECONDS_PER_DAY
from app.web.services import service
from tests.conftest import CALLER_KEY, EVERY_STORE
from tests.records import admitted, connected, rows, settled, spent
from tests.upstream import Upstream, reply, reset, text

MODEL = "gpt-4o-mini"
NATIVE, CHAT, RESPONSES, MESSAGES = "/api/v1/chat", "/v1/chat/completions", "/v1/responses", "/v1/messages"
HI = [{"role": "user", "content": "hi"}]
BODIES: dict[str, dict[str, Any]] = {
    NATIVE: {"user_message": "hi", "free_mode": True, "model": MODEL, "max_tokens": 100},
    CHAT: {"model": MODEL, "messages": HI, "max_tokens": 100},
    RESPONSES: {"model": MODEL, "input": "hi", "max_output_tokens": 100},
    MESSAGES: {"model": MODEL, "messages": HI, "max_tokens": 100},
    "/v1/messages/count_tokens": {"model": MODEL, "messages": HI},
    "/v1/embeddings": {"model": "text-embedding-3-small", "input": "hi"},
    "/v1/completions": {"model": MODEL, "prompt": "hi", "max_tokens": 100},
    "/v1/moderations": {"input": "hi"},
}
USAGE = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}
ANSWER = {"id": "x", "model": MODEL, "choices": [{"message": {"content": "x"}, "finish_reason": "stop"}]}
COST = 11 * 150 + 7 * 600
WORST = 60 * 150 + 100 * 600
"""More than a native turn of BODIES may cost at most, and less than two."""
CLAUDE_CODE = f"user_{'0f' * 32}_account_1f0c2d3e-5a6b-4c7d-8e9f-0a1b2c3d4e5f_session_"
"""How Claude Code names a user, but for the session: 123 characters."""

pytestmark = EVERY_STORE

Post = Callable[..., TestResponse]


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Flask:
    return make_app(auth_mode="token", request_timeout=5)


def client_of(app: Flask, name: str = "web", **limits: Any) -> Post:
    """Sends requests of a client with these limits, for which the server's key pays."""
    headers = {"Authorization": f"Bearer {service(Accounts, app).add(name, Limits(**limits))}"}

    def post(path: str = NATIVE, **members: Any) -> TestResponse:
        answer = app.test_client().post(path, json=BODIES[path] | members, headers=headers)
        answer.get_data()
        return answer

    return post


def budget(nano: int, period: str = "day") -> dict[str, Any]:
    """A budget of each end user."""
    return {"per_user_budget_nano": nano, "per_user_budget_period": period}


def code(answer: TestResponse) -> str:
    """The error code of an answer, in any of the three shapes."""
    document = answer.get_json()
    error = document.get("error", document)
    return str(error.get("details", {}).get("error_code") or error["code"])


def user_spent(url: str) -> dict[str, tuple[int, int]]:
    """Nano-dollars that each end user has spent and reserved, over all clients and periods."""
    with connected(url) as connection:
        found = connection.execute(user_spending.select().order_by(user_spending.c.end_user)).all()
    return {row.end_user: (row.spent_nano, row.reserved_nano) for row in found}


def test_each_user_has_a_rate_of_its_own(app: Flask, upstream: Upstream, database_url: str) -> None:
    """Refused requests count for nothing; the headers say which limit it was; another client's users are others."""
    web, other = client_of(app, per_user_rpm=2), client_of(app, "other", per_user_rpm=1)
    assert [web(user="ann").status_code for _ in range(2)] == [200, 200]
    for _ in range(3):
        refused = web(user="ann")
        seconds = int(refused.headers["Retry-After"])
        assert (refused.status_code, code(refused)) == (429, "user_rate_limited")
        assert "end user" in refused.get_json()["detail"]
        assert refused.headers["RateLimit-Policy"] == '"user_rate_limited";q=2;w=60'
        assert refused.headers["RateLimit"] == f'"user_rate_limited";r=0;t={seconds}'
        assert 50 < seconds <= 60
    assert [web(user=name).status_code for name in ("Ann", "ann ", "bob")] == [200] * 3
    assert other(user="ann").status_code == 200
    assert len(settled(database_url)) == len(upstream.received) == 6


def test_a_users_minute_slides(app: Flask, database_url: str) -> None:
    """A request counts for 60 seconds."""
    web = client_of(app, per_user_rpm=1)
    assert [web(user="ann").status_code for _ in range(2)] == [200, 429]
    settled(database_url)
    with connected(database_url) as connection:
        connection.execute(requests.update().values(created_at=requests.c.created_at - 61 * MICROSECONDS))
    assert [web(user="ann").status_code for _ in range(2)] == [200, 429]


@pytest.mark.parametrize(
    ("path", "members"),
    [
        (NATIVE, {"user": "ann"}),
        (NATIVE, {"user": "ann", "stream": True}),
        (CHAT, {"user": "ann"}),
        (CHAT, {"safety_identifier": "ann"}),
        (CHAT, {"user": "ann", "safety_identifier": "bob"}),
        (RESPONSES, {"user": "ann"}),
        (RESPONSES, {"user": "", "safety_identifier": "ann"}),
        (MESSAGES, {"metadata": {"user_id": "ann"}}),
        ("/v1/messages/count_tokens", {"metadata": {"user_id": "ann"}}),
        ("/v1/embeddings", {"user": "ann"}),
        ("/v1/completions", {"user": "ann"}),
        ("/v1/moderations", {"user": "ann"}),
    ],
)
def test_a_user_is_one_on_every_route(
    app: Flask, upstream: Upstream, database_url: str, path: str, members: dict[str, Any]
) -> None:
    """By the member that the route's own API has for it; its row says who it was."""
    web = client_of(app, per_user_rpm=1)
    if path != NATIVE:
        upstream.script(reply(200, ANSWER | {"usage": USAGE}))
    assert web(path, **members).status_code == 200
    assert [row["end_user"] for row in settled(database_url)] == ["ann"]
    assert code(web(user="ann")) == "user_rate_limited"
    assert web(user="bob").status_code == 200


@pytest.mark.parametrize("path", [CHAT, RESPONSES, MESSAGES])
def test_a_body_that_names_a_user_passes_to_the_byte(app: Flask, upstream: Upstream, path: str) -> None:
    """With every member, in its place."""
    token = service(Accounts, app).add("web", Limits(per_user_rpm=5))
    body = json.dumps({"user": "ann", "metadata": {"user_id": "ann"}, "safety_identifier": "ann"} | BODIES[path])
    upstream.default = reply(200, ANSWER | {"usage": USAGE})
    headers = {"Authorization": f"Bearer {token}"}
    answer = app.test_client().post(path, data=body, content_type="application/json", headers=headers)
    assert (answer.status_code, upstream.received[0].body) == (200, body.encode())


def test_a_native_turn_tells_its_user_to_nobody(app: Flask, upstream: Upstream, caplog: Any) -> None:
    """Neither the upstream, nor the answer, nor the log has it."""
    web = client_of(app)
    with caplog.at_level("DEBUG"):
        answers = [web(user="ann-of-kent"), web(user="ann-of-kent", stream=True), web(user="ann-of-kent", max_tokens=0)]
    assert [answer.status_code for answer in answers] == [200, 200, 422]
    told = [answer.get_data(as_text=True) + str(answer.headers) for answer in answers]
    sent = [received.body.decode() + str(received.headers) for received in upstream.received]
    assert "ann-of-kent" not in "".join([*told, *sent, caplog.text])


@pytest.mark.parametrize(
    "limits", [{"per_user_rpm": 5}, {"per_user_budget_nano": 10**9, "per_user_budget_period": "day"}]
)
@pytest.mark.parametrize("path", BODIES)
def test_a_client_with_limits_per_user_has_to_name_one(
    app: Flask, upstream: Upstream, database_url: str, path: str, limits: dict[str, Any]
) -> None:
    """422 that says which member, whatever stands there that is no name. What is free and has no such member passes."""
    web = client_of(app, **limits)
    upstream.default = reply(200, ANSWER | {"usage": USAGE})
    if path == "/v1/messages/count_tokens":
        assert web(path).status_code == 200
        return
    nobodies: list[dict[str, Any]] = [{}, {"user": None}]
    if path != NATIVE:
        nobodies += [{"user": ""}, {"user": 7}, {"user": ["ann"]}, {"metadata": {"user_id": None}}, {"metadata": "ann"}]
    for members in nobodies:
        refused = web(path, **members)
        assert (refused.status_code, code(refused)) == (422, "validation_error")
        assert ("metadata.user_id" if path == MESSAGES else "user") in refused.get_data(as_text=True)
    assert not upstream.received
    assert rows(database_url) == []


def test_a_preview_has_to_name_a_user_too(app: Flask) -> None:
    """It says what a chat turn would say."""
    token = service(Accounts, app).add("web", Limits(per_user_rpm=1))
    headers = {"Authorization": f"Bearer {token}"}

    def preview(**members: Any) -> int:
        return app.test_client().post(f"{NATIVE}/preview", json=BODIES[NATIVE] | members, headers=headers).status_code

    assert [preview(), preview(user="ann"), preview(user="ann")] == [422, 200, 200]


def test_lists_of_models_need_no_user(app: Flask, upstream: Upstream) -> None:
    """They have no body to name one in."""
    token = service(Accounts, app).add("web", Limits(per_user_rpm=1))
    upstream.default = reply(200, {"object": "list", "data": []})
    headers = {"Authorization": f"Bearer {token}"}
    assert [app.test_client().get("/v1/models", headers=headers).status_code for _ in range(3)] == [200] * 3


def test_a_form_names_its_user(app: Flask, upstream: Upstream, database_url: str) -> None:
    """In a field."""
    token = service(Accounts, app).add("web", Limits(per_user_rpm=1))
    upstream.default = reply(200, {"text": "hi"})

    def transcribe(**fields: str) -> int:
        form = {"model": "whisper-1", "file": (io.BytesIO(b"x"), "x.wav"), **fields}
        headers = {"Authorization": f"Bearer {token}"}
        return app.test_client().post("/v1/audio/transcriptions", data=form, headers=headers).status_code

    assert [transcribe(), transcribe(user="ann"), transcribe(user="ann"), transcribe(user="bob")] == [
        422,
        200,
        429,
        200,
    ]
    assert [row["end_user"] for row in settled(database_url)] == ["ann", "bob"]


@pytest.mark.parametrize("user", ["", "u" * 129, "a\0b", 7, ["ann"]])
def test_a_name_that_is_none(app: Flask, upstream: Upstream, user: Any) -> None:
    """The native route says which member it was; with and without limits."""
    refused = client_of(app)(user=user)
    assert (refused.status_code, list(refused.get_json()["errors"]["json"])) == (422, ["user"])
    assert client_of(app, "other")(user="u" * 128).status_code == 200
    assert len(upstream.received) == 1


def test_long_names_are_told_apart(app: Flask, upstream: Upstream, database_url: str) -> None:
    """Claude Code's has 159 characters that differ at the end, and what the column does not hold is not left out."""
    web = client_of(app, per_user_rpm=1)
    upstream.default = reply(200, ANSWER | {"usage": USAGE})
    names = [f"{CLAUDE_CODE}{'a' * 35}{last}" for last in "12"] + ["ab", "a\0b", "x" * 100_000]
    for name in names:
        statuses = [web(MESSAGES, metadata={"user_id": name}).status_code for _ in range(2)]
        assert (name[:150], statuses) == (name[:150], [200, 429])
    found = [row["end_user"] for row in settled(database_url)]
    assert found[2] == "ab"
    assert len(set(found)) == len(names)
    assert max(map(len, found)) == 128


def test_each_user_has_a_budget_of_its_own(app: Flask, upstream: Upstream, database_url: str) -> None:
    """The worst case must fit; what is left of it after the answer can be used again. Own keys use none of it."""
    web = client_of(app, **budget(WORST))
    upstream.default = text("x")
    assert web(user="ann").status_code == 200
    settled(database_url)
    assert user_spent(database_url) == {"ann": (COST, 0)}
    refused = web(user="ann", max_tokens=110)
    assert (refused.status_code, code(refused)) == (429, "user_budget_exceeded")
    assert "of the end user's budget are left" in refused.get_json()["detail"]
    assert refused.headers["RateLimit-Policy"] == f'"user_budget_exceeded";q={WORST};w=86400'
    assert 1 <= int(refused.headers["Retry-After"]) <= 86_400
    assert refused.headers["X-Should-Retry"] == "false"
    assert web(user="ann", max_tokens=10).status_code == 200
    assert web(user="bob").status_code == 200
    assert web(user="ann", free_mode=False, openai_api_key=CALLER_KEY).status_code == 200
    settled(database_url)
    assert user_spent(database_url) == {"ann": (2 * COST, 0), "bob": (COST, 0)}
    assert spent(database_url) == (0, 0)


@pytest.mark.parametrize("client_has_one", [False, True], ids=["users only", "client and users"])
def test_twenty_at_once_never_exceed_a_users_budget(
    app: Flask, upstream: Upstream, database_url: str, client_has_one: bool
) -> None:
    """Not by a nano-dollar, although none of them names a limit and upstream writes all that it may; nor the client's,
    of which its users spend more together."""
    own = {"budget_nano": 15_000_000, "budget_period": "month"} if client_has_one else {}
    web = client_of(app, **budget(10_000_000), **own)

    async def greedy(received: Any, writer: Any) -> None:
        written = received.json["max_completion_tokens"]
        usage = {"prompt_tokens": 1, "completion_tokens": written, "total_tokens": 1 + written}
        await reply(200, ANSWER | {"usage": usage})(received, writer)

    def send(number: int) -> str:
        answer = web(CHAT, user=("ann", "bob")[number % 2], max_tokens=None)
        return "ok" if answer.status_code == 200 else code(answer)

    upstream.default = greedy
    with ThreadPoolExecutor(20) as threads:
        outcomes = set(threads.map(send, range(20)))
    assert "ok" in outcomes
    assert outcomes <= {"ok", "user_budget_exceeded", *(["budget_exceeded"] if client_has_one else [])}
    settled(database_url)
    paid = user_spent(database_url)
    assert {reserved for _, reserved in paid.values()} == {0}
    assert all(0 < one <= 10_000_000 for one, _ in paid.values())
    total, reserved = spent(database_url)
    assert (total, reserved) == ((sum(one for one, _ in paid.values()), 0) if client_has_one else (0, 0))
    assert total <= 15_000_000


@pytest.mark.parametrize(
    ("own", "users", "told"),
    [(WORST, 3 * WORST, "budget_exceeded"), (3 * WORST, WORST, "user_budget_exceeded"), (1, 1, "budget_exceeded")],
)
def test_the_smaller_rest_decides(app: Flask, upstream: Upstream, own: int, users: int, told: str) -> None:
    """The client's or the user's; the code says whose it was."""
    web = client_of(app, budget_nano=own, budget_period="day", **budget(users))
    assert code(web(user="ann", max_tokens=1000)) == told
    assert not upstream.received


def test_what_is_not_known_is_charged_to_the_user_in_full(app: Flask, upstream: Upstream, database_url: str) -> None:
    """A call that broke off costs what was reserved for it, of the user's budget as well."""
    web = client_of(app, **budget(10_000_000))
    upstream.default = reset()
    web(CHAT, user="ann")
    (row,) = settled(database_url)
    assert row["reserved_nano"] > 100 * 600
    assert user_spent(database_url) == {"ann": (row["reserved_nano"], 0)}


def test_what_no_budget_covers_is_refused_for_a_users_budget(app: Flask, upstream: Upstream) -> None:
    """Unknown prices, unknown costs and routes without tokens, although the client itself has no budget."""
    web = client_of(app, **budget(10**12))
    assert code(web(user="ann", model="no-such-model")) == "model_price_unknown"
    assert code(web(CHAT, user="ann", background=True)) == "not_covered"
    assert not upstream.received


def test_a_dead_workers_reservation_is_the_users_to_pay(app: Flask, database_url: str) -> None:
    """As the client's budget does, once; what a late worker settles after that counts for nothing."""
    accounts = service(Accounts, app)
    principal = accounts.principal(accounts.add("web", Limits(**budget(10**9))))
    ask = Ask(route=NATIVE, model=MODEL, max_tokens=100, end_user="ann")
    entry = service(Ledger, app).open(ask, principal, Call(5), Receipt(), server_pays=True)
    assert user_spent(database_url) == {"ann": (0, 60_000)}
    with connected(database_url) as connection:
        connection.execute(requests.update().values(lease_until=1, owner="elsewhere:1:1"))
    assert service(Ledger, app).sweep() == 1
    entry.settle("ok")
    service(Database, app).flush(5)
    assert user_spent(database_url) == {"ann": (60_000, 0)}


def test_a_request_whose_admission_came_too_late_gives_its_reservation_back(app: Flask, database_url: str) -> None:
    """Its caller has been told 503."""
    accounts = service(Accounts, app)
    principal = accounts.principal(accounts.add("web", Limits(**budget(10**9))))
    ask = Ask(route=NATIVE, model=MODEL, max_tokens=100, end_user="ann")
    service(Ledger, app).open(ask, principal, Call(5), Receipt(), server_pays=True)
    (row,) = rows(database_url)
    assert (row["reserved_nano"], user_spent(database_url)) == (60_000, {"ann": (0, 60_000)})
    late = Admitted(row["id"], 1, 60_000, None, None, "ann", row["user_period_start"])
    service(Database, app).write(lambda connection: take_back(connection, late))
    assert (rows(database_url), user_spent(database_url)) == ([], {"ann": (0, 0)})


def test_a_users_budget_is_settled_under_its_clients_lock(app: Flask, database_url: str) -> None:
    """Else an admission that goes on at the same time could have read another sum, and two of them lock each other."""
    accounts = service(Accounts, app)
    principal = accounts.principal(accounts.add("web", Limits(**budget(10**9))))
    ask = Ask(route=NATIVE, model=MODEL, max_tokens=100, end_user="ann")
    entry = service(Ledger, app).open(ask, principal, Call(5), Receipt(), server_pays=True)
    with connected(database_url) as connection:
        connection.execute(clients.update().values(expires_at=None))
        entry.settle("ok")
        service(Database, app).flush(0.5)
        assert [row["status"] for row in rows(database_url)] == ["pending"]
    assert [row["status"] for row in settled(database_url)] == ["ok"]
    assert user_spent(database_url)["ann"][1] == 0


def test_a_users_budget_renews_with_its_period(app: Flask, upstream: Upstream, database_url: str) -> None:
    """Whatever period the client's own budget has."""
    web = client_of(app, budget_nano=10**9, budget_period="total", **budget(WORST))
    upstream.default = text("x", usage={"input_tokens": 0, "output_tokens": 100, "total_tokens": 100})
    assert web(user="ann").status_code == 200
    settled(database_url)
    assert code(web(user="ann")) == "user_budget_exceeded"
    with connected(database_url) as connection:
        yesterday = user_spending.c.period_start - MICROSECONDS_PER_DAY
        connection.execute(user_spending.update().values(period_start=yesterday))
    assert web(user="ann").status_code == 200
    settled(database_url)
    assert spent(database_url) == (2 * 100 * 600, 0)


def test_periods_that_are_over_are_forgotten(app: Flask, database_url: str) -> None:
    """In small batches, by the sweep; the present ones and those that never renew stay."""
    service(Accounts, app).add("web", Limits())
    today = service(Database, app).clock() * MICROSECONDS // MICROSECONDS_PER_DAY * MICROSECONDS_PER_DAY
    ages = {"total": None, "today": 0, "31 days": 31, "41 days": 41}
    values = [
        {
            "client_id": 1,
            "end_user": f"{name} {number}",
            "period_start": 0 if days is None else today - days * MICROSECONDS_PER_DAY,
            "spent_nano": 1,
            "reserved_nano": 0,
        }
        for name, days in ages.items()
        for number in range(600)
    ]
    with connected(database_url) as connection:
        connection.execute(user_spending.insert(), values)
    for left in (100, 0, 0):
        service(Ledger, app).sweep()
        kept = [name.rpartition(" ")[0] for name in user_spent(database_url)]
        assert {name: kept.count(name) for name in ages} == dict.fromkeys(ages, 600) | {"41 days": left}


def test_a_deleted_clients_users_are_forgotten(app: Flask, database_url: str) -> None:
    """What they spent goes with it; the ledger's rows stay."""
    web = client_of(app, **budget(10**9))
    assert web(user="ann").status_code == 200
    settled(database_url)
    service(Accounts, app).delete("web")
    assert user_spent(database_url) == {}
    assert [row["end_user"] for row in rows(database_url)] == ["ann"]


def test_names_that_are_made_up_get_nobody_past_the_clients_own_limits(
    app: Flask, upstream: Upstream, database_url: str
) -> None:
    """Each is new and has all of its allowance; the client has not."""
    web = client_of(app, requests_per_minute=3, per_user_rpm=1, **budget(10**9))
    answers = [web(user=f"nobody-{number}") for number in range(6)]
    assert [answer.status_code for answer in answers] == [200] * 3 + [429] * 3
    assert {code(answer) for answer in answers[3:]} == {"rate_limited"}
    settled(database_url)
    assert len(user_spent(database_url)) == 3


def test_requests_that_are_admitted_together_count_for_each_other(app: Flask, database_url: str) -> None:
    """In one transaction: by user, and the reservation of each user is the sum."""
    accounts, database = service(Accounts, app), service(Database, app)
    token = accounts.add("web", Limits(per_user_rpm=2, **budget(1500)))
    decided = admitted(accounts, database, token, ["ann", "ann", "bob", None, "ann"])
    assert decided == ["ok", "user_budget_exceeded", "ok", "validation_error", "user_budget_exceeded"]
    accounts.change("web", per_user_budget_nano=10_000)
    decided = admitted(accounts, database, token, ["ann", "bob", "ann", "ann"])
    assert decided == ["ok", "ok", "user_rate_limited", "user_rate_limited"]
    assert user_spent(database_url) == {"ann": (0, 2000), "bob": (0, 2000)}


def test_usage_by_user(app: Flask, database_url: str) -> None:
    """Sums by user, the dearest first and no more than asked for; rows of one user; each client sees its own."""
    web, other = client_of(app), client_of(app, "other")
    long = f"{CLAUDE_CODE}{'a' * 36}"
    for post, users in ((web, ["ann", "bob", "bob", None]), (other, ["ann", "ann", "ann"])):
        for user in users:
            assert post(**({"user": user} if user else {})).status_code == 200
    body = {"metadata": {"user_id": long}, "messages": [], "model": "x"}
    token = service(Accounts, app).rotate("web")
    service(Accounts, app).change("other", admin=True)
    admin = service(Accounts, app).rotate("other")
    app.test_client().post(MESSAGES, json=body, headers={"Authorization": f"Bearer {token}"})
    settled(database_url)

    def usage(query: str, token: str = token) -> Any:
        return app.test_client().get(f"/api/v1/usage?{query}", headers={"Authorization": f"Bearer {token}"}).get_json()

    totals = [(total["key"], total["requests"]) for total in usage("by=user")["totals"]]
    assert totals[0] == ("bob", 2)
    assert set(totals[1:]) == {("", 1), ("ann", 1), (totals[-1][0], 1)}
    assert [(total["key"], total["requests"]) for total in usage("by=user&limit=1")["totals"]] == [("bob", 2)]
    assert [total["key"] for total in usage("by=user&limit=1", admin)["totals"]] == ["ann"]
    assert usage("by=user", admin)["totals"][0]["requests"] == 4
    assert [row["user"] for row in usage("user=bob")["rows"]] == ["bob", "bob"]
    assert [row["client"] for row in usage("user=ann")["rows"]] == ["web"]
    assert {row["client"] for row in usage("user=ann", admin)["rows"]} == {"web", "other"}
    assert [total["requests"] for total in usage("by=day&user=bob")["totals"]] == [2]
    (row,) = usage(f"user={long}")["rows"]
    assert row["user"].startswith(CLAUDE_CODE[:90])
    assert usage("user=nobody") == {"rows": [], "next_cursor": None}
    hidden = {"end_user", "user_period_start", "client_name"}
    assert not hidden & set(row)
