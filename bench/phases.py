"""The phases of a round: each starts one gateway, loads it in one way, and gives the rows it measured."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

from bench import load, postgresql, upstream, wire
from bench.gateways import KEY, Gateway, bare, ours
from bench.plan import IN_FLIGHT, STREAMS
from bench.processes import RUN
from bench.rows import Row
from bench.stage import (
    AT_ONCE,
    CACHE,
    FLIGHT,
    STORES,
    STREAM,
    WORKERS,
    Running,
    Stage,
    measured,
    refusal,
    remark,
    requests,
    row_of,
    start_row,
    started,
)

CACHE_CALLERS, WORKERS_CALLERS, STORES_CALLERS = 16, 64, 16
BUDGET = ("--budget-usd", "10000/day")
"""More than any run spends, so that it is looked up and never reached."""


def at_once(stage: Stage, gateway: Gateway) -> Iterator[Row]:
    """Upstream answers at once: requests/s by callers and route; memory before and after; start to ready."""
    with started(stage, gateway, upstream.AT_ONCE) as running:
        idle = running.program.resident_mb()
        problems = {route: refusal(running, route) for route in stage.routes_of(gateway)}
        for route, problem in problems.items():
            if problem:
                stage.say(f"{route}: {problem}")
                yield Row(stage.round, gateway.name, AT_ONCE, route, problem=problem)
        answering = [route for route, problem in problems.items() if not problem]
        yield from _few_callers(stage, running, answering)
        # These come last, for what they leave behind slows a gateway down that cannot keep up.
        yield from _many_callers(stage, running, answering)
        if not gateway.is_upstream:
            running.program.settle(stage.plan.settle_seconds)
            yield start_row(stage, running, idle, running.program.resident_mb())


def in_flight(stage: Stage, gateway: Gateway) -> Iterator[Row]:
    """Upstream answers after a second: calls/s with 1,000 calls always in flight, and the memory they take."""
    warm, window = stage.plan.flight_warm_seconds, stage.plan.flight_window_seconds
    with started(stage, gateway, upstream.SLOW) as running:
        route = gateway.routes[0]
        spec = running.spec(route) | {"callers": IN_FLIGHT, "warm_seconds": warm, "window_seconds": window}
        with load.cores(gateway=running.program, upstream=stage.upstream) as used:
            said = load.node_load(
                "calls.mjs", spec, running.program, steady=(warm, warm + window - 0.5), limit_seconds=warm + window + 10
            )
        row = row_of(stage, gateway, FLIGHT, route, IN_FLIGHT, said | used)
        stage.say(f"{route}: {row.figures['per_second']:.0f} calls/s, {row.figures['resident_mb']:.0f} MB{remark(row)}")
        yield row
        yield start_row(stage, running)


def streams(stage: Stage, gateway: Gateway) -> Iterator[Row]:
    """300 streams of 20 events a second: what is added to each event's way, what is lost, and the share of a core."""
    with started(stage, gateway, upstream.STREAM) as running:
        for route in gateway.routes if gateway.is_upstream else gateway.routes[:1]:
            row = _streamed(stage, running, route)
            stage.say(_told(row))
            yield row
        yield start_row(stage, running)


def cache(stage: Stage, _: Gateway) -> Iterator[Row]:
    """One answer again and again from our response cache, and a bare Flask route in the same server."""
    seconds = stage.plan.seconds[CACHE_CALLERS]
    for gateway in (replace(ours(CACHE_ENABLED="true"), name="cache"), bare()):
        with started(stage, gateway, upstream.AT_ONCE) as running:
            requests(running, wire.NATIVE, callers=CACHE_CALLERS, seconds=stage.plan.rewarm_seconds)
            if problem := refusal(running, wire.NATIVE, wire.CACHED if gateway.name == "cache" else wire.ANSWER):
                stage.say(problem)
                yield Row(stage.round, gateway.name, CACHE, problem=problem)
                continue
            yield measured(stage, running, wire.NATIVE, CACHE_CALLERS, phase=CACHE, seconds=seconds)


def workers(stage: Stage, _: Gateway) -> Iterator[Row]:
    """Our server with one worker, then with two; both with as many callers."""
    for count in (1, 2):
        gateway = replace(ours(WEB_CONCURRENCY=count), name=f"workers-{count}")
        with started(stage, gateway, upstream.AT_ONCE) as running:
            requests(running, wire.NATIVE, callers=16, seconds=stage.plan.rewarm_seconds)
            yield measured(
                stage,
                running,
                wire.NATIVE,
                WORKERS_CALLERS,
                phase=WORKERS,
                seconds=max(2, stage.plan.seconds[WORKERS_CALLERS]),
            )


def stores(stage: Stage, _: Gateway) -> Iterator[Row]:
    """Our server on SQLite and on a PostgreSQL of this machine, and a client that has a budget.

    With two workers, too: only transactions of different workers can wait for each other.
    """
    # A token of an earlier round names a client of a database that is gone.
    for file in (*RUN.glob("sqlite.*"), *RUN.glob("postgresql.*")):
        file.unlink()
    with postgresql.started() as store:
        shared = {"DATABASE_URL": store.url, "TOKEN_DIGEST_KEY": KEY}
        two_workers = ours("postgresql", limits=BUDGET, WEB_CONCURRENCY=2, **shared)
        turns = [ours("sqlite", limits=BUDGET), ours("postgresql", limits=BUDGET, **shared)]
        turns.append(replace(two_workers, name="postgresql-2"))
        for gateway in turns if stage.round % 2 else reversed(turns):
            yield _on_store(stage, gateway, store)


def _on_store(stage: Stage, gateway: Gateway, store: postgresql.Running) -> Row:
    """One load; the row says, too, what PostgreSQL used for a request, and what it saw until its server stopped."""
    with started(stage, gateway, upstream.AT_ONCE) as running:
        requests(running, wire.NATIVE, callers=STORES_CALLERS, seconds=stage.plan.rewarm_seconds)
        before = store.cpu_seconds
        seconds = stage.plan.seconds[STORES_CALLERS]
        row = measured(stage, running, wire.NATIVE, STORES_CALLERS, phase=STORES, seconds=seconds)
        used = store.cpu_seconds - before
    each = used / row.figures["requests"] if row.figures["requests"] else 0.0
    seen = {
        "postgresql_cpu_us": round(1e6 * each),
        "postgresql_version": store.version(),
        "deadlocks": store.deadlocks(),
    }
    return replace(row, figures={**row.figures, **seen})


def _few_callers(stage: Stage, running: Running, routes: Sequence[str]) -> Iterator[Row]:
    for number, route in enumerate(routes):
        if not running.gateway.is_upstream:
            warm = stage.plan.rewarm_seconds if number else stage.plan.warm_seconds
            requests(running, route, callers=16, seconds=warm)
        for callers in stage.callers_of(running.gateway):
            if callers < IN_FLIGHT:
                yield measured(stage, running, route, callers)


def _many_callers(stage: Stage, running: Running, routes: Sequence[str]) -> Iterator[Row]:
    many = [callers for callers in stage.callers_of(running.gateway) if callers >= IN_FLIGHT]
    for route, callers in itertools.product(routes, many):
        running.program.settle(stage.plan.settle_seconds)
        yield measured(stage, running, route, callers)


def _streamed(stage: Stage, running: Running, route: str) -> Row:
    plan = stage.plan
    lasts = (plan.deltas - 1) / upstream.EVENTS_PER_SECOND
    limit = plan.ramp_seconds + lasts + plan.stream_patience_seconds
    spec = running.spec(route, stream=True)
    spec |= {"streams": STREAMS, "deltas": plan.deltas, "ramp_seconds": plan.ramp_seconds, "limit_seconds": limit}
    with load.cores(gateway=running.program, upstream=stage.upstream) as used:
        steady = (plan.ramp_seconds + load.SAMPLE_SECONDS, lasts - load.SAMPLE_SECONDS)
        said = load.node_load("streams.mjs", spec, running.program, steady=steady, limit_seconds=limit + 10)
    for kind in ("first", "event", "steady"):
        said |= {f"{kind}_{name}": value for name, value in said.pop(kind).items()}
    return row_of(stage, running.gateway, STREAM, route, STREAMS, said | used)


def _told(row: Row) -> str:
    figures = row.figures
    late = f"{figures['event_p50_us'] / 1000:.1f} / {figures['event_p99_us'] / 1000:.1f} ms per event (p50 / p99)"
    return f"{row.route}: {late}, {figures['lost']:.0f} lost, {figures['steady_cores']:.0%} of a core{remark(row)}"
