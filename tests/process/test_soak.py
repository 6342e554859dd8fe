"""The leak gate: after any number of requests of every kind, a worker holds as much as before.

SOAK_SECONDS or SOAK_REQUESTS make it longer, as `make soak` does; the figures are printed.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import statistics
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from typing import NamedTuple

import psutil
import pytest
import sqlalchemy as sa

from app.ledger.accounts import Limits
from app.store.tables import requests
from tests.callers import Caller, message
from tests.prometheus import samples, value
from tests.records import add_client, connected, spent
from tests.server import Server
from tests.soak_load import MEGABYTE, NATIVE, Outcome, Plan, run
from tests.soak_upstream import SLOW, SoakUpstream

SECONDS = float(os.environ.get("SOAK_SECONDS") or 0)
IS_LONG = bool(SECONDS or os.environ.get("SOAK_REQUESTS"))
REQUESTS = int(os.environ.get("SOAK_REQUESTS") or (0 if SECONDS else 8_000)) or None
WARM_UP_REQUESTS = 30_000 if IS_LONG else 8_000
"""Until SQLite's page cache, the response cache and the pools have their size; the allocator's arenas take longer."""
SLOTS = 50
BLOCKS_PER_REQUEST = 0.5
BYTES_PER_REQUEST = 50
"""Tables that are bounded may still fill, as the one of refused keys: 3 % of the requests have one."""
MB_PER_10_000 = 1.0
NOISE_MB = 2.0
"""A heap moves by as much without a leak, in however few requests: less growth says nothing."""
REST_SECONDS = 9.0
"""gevent's threads end after 5 s without work; housekeeping wants one every 5 s."""
LOOKS = 9
SETTINGS = {
    "AUTH_MODE": "token",
    "MAX_CONCURRENT_REQUESTS": SLOTS,
    "REQUEST_TIMEOUT": 3,
    "KEEPALIVE_SECONDS": 0.5,
    "CACHE_ENABLED": "true",
    "CACHE_MAX_SIZE": 100,
}


class Held(NamedTuple):
    """What a worker holds while nobody asks it anything. `blocks` are Python's own (`sys.getallocatedblocks`)."""

    fds: int
    threads: int
    greenlets: int
    blocks: int
    malloc_bytes: int

    def is_within(self, other: Held, done: int) -> bool:
        """Whether, after so many requests, it is no more than `other`, but for what bounded tables may hold."""
        room = Held(0, 0, 0, int(BLOCKS_PER_REQUEST * done), BYTES_PER_REQUEST * done)
        return all(now <= then + more for now, then, more in zip(self, other, room, strict=True))


@pytest.fixture
def upstream() -> Iterator[SoakUpstream]:
    with SoakUpstream() as server:
        yield server


def add_clients(database_url: str) -> dict[str, str]:
    """Several clients of every kind, by name: their tokens. Nobody has none."""
    rich = Limits(budget_nano=10**15, budget_period="total")
    limits = {"web": rich, "app": rich, "batch": Limits(concurrency=1000), "admin": Limits(admin=True)}
    limits["limited"] = Limits(requests_per_minute=60)
    return {name: add_client(database_url, allowed, name) for name, allowed in limits.items()} | {"nobody": "llms_x"}


async def fill(server: Server, token: str) -> None:
    """Fill every pool to its brim: as many calls at once as there are slots, as many reads as there are threads.

    What a pool keeps afterwards is then always the same.
    """
    bearer = {"Authorization": f"Bearer {token}"}
    turn = {"user_message": f"fill {SLOW}", "free_mode": True}
    calls = [message("POST", NATIVE, turn, bearer | {"Cache-Control": "no-cache"})] * SLOTS
    reads = [message("GET", "/api/v1/usage?limit=1", None, bearer)] * SLOTS
    callers = [Caller(server.port) for _ in calls + reads]
    heard = await asyncio.gather(*(caller.ask(sent) for caller, sent in zip(callers, calls + reads, strict=True)))
    for caller in callers:
        caller.leave()
    assert {answer.status for answer in heard} == {200}


def held(server: Server) -> Held:
    """What the worker holds now."""
    worker = psutil.Process(server.worker_pids[0])
    # Before the request: its connection is a descriptor until the worker has closed it, too.
    fds, threads = worker.num_fds(), worker.num_threads()
    return Held(fds, threads, **server.request("GET", "/held").json)


def at_rest(server: Server, token: str) -> Held:
    """The least the worker holds within some seconds of rest, its pools filled before."""
    asyncio.run(fill(server, token))
    looks = []
    for _ in range(LOOKS):
        time.sleep(REST_SECONDS / LOOKS)
        looks.append(held(server))
    return Held(*map(min, *looks))


def growth(sizes: Sequence[tuple[int, int]]) -> tuple[float, int]:
    """MB from the median of the first quarter to that of the last, and the requests between them."""
    quarter = max(1, len(sizes) // 4)
    (requests_before, before), (requests_after, after) = (
        (statistics.median(done for done, _ in part), statistics.median(size for _, size in part))
        for part in (sizes[:quarter], sizes[-quarter:])
    )
    return (after - before) / MEGABYTE, int(requests_after - requests_before)


def endings(database_url: str) -> dict[str, str]:
    """How the ledger says that each request ended, by its id; one that has two rows is `twice`."""
    with connected(database_url) as connection:
        found = connection.execute(sa.select(requests.c.request_id, requests.c.status)).all()
    rows = Counter(row.request_id for row in found)
    return {row.request_id: row.status if rows[row.request_id] == 1 else "twice" for row in found}


def ledger_faults(database_url: str, outcomes: Sequence[Outcome], asked: set[str]) -> list[str]:
    """Where rows and accepted requests differ. Of a caller that left nobody knows whether it was accepted."""
    rows = {name: ending for name, ending in endings(database_url).items() if name.startswith(("warm-", "soak-"))}
    accepted, refused, unknown = (
        set[str]().union(*names)
        for names in zip(*((one.accepted, one.refused, one.unknown) for one in outcomes), strict=True)
    )
    asked = {name for name in asked if name.startswith(("warm-", "soak-"))}
    faults = {
        "accepted without a row": (accepted | asked) - rows.keys(),
        "refused with a row": refused & rows.keys(),
        "rows of nobody": rows.keys() - accepted - unknown,
        "rows that are open, double or left to the sweep": {
            name for name, ending in rows.items() if ending in {"pending", "twice", "abandoned"}
        },
    }
    return [f"{len(names)} {fault}, as {min(names)}" for fault, names in faults.items() if names]


def gauges(server: Server, token: str) -> dict[str, float]:
    """The gauges that are 0 at rest; the request that asks for them does not count."""
    found = samples(server.request("GET", "/metrics", headers={"Authorization": f"Bearer {token}"}).body.decode())
    levels = {name: value(found, name) for name in ("requests_in_flight", "slots_in_use", "ledger_queue")}
    return levels | {"requests_in_flight": levels["requests_in_flight"] - 1}


def test_nothing_stays(start_server: Callable[..., Server], upstream: SoakUpstream, database_url: str) -> None:
    """Memory, file descriptors, threads and greenlets are what they were, gauges 0, rows the accepted requests."""
    server = start_server(command=(sys.executable, "-m", "gunicorn", "tests.soak_wsgi:app"), **SETTINGS)
    tokens = add_clients(database_url)
    plan = Plan(
        port=server.port,
        worker_pid=server.worker_pids[0],
        tokens=tokens,
        prefix="warm",
        seconds=0,
        requests=WARM_UP_REQUESTS,
        reports=IS_LONG,
    )
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as process:
        warm = process.submit(run, plan).result()
        before = at_rest(server, tokens["web"])
        soak = process.submit(run, replace(plan, prefix="soak", seconds=SECONDS, requests=REQUESTS)).result()
    after = at_rest(server, tokens["web"])
    grown_mb, grown_in = growth(soak.samples)
    allowed_mb = max(NOISE_MB, grown_in / 10_000 * MB_PER_10_000)
    print(f"\n{soak.done} requests after {warm.done} to warm up; {soak.samples[-1][1] / MEGABYTE:.1f} MB at the end;")
    print(f"{grown_mb:.2f} MB more in {grown_in} requests, {allowed_mb:.2f} allowed; {before} became {after}")
    print(f"per request {(after.blocks - before.blocks) / soak.done:.2f} blocks,", end=" ")
    print(f"{(after.malloc_bytes - before.malloc_bytes) / soak.done:.0f} bytes of malloc")
    assert server.worker_pids == [plan.worker_pid]
    assert warm.wrong + soak.wrong == Counter()
    # What is allocated shows a leak long before the size does, which moves by megabytes for minutes.
    assert grown_mb <= allowed_mb or not IS_LONG
    assert after.is_within(before, soak.done)
    assert gauges(server, tokens["admin"]) == {"requests_in_flight": 0, "slots_in_use": 0, "ledger_queue": 0}
    assert ledger_faults(database_url, [warm, soak], upstream.asked) == []
    assert spent(database_url)[1] == 0
