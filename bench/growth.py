"""`python -m bench.growth`: how the cost of a request grows with its size, its history, the clients, the ledger and the
sessions."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

import sqlalchemy as sa

from app.ledger.accounts import Accounts, Limits
from app.ledger.tokens import digest_key
from app.store.database import Database
from app.store.tables import character_versions, characters, clients, requests, sessions, turns
from app.tokens import estimate_tokens
from bench import load, report, upstream, wire
from bench.gateways import JSON, our_environment, ours
from bench.processes import ROOT, RUN, WORK, Program
from bench.tools import draw, provide
from bench.upstream import Upstream

SECONDS = 3
WARM_SECONDS = 1
ROUNDS = 3
DOCUMENT = ROOT / "docs" / "performance.md"
RESULT = WORK / "growth.json"
PLOT = ROOT / "docs" / "growth.svg"
BODY_BYTES = (1_000, 10_000, 100_000, 300_000, 1_000_000)
TURNS = (1, 50, 100, 250, 500)
CLIENTS = (1, 100, 1_000, 10_000)
LEDGER_ROWS = (0, 100_000, 1_000_000, 5_000_000)
TURNS_SENT = (1, 10, 50, 100, 250)
TURNS_KEPT = (10, 1_000, 100_000)
SESSIONS = (1, 1_000, 100_000)
CHARACTERS = (1, 1_000, 10_000)
MANY_CALLERS, MANY_SESSIONS = 16, 64
"""Callers that talk at once, in sessions of their own."""
QUESTION = json.loads(wire.request_body(wire.NATIVE))["user_message"]
TURN_TOKENS = estimate_tokens(QUESTION) + estimate_tokens(wire.ANSWER)
"""Stored turns are as long as those that are added while it is measured: if they were longer, more and more turns would
fit into a prompt."""
NINETY_DAYS = 90 * 86_400 * 1_000_000


@dataclass(frozen=True)
class Point:
    """One figure: `size` is what grows; times are microseconds, of one caller where nothing else is said."""

    size: int
    p50_us: float
    worker_cpu_us: float


def main() -> int:
    """Measure all; write .bench/growth.json, and the tables and the plot of docs/performance.md."""
    if problem := provide():
        print(problem, file=sys.stderr)
        return 1
    shutil.rmtree(RUN, ignore_errors=True)
    RUN.mkdir(parents=True)
    with Upstream(deltas=1) as server:
        base_url = server.base_url(upstream.AT_ONCE)
        grown = {
            "body, bytes": _by_body(base_url, BODY_BYTES, _message_of),
            "history, turns of 100 characters": _by_body(base_url, TURNS, _history_of),
            "clients": _by_store(base_url, CLIENTS, _add_clients),
            "rows in the ledger": _by_store(base_url, LEDGER_ROWS, _add_rows),
            **_by_session(base_url),
        }
    RESULT.write_text(json.dumps({name: [asdict(point) for point in points] for name, points in grown.items()}))
    report.write(DOCUMENT, _tables(grown), "growth")
    draw("growth", RESULT, PLOT)
    return 0


def _by_body(base_url: str, sizes: tuple[int, ...], body: Callable[[int], str]) -> list[Point]:
    """One server, bodies that grow."""
    _fresh_store()
    with ours(SUMMARY_MODEL="none").start(base_url) as program:
        return [_measured(program, size, body(size)) for size in sizes]


def _by_store(
    base_url: str, sizes: tuple[int, ...], fill: Callable[[Database, int], None], body: str | None = None
) -> list[Point]:
    """A store that grows; one server after the other."""
    _fresh_store()
    points, held = [], 0
    for size in sizes:
        database = Database(our_environment()["DATABASE_URL"])
        fill(database, size - held)
        database.close()
        held = size
        with ours(SUMMARY_MODEL="none").start(base_url) as program:
            points.append(_measured(program, size, body or wire.request_body(wire.NATIVE)))
    return points


def _by_session(base_url: str) -> dict[str, list[Point]]:
    """A remembered turn beside one that brings its ten past turns itself; turns that are sent, turns that are not, and
    other sessions. Without summaries, which are requests of their own."""
    _fresh_store()
    database = Database(our_environment()["DATABASE_URL"])
    most = max(TURNS_SENT)
    _add_sessions(database, "own", MANY_SESSIONS, most)
    for kept in TURNS_KEPT:
        _add_sessions(database, f"kept-{kept}", 1, kept)
    with ours(SUMMARY_MODEL="none").start(base_url) as program:
        found = {
            f"10 past turns, {who}: brought (0), remembered (1)": [
                _measured(program, 0, brings(10), callers),
                _measured(program, 1, remembers("own-1", 10), callers),
            ]
            for callers, who in ((1, "one caller"), (MANY_CALLERS, f"{MANY_CALLERS} callers"))
        }
        found |= {
            "turns of a session that are sent": [_measured(program, n, remembers("own-1", n)) for n in TURNS_SENT],
            "turns of a session, of which 10 are sent": [
                _measured(program, kept, remembers(f"kept-{kept}-1", 10)) for kept in TURNS_KEPT
            ],
        }
    database.close()
    speaks = json.dumps(json.loads(wire.request_body(wire.NATIVE)) | {"character": "other-0"})
    return found | {
        "other sessions": _by_store(base_url, SESSIONS, _add_others, remembers("own-1", 10)),
        "characters": _by_store(base_url, CHARACTERS, _add_characters, speaks),
    }


def _measured(program: Program, size: int, body: str, callers: int = 1) -> Point:
    """The best of some rounds: what else the machine does can only add."""
    found = [_round(program, body, callers) for _ in range(ROUNDS)]
    point = Point(size, min(p50 for p50, _ in found), min(cpu for _, cpu in found))
    print(f"  {size:>9,}  p50 {point.p50_us / 1000:.2f} ms  worker {point.worker_cpu_us / 1000:.2f} ms", flush=True)
    return point


def _round(program: Program, body: str, callers: int) -> tuple[float, float]:
    sessions = 1 if callers == 1 else MANY_SESSIONS
    url = f"http://127.0.0.1:{program.port}{wire.NATIVE}"
    headers = JSON | {"Authorization": f"Bearer {(RUN / 'token').read_text()}"}
    load.requests(url, headers, body, callers=callers, seconds=WARM_SECONDS, sessions=sessions)
    before = program.cpu_seconds
    said = load.requests(url, headers, body, callers=callers, seconds=SECONDS, sessions=sessions)
    if said["status_errors"] or said["socket_errors"] or not said["requests"]:
        raise RuntimeError(f"requests failed: {said}")
    used = program.cpu_seconds - before
    return said["p50_us"], round(used / said["requests"] * 1e6, 1)


def _fresh_store() -> None:
    """An empty store with one client, every limit of which has to be looked up."""
    for file in RUN.glob("ours.db*"):
        file.unlink()
    database = Database(our_environment()["DATABASE_URL"])
    database.migrate()
    limits = Limits(concurrency=1000, budget_nano=10**15, budget_period="day")
    (RUN / "token").write_text(_accounts(database).add("bench", limits))
    database.close()


def _accounts(database: Database) -> Accounts:
    from app.config import Config

    return Accounts(database, digest_key(Config(database_url=our_environment()["DATABASE_URL"])))


def _message_of(size: int) -> str:
    body = json.loads(wire.request_body(wire.NATIVE))
    return json.dumps(body | {"user_message": "word " * (size // 5)})


def _history_of(turns: int) -> str:
    body = json.loads(wire.request_body(wire.NATIVE))
    return json.dumps(body | {"conversation_history": ["user: " + "x" * 94] * turns})


def brings(count: int) -> str:
    """A stateless request that has so many past turns with it."""
    body = json.loads(wire.request_body(wire.NATIVE))
    return json.dumps(body | {"conversation_history": [f"user: {QUESTION}", f"assistant: {wire.ANSWER}"] * count})


def remembers(session: str, count: int) -> str:
    """A turn of a session whose limit lets so many of its past turns be sent."""
    body = json.loads(wire.request_body(wire.NATIVE))
    body |= {"conversation_history": [], "remember": True, "session_id": session}
    others = (
        body["system_message"],
        body["user_message"],
        "#역할\n" + body["role"],
        "#기억\n- " + body["memory_context"][0],
    )
    limit = sum(estimate_tokens(part) for part in others) + count * TURN_TOKENS
    return json.dumps(body | {"max_context_tokens": limit})


def _add_sessions(database: Database, name: str, count: int, length: int) -> None:
    """Sessions of our client with so many turns each."""
    now = int(time.time() * 1_000_000)
    with database.engine.begin() as connection:
        for number in range(1, count + 1):
            row = {"owner": 1, "name": f"{name}-{number}", "created_at": now, "updated_at": now, "turns": length}
            made = connection.execute(sessions.insert().values(row)).inserted_primary_key
            assert made is not None
            texts = {"user_text": QUESTION, "answer_text": wire.ANSWER}
            said = {"session": made[0], "created_at": now, "interrupted": False} | texts
            connection.execute(turns.insert(), [said | {"number": place} for place in range(1, length + 1)])


def _add_others(database: Database, count: int) -> None:
    """Sessions of three turns beside one that is asked."""
    with database.engine.begin() as connection:
        have = connection.execute(sa.select(sa.func.count()).select_from(sessions)).scalar_one()
    if not have:
        _add_sessions(database, "own", 1, 10)
    _add_sessions(database, f"after-{have}", count, 3)


def _add_characters(database: Database, count: int) -> None:
    """Characters of our client, of which the first is asked."""
    with database.engine.begin() as connection:
        have = connection.execute(sa.select(sa.func.count()).select_from(characters)).scalar_one()
        for number in range(have, have + count):
            row = {"client_id": 1, "name": f"other-{number}", "version": 1}
            made = connection.execute(characters.insert().values(row)).inserted_primary_key
            assert made is not None
            version = {"character": made[0], "version": 1, "created_at": 0, "body": json.dumps({"role": QUESTION})}
            connection.execute(character_versions.insert().values(version))


def _add_clients(database: Database, count: int) -> None:
    """Others than ours, each with a digest of its own."""
    with database.engine.begin() as connection:
        have = connection.execute(sa.select(sa.func.max(clients.c.id))).scalar_one()
        same = {"created_at": 0, "models": "", "admin": False, "free_mode": True}
        rows = [
            {"name": f"other-{number}", "token_digest": f"{number:064x}"} | same for number in range(have, have + count)
        ]
        connection.execute(clients.insert(), rows)


def _add_rows(database: Database, count: int) -> None:
    """Settled requests of our client over the last ninety days, as a query makes them."""
    now = int(time.time() * 1_000_000)
    names = [column.name for column in requests.columns if not column.nullable and column.name != "id"]
    values = {
        **dict.fromkeys(names, "0"),
        **{"request_id": "'made-' || n", "created_at": f"{now} - (n * 7919 % {NINETY_DAYS // 1000}) * 1000"},
        **{"route": "'/api/v1/chat'", "session_id": "''", "status": "'ok'", "owner": "'made:0:0'"},
        **{"client_id": "1", "client_name": "'bench'", "model": "'gpt-4o-mini'", "cost_nano": "8400"},
    }
    with database.engine.begin() as connection:
        connection.exec_driver_sql(
            f"INSERT INTO requests ({', '.join(values)}) WITH RECURSIVE s(n) AS "
            f"(SELECT 1 UNION ALL SELECT n + 1 FROM s WHERE n < {count}) SELECT {', '.join(values.values())} FROM s "
            f"WHERE {count} > 0"
        )
    print(f"  {count:,} rows made", flush=True)


def _tables(grown: dict[str, list[Point]]) -> str:
    return "\n".join(line for name, points in grown.items() for line in _table(name, points))


def _table(name: str, points: list[Point]) -> Iterator[str]:
    yield f"| {name} | p50, ms | worker's CPU, ms |"
    yield "| ---: | ---: | ---: |"
    for point in points:
        yield f"| {point.size:,} | {point.p50_us / 1000:.2f} | {point.worker_cpu_us / 1000:.2f} |"
    yield ""


if __name__ == "__main__":
    sys.exit(main())
