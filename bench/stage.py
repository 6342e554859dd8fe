"""What all phases need: the run they belong to, a gateway that is started, and the rows of one load on it."""

from __future__ import annotations

import contextlib
import http.client
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from bench import load, wire
from bench.gateways import Gateway
from bench.plan import CALLERS, IN_FLIGHT, Plan
from bench.processes import DidNotStart, Program
from bench.rows import Row
from bench.upstream import Upstream

START, AT_ONCE, FLIGHT, STREAM, CACHE, WORKERS = "start", "at-once", "in-flight", "streams", "cache", "workers"
STORES = "stores"
MANY = 64
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

    def path(self, route: str) -> str:
        return self.kind.removesuffix("/v1") + route if self.gateway.is_upstream else route

    def spec(self, route: str, *, stream: bool = False) -> dict[str, Any]:
        """A request as the Node clients read it."""
        url = f"http://127.0.0.1:{self.program.port}{self.path(route)}"
        headers = dict(self.gateway.headers(self.base_url))
        return {"url": url, "headers": headers, "body": wire.request_body(route, stream=stream)}


@contextlib.contextmanager
def started(stage: Stage, gateway: Gateway, kind: str) -> Iterator[Running]:
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


def measured(
    stage: Stage, running: Running, route: str, callers: int, *, phase: str = AT_ONCE, seconds: int = 0
) -> Row:
    """Load the route and say what came out; the row has what each program used of a core, too."""
    seconds = seconds or stage.plan.seconds[callers] * (running.gateway.slowness if callers >= MANY else 1)
    with load.cores(gateway=running.program, upstream=stage.upstream) as used:
        said = requests(running, route, callers=callers, seconds=seconds)
    # Noise of the machine moves it less than it moves the requests in a second.
    cpu = (
        {"cpu_us": round(1e6 * used["gateway_cores"] * said["seconds"] / said["requests"])} if said["requests"] else {}
    )
    row = row_of(stage, running.gateway, phase, route, callers, said | used | cpu)
    stage.say(f"{route}, {callers} callers: {row.figures['per_second']:,.0f}/s{remark(row)}")
    return row


def requests(running: Running, route: str, *, callers: int, seconds: int) -> dict[str, Any]:
    """Load the route for some seconds; gives what the load generator says."""
    spec = running.spec(route)
    return load.requests(spec["url"], spec["headers"], spec["body"], callers=callers, seconds=seconds)


def row_of(stage: Stage, gateway: Gateway, phase: str, route: str, callers: int, said: dict[str, Any]) -> Row:
    """What a load generator said; one error is enough to make a row invalid."""
    errors = said["status_errors"], said["socket_errors"]
    problem = f"invalid: {errors[0]} answers of 400 and above, {errors[1]} socket errors" if any(errors) else ""
    if phase == AT_ONCE and said["requests"] < callers:
        problem = problem or "too slow: not every caller had an answer in this time"
    if "requests" in said:
        said["per_second"] = round(said["requests"] / said["seconds"], 1)
    return Row(stage.round, gateway.name, phase, route, callers, said, problem)


def start_row(stage: Stage, running: Running, idle: Sequence[float] = (), after: Sequence[float] = ()) -> Row:
    """Start to ready, and where measured the memory of the largest process and of all, before and after load."""
    figures = {"start_seconds": round(running.program.start_seconds, 3)}
    if idle and after:
        figures |= {"idle_mb": idle[0], "idle_all_mb": sum(idle), "after_mb": after[0], "after_all_mb": sum(after)}
    return Row(stage.round, running.gateway.name, START, figures=figures)


def failed(stage: Stage, phase: str, gateway: Gateway, exc: Exception) -> Row:
    """The row of a phase that could not be measured."""
    what = f"did not start: {exc}" if isinstance(exc, DidNotStart) else f"failed: {exc}"
    return Row(stage.round, gateway.name, phase, problem=what)


def refusal(running: Running, route: str, wanted: str = wire.ANSWER) -> str:
    """Why the route cannot be measured: one line; nothing when what is wanted stands in its answer."""
    spec = running.spec(route)
    connection = http.client.HTTPConnection("127.0.0.1", running.program.port, timeout=30)
    try:
        connection.request("POST", running.path(route), spec["body"], spec["headers"])
        answer = connection.getresponse()
        text = answer.read().decode(errors="replace")
    except (OSError, http.client.HTTPException) as exc:
        return f"no answer: {exc}"
    finally:
        connection.close()
    return "" if answer.status == 200 and wanted in text else f"answered {answer.status}: {text[:120]!r}"


def remark(row: Row) -> str:
    """The row's problem, to be put behind its figures."""
    return f" ({row.problem})" if row.problem else ""
