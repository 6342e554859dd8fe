"""The phases of a round: each starts one gateway, loads it in one way, and gives the rows it measured."""

from __future__ import annotations

import contextlib
import http.client
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from bench import load, upstream, wire
from bench.gateways import Gateway, bare, ours
from bench.plan import CALLERS, IN_FLIGHT, STREAMS, Plan
from bench.processes import DidNotStart, Program
from bench.rows import Row
from bench.upstream import Upstream

START, AT_ONCE, FLIGHT, STREAM, CACHE, WORKERS = "start", "at-once", "in-flight", "streams", "cache", "workers"
CACHE_CALLERS, WORKERS_CALLERS = 16, 64
SETTLED_SECONDS = 0.5
"""After readiness, before the memory of an idle gateway is read."""


@dataclass(frozen=True)
class Stage:
    """What the phases share: the run's upstream and plan, the round, and which routes and callers are asked for."""

    upstream: Upstream
    plan: Plan
    round: int
    say: Callable[[str], None]
    routes: tuple[str, ...] = ()
    callers: tuple[int, ...] = CALLERS

    def routes_of(self, gateway: Gateway) -> list[str]:
        """The routes to measure; the quick run leaves out our third one."""
        routes = gateway.routes if self.plan.everything else gateway.routes[:2]
        return [route for route in self.routes or routes if route in gateway.routes]

    def callers_of(self, gateway: Gateway) -> list[int]:
        """How many callers to measure; the quick run has no time for a slow gateway with many of them."""
        most = max(self.callers)
        if not self.plan.everything and gateway.is_upstream:
            most = 16
        elif not self.plan.everything and gateway.slowness > 1:
            most = IN_FLIGHT - 1
        return [callers for callers in self.callers if callers <= most]


@dataclass(frozen=True)
class Running:
    """A gateway that was started over one kind of upstream."""

    gateway: Gateway
    program: Program
    kind: str
    base_url: str

    def url(self, route: str) -> str:
        prefix = self.kind.removesuffix("/v1") if self.gateway.is_upstream else ""
        return f"http://127.0.0.1:{self.program.port}{prefix}{route}"

    def spec(self, route: str, *, stream: bool = False) -> dict[str, Any]:
        """A request as the Node clients read it."""
        headers = dict(self.gateway.headers(self.base_url))
        return {"url": self.url(route), "headers": headers, "body": wire.request_body(route, stream=stream)}


def at_once(stage: Stage, gateway: Gateway) -> Iterator[Row]:
    """Upstream answers at once: requests/s by callers and route; memory before and after; start to ready."""
    with _started(stage, gateway, upstream.AT_ONCE) as running:
        idle = running.program.resident_mb()
        problems = {route: _refusal(running, route) for route in stage.routes_of(gateway)}
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
            yield _start_row(stage, running, idle, running.program.resident_mb())


def in_flight(stage: Stage, gateway: Gateway) -> Iterator[Row]:
    """Upstream answers after a second: calls/s with 1,000 calls always in flight, and the memory they take."""
    warm, window = stage.plan.flight_warm_seconds, stage.plan.flight_window_seconds
    with _started(stage, gateway, upstream.SLOW) as running:
        route = gateway.routes[0]
        spec = running.spec(route) | {"callers": IN_FLIGHT, "warm_seconds": warm, "window_seconds": window}
        with load.cores(gateway=running.program, upstream=stage.upstream) as used:
            said = load.node_load(
                "calls.mjs", spec, running.program, steady=(warm, warm + window - 0.5), limit_seconds=warm + window + 10
            )
        row = _row(stage, gateway, FLIGHT, route, IN_FLIGHT, said | used)
        stage.say(f"{route}: {row.figures['per_second']:.0f} calls/s, {row.figures['resident_mb']:.0f} MB{_oops(row)}")
        yield row
        yield _start_row(stage, running)


def streams(stage: Stage, gateway: Gateway) -> Iterator[Row]:
    """300 streams of 20 events a second: what is added to each event's way, what is lost, and the share of a core."""
    with _started(stage, gateway, upstream.STREAM) as running:
        for route in gateway.routes if gateway.is_upstream else gateway.routes[:1]:
            row = _streamed(stage, running, route)
            stage.say(_told(row))
            yield row
        yield _start_row(stage, running)


def cache(stage: Stage, _: Gateway) -> Iterator[Row]:
    """One answer again and again from our response cache, and a bare Flask route in the same server."""
    seconds = stage.plan.seconds[CACHE_CALLERS]
    for gateway in (replace(ours(CACHE_ENABLED="true"), name="cache"), bare()):
        with _started(stage, gateway, upstream.AT_ONCE) as running:
            _requests(stage, running, wire.NATIVE, callers=CACHE_CALLERS, seconds=min(2, stage.plan.warm_seconds))
            if problem := _refusal(running, wire.NATIVE, wire.CACHED if gateway.name == "cache" else wire.ANSWER):
                stage.say(problem)
                yield Row(stage.round, gateway.name, CACHE, problem=problem)
                continue
            yield _measured(stage, running, wire.NATIVE, CACHE_CALLERS, phase=CACHE, seconds=seconds)


def workers(stage: Stage, _: Gateway) -> Iterator[Row]:
    """Our server with one worker, then with two; both with as many callers."""
    for count in (1, 2):
        gateway = replace(ours(WEB_CONCURRENCY=count), name=f"workers-{count}")
        with _started(stage, gateway, upstream.AT_ONCE) as running:
            _requests(stage, running, wire.NATIVE, callers=16, seconds=min(2, stage.plan.warm_seconds))
            yield _measured(
                stage,
                running,
                wire.NATIVE,
                WORKERS_CALLERS,
                phase=WORKERS,
                seconds=max(2, stage.plan.seconds[WORKERS_CALLERS]),
            )


@contextlib.contextmanager
def _started(stage: Stage, gateway: Gateway, kind: str) -> Iterator[Running]:
    """Start the gateway for a block, and say where it runs, for those who want to look at it meanwhile."""
    base_url = stage.upstream.base_url(kind)
    if gateway.is_upstream:
        yield Running(gateway, stage.upstream, kind, base_url)
        return
    with gateway.start(base_url) as program:
        time.sleep(SETTLED_SECONDS)
        pids = ", ".join(map(str, program.pids))
        stage.say(f"ready after {program.start_seconds:.2f} s on port {program.port}, process {pids}")
        yield Running(gateway, program, kind, base_url)


def _few_callers(stage: Stage, running: Running, routes: Sequence[str]) -> Iterator[Row]:
    for route in routes:
        if not running.gateway.is_upstream:
            _requests(stage, running, route, callers=16, seconds=stage.plan.warm_seconds)
        for callers in stage.callers_of(running.gateway):
            if callers < IN_FLIGHT:
                yield _measured(stage, running, route, callers)


def _many_callers(stage: Stage, running: Running, routes: Sequence[str]) -> Iterator[Row]:
    many = [callers for callers in stage.callers_of(running.gateway) if callers >= IN_FLIGHT]
    for route, callers in itertools.product(routes, many):
        running.program.settle(stage.plan.settle_seconds)
        seconds = running.gateway.slowness * stage.plan.seconds[callers]
        yield _measured(stage, running, route, callers, seconds=seconds)


def _measured(
    stage: Stage, running: Running, route: str, callers: int, *, phase: str = AT_ONCE, seconds: int = 0
) -> Row:
    with load.cores(gateway=running.program, upstream=stage.upstream) as used:
        said = _requests(stage, running, route, callers=callers, seconds=seconds or stage.plan.seconds[callers])
    row = _row(stage, running.gateway, phase, route, callers, said | used)
    stage.say(f"{route}, {callers} callers: {row.figures['per_second']:,.0f}/s{_oops(row)}")
    return row


def _requests(stage: Stage, running: Running, route: str, *, callers: int, seconds: int) -> dict[str, Any]:
    spec = running.spec(route)
    return load.requests(spec["url"], spec["headers"], spec["body"], callers=callers, seconds=seconds)


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
    return _row(stage, running.gateway, STREAM, route, STREAMS, said | used)


def _row(stage: Stage, gateway: Gateway, phase: str, route: str, callers: int, said: dict[str, Any]) -> Row:
    errors = said["status_errors"], said["socket_errors"]
    problem = f"invalid: {errors[0]} answers of 400 and above, {errors[1]} socket errors" if any(errors) else ""
    if phase == AT_ONCE and said["requests"] < callers:
        problem = problem or "too slow: not every caller had an answer in this time"
    if "requests" in said:
        said["per_second"] = round(said["requests"] / said["seconds"], 1)
    return Row(stage.round, gateway.name, phase, route, callers, said, problem)


def _start_row(stage: Stage, running: Running, idle: Sequence[float] = (), after: Sequence[float] = ()) -> Row:
    """Start to ready, and where measured the memory of the largest process and of all, before and after load."""
    figures = {"start_seconds": round(running.program.start_seconds, 3)}
    if idle and after:
        figures |= {"idle_mb": idle[0], "idle_all_mb": sum(idle), "after_mb": after[0], "after_all_mb": sum(after)}
    return Row(stage.round, running.gateway.name, START, figures=figures)


def _refusal(running: Running, route: str, wanted: str = wire.ANSWER) -> str:
    """Why the route cannot be measured: one line; nothing when what is wanted stands in its answer."""
    spec = running.spec(route)
    connection = http.client.HTTPConnection("127.0.0.1", running.program.port, timeout=30)
    try:
        connection.request("POST", spec["url"].partition(str(running.program.port))[2], spec["body"], spec["headers"])
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as exc:
        return f"no answer: {exc}"
    finally:
        connection.close()
    return "" if answer.status == 200 and wanted in text else f"answered {answer.status}: {text[:120]!r}"


def _told(row: Row) -> str:
    figures = row.figures
    late = f"{figures['event_p50_us'] / 1000:.1f} / {figures['event_p99_us'] / 1000:.1f} ms per event (p50 / p99)"
    return f"{row.route}: {late}, {figures['lost']:.0f} lost, {figures['steady_cores']:.0%} of a core{_oops(row)}"


def _oops(row: Row) -> str:
    return f" ({row.problem})" if row.problem else ""


def failed(stage: Stage, phase: str, gateway: Gateway, exc: Exception) -> Row:
    """The row of a phase that could not be measured."""
    what = f"did not start: {exc}" if isinstance(exc, DidNotStart) else f"failed: {exc}"
    return Row(stage.round, gateway.name, phase, problem=what)
