"""Usage over time and by group: the sums are the ledger's, the percentiles right to 5 %, whichever store."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app.ledger.accounts import Accounts, Limits
from app.models import USAGE_POINTS_MAX, USAGE_SORTS
from app.store.tables import attempts, clients, requests
from app.units import MICROSECONDS, dollars
from app.web.services import service
from tests.conftest import EVERY_STORE
from tests.records import Row, connected

pytestmark = EVERY_STORE
END = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
COUNTED = ("requests", "ok", "failed", "input_tokens", "cached_tokens", "output_tokens", "requests_of_unknown_cost")
SPAN = timedelta(days=6)


def made_up(number: int, dice: random.Random) -> Row:
    """A row of the ledger, somewhere in the six days before END."""
    status = dice.choice(["ok"] * 8 + ["error", "timeout", "abandoned", "cancelled", "pending"])
    is_timed, created = status != "pending", END - dice.random() * SPAN
    return {
        "request_id": f"r-{number}",
        "client_name": dice.choice(["web", "game"]),
        "client_id": None,
        "created_at": int(created.timestamp() * MICROSECONDS),
        "route": "/api/v1/chat",
        "session_id": dice.choice(["", "s-1", "s-2", "<b>"]),
        "model": dice.choice(["m-1", "m-2", None]),
        "status": status,
        "code": None if status == "ok" else "upstream_error",
        **dict.fromkeys(("streamed", "cached", "estimated"), False),
        "input_tokens": dice.randrange(1000),
        "cached_tokens": dice.randrange(10),
        "output_tokens": dice.randrange(1000),
        "reasoning_tokens": 0,
        "cost_nano": dice.choice([None, dice.randrange(10**9), dice.randrange(10**9)]),
        "total_ms": round(math.exp(dice.uniform(0, 15)), 2) if is_timed else None,
        "first_token_ms": round(math.exp(dice.uniform(0, 7)), 2) if status == "ok" and dice.random() < 0.5 else None,
        "owner": "",
        "lease_until": 0,
        "reserved_nano": 0,
    }


def made_at_b(made: Sequence[Row]) -> list[Row]:
    """Those whose only attempt was at `b`."""
    return [row for row in made[1::3] if row["status"] != "pending"]


@pytest.fixture
def written(make_app: Callable[..., Flask], database_url: str) -> tuple[FlaskClient, list[Row]]:
    """A server and what its ledger holds: 600 requests, a third of which failed at `a` and were answered by `b`; of
    another third the only attempt was at `b`."""
    client, dice = make_app().test_client(), random.Random(7)
    made = [made_up(number, dice) for number in range(600)]
    with connected(database_url) as connection:
        nowhere, alone = {"upstream": None, "answer_ms": None}, {"upstream": "b", "answer_ms": 100}
        at_b = {row["request_id"] for row in made_at_b(made)}
        rows = [row | (alone if row["request_id"] in at_b else nowhere) for row in made]
        connection.execute(requests.insert(), rows)
        ids = {row.request_id: row.id for row in connection.execute(requests.select())}
        counts = dict.fromkeys(("input_tokens", "cached_tokens", "output_tokens"), 1)
        tried = [
            {"request": ids[row["request_id"]], "number": number, "upstream": name, "model": "m", "outcome": outcome}
            | {"ms": 100 * number, "cost_nano": 1, "estimated": False, **counts}
            for row in made[::3]
            for number, (name, outcome) in enumerate([("a", "upstream_error"), ("b", row["status"])], 1)
        ]
        connection.execute(attempts.insert(), tried)
    return client, made


def get(caller: FlaskClient, path: str = "", headers: dict[str, str] | None = None, **query: Any) -> dict[str, Any]:
    answer = caller.get(f"/api/v1/usage{path}", query_string=query, headers=headers)
    assert answer.status_code == 200, answer.get_data(as_text=True)
    document: dict[str, Any] = answer.get_json()
    return document


def sums(rows: Iterable[Row]) -> dict[str, Any]:
    """What is counted of rows, in Python."""
    found = list(rows)
    costs = [row["cost_nano"] for row in found if row["cost_nano"] is not None]
    return {
        "requests": len(found),
        "ok": sum(row["status"] == "ok" for row in found),
        "failed": sum(row["status"] in {"error", "timeout", "abandoned"} for row in found),
        **{name: sum(row[name] for row in found) for name in ("input_tokens", "cached_tokens", "output_tokens")},
        "requests_of_unknown_cost": len(found) - len(costs),
        "cost_usd": dollars(sum(costs)) if costs or not found else None,
    }


def percentile(times: Iterable[float], share: int) -> float | None:
    """By the nearest rank."""
    ordered = sorted(times)
    return ordered[math.ceil(len(ordered) * share / 100) - 1] if ordered else None


def is_near(told: float | None, wanted: float | None) -> bool:
    return told == wanted if wanted is None or told is None else abs(told - wanted) <= 1 + 0.05 * wanted


def check(told: dict[str, Any], rows: Sequence[Row]) -> None:
    """What is told of these rows is so."""
    assert {name: told[name] for name in (*COUNTED, "cost_usd")} == sums(rows)
    times = [row["total_ms"] for row in rows if row["status"] == "ok"]
    for share in (50, 95):
        assert is_near(told[f"p{share}_ms"], percentile(times, share))
    if "first_token_p50_ms" in told:
        times = [row["first_token_ms"] for row in rows if row["first_token_ms"] is not None]
        assert is_near(told["first_token_p50_ms"], percentile(times, 50))


NAMES = {"session_id": "session_id", "model": "model", "client_name": "client"}
QUERIES: list[tuple[dict[str, Any], int]] = [
    ({}, 3600),
    ({"step_seconds": 86_400}, 86_400),
    ({"step_seconds": 60}, 3600),
    ({"since": END - timedelta(hours=1)}, 60),
    ({"since": END - timedelta(hours=24)}, 900),
    ({"since": END - timedelta(days=30)}, 6 * 3600),
    ({"since": datetime(1, 1, 1, tzinfo=UTC)}, 3600),
    ({"session_id": "<b>"}, 3600),
    ({"model": "m-1", "client": "web"}, 3600),
    ({"upstream": "a"}, 3600),
    ({"upstream": "nobody"}, 3600),
]
"""What is asked for, and how many seconds there are between two points."""


def test_the_points_have_the_sums_of_the_ledger(written: tuple[FlaskClient, list[Row]], database_url: str) -> None:
    """Each point, and all together; there is one for each step, and no more than can be drawn."""
    client, made = written
    web = {"id": 1, "name": "web", "token_digest": "x", "created_at": 0, "admin": False, "free_mode": True}
    with connected(database_url) as connection:
        connection.execute(clients.insert().values(web))
        connection.execute(requests.update().where(requests.c.client_name == "web").values(client_id=1))
    for query, step in QUERIES:
        asked = {"until": END} | query
        query = {name: value.isoformat() if isinstance(value, datetime) else value for name, value in asked.items()}
        found = get(client, "/series", **query)
        assert found["step_seconds"] == step
        check_points(found, [row for number, row in enumerate(made) if is_asked_for(row, number, asked)])
        query.pop("step_seconds", None)
        totals = get(client, by="day", **query)["totals"]
        assert sum(Decimal(total["cost_usd"] or 0) for total in totals) == Decimal(found["sums"]["cost_usd"] or 0)


def is_asked_for(row: Row, number: int, asked: dict[str, Any]) -> bool:
    return (
        all(row[name] == asked.get(given, row[name]) for name, given in NAMES.items())
        and ("upstream" not in asked or (asked["upstream"] == "a" and number % 3 == 0))
        and ("since" not in asked or row["created_at"] >= asked["since"].timestamp() * MICROSECONDS)
    )


def check_points(found: dict[str, Any], wanted: Sequence[Row]) -> None:
    check(found["sums"], wanted)
    width = found["step_seconds"] * MICROSECONDS
    moments = [int(datetime.fromisoformat(point["at"]).timestamp()) * MICROSECONDS for point in found["points"]]
    assert moments == list(range(moments[0], moments[-1] + 1, width))
    assert len(moments) <= USAGE_POINTS_MAX
    for moment, point in zip(moments, found["points"], strict=True):
        check(point, [row for row in wanted if row["created_at"] // width * width == moment])


def test_the_sums_of_groups(written: tuple[FlaskClient, list[Row]]) -> None:
    """By any group; sorted by any column, the largest first, as many as are asked for."""
    client, made = written
    columns = {"model": "model", "client": "client_name", "session": "session_id"}
    for by, column in columns.items():
        found = {total["key"]: total for total in get(client, by=by)["totals"]}
        assert set(found) == {row[column] or "" for row in made}
        for key, total in found.items():
            check(total, [row for row in made if (row[column] or "") == key])
        for sort in USAGE_SORTS:
            told = get(client, by=by, sort=sort)["totals"]
            values = [(Decimal(total[sort]) if sort == "cost_usd" else total[sort]) for total in told]
            assert values == sorted(values, reverse=sort != "key")
            assert get(client, by=by, sort=sort, limit=1)["totals"] == told[:1]
    a, b = get(client, by="upstream", sort="key")["totals"]
    assert (a["requests"], a["failed"], a["ok"], a["p50_ms"]) == (200, 200, 0, None)
    among, alone = [row["status"] for row in made[::3]], [row["status"] for row in made_at_b(made)]
    assert b["failed"] == sum(status not in {"ok", "cancelled"} for status in among + alone)
    assert (b["requests"], b["ok"], b["p95_ms"]) == (len(among + alone), (among + alone).count("ok"), 210)
    assert b["p50_ms"] == (105 if alone.count("ok") >= among.count("ok") else 210)
    assert b["input_tokens"] == 200 + sum(row["input_tokens"] for row in made_at_b(made))
    assert [total["key"] for total in get(client, by="upstream", upstream="b")["totals"]] == ["b"]


def test_no_requests(make_app: Callable[..., Flask]) -> None:
    """Then there are points of nothing; and a period without any time is not drawn as more than one."""
    client = make_app().test_client()
    nothing = sums([]) | {"p50_ms": None, "p95_ms": None, "first_token_p50_ms": None}
    found = get(client, "/series", since=(datetime.now(UTC) - timedelta(hours=1)).isoformat())
    assert found["sums"] == nothing
    assert 61 <= len(found["points"]) <= 62
    found = get(client, "/series", since="2999-01-01T00:00:00Z", until="2001-01-01T00:00:00Z")
    assert [point | {"at": ""} for point in found["points"]] == [nothing | {"at": ""}]
    assert client.get("/api/v1/usage/series?step_seconds=61").status_code == 422
    assert client.get("/api/v1/usage?by=model&sort=code").status_code == 422


def test_a_client_sees_its_own(make_app: Callable[..., Flask], written: tuple[FlaskClient, list[Row]]) -> None:
    """Over time as well; an admin sees all."""
    app = make_app(auth_mode="token")
    tokens = {name: service(Accounts, app).add(name, Limits(admin=name == "root")) for name in ("web", "root")}
    headers = {name: {"Authorization": f"Bearer {token}"} for name, token in tokens.items()}
    seen = {name: get(app.test_client(), "/series", headers[name])["sums"]["requests"] for name in headers}
    assert seen == {"web": 0, "root": 600}
    assert app.test_client().get("/api/v1/usage/series?client=root", headers=headers["web"]).status_code == 403
