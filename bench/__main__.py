"""`python -m bench`: measures this server beside its peers; see `--help` for parts of it."""

from __future__ import annotations

import argparse
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

from bench import gateways, phases, report
from bench.gateways import Gateway
from bench.machine import machine, versions
from bench.plan import CALLERS, FULL, QUICK, Plan
from bench.processes import ROOT, RUN, WORK
from bench.rows import Row, Rows
from bench.stage import AT_ONCE, CACHE, FLIGHT, STREAM, WORKERS, Stage, failed
from bench.targets import verdicts
from bench.tools import provide
from bench.upstream import Upstream

RESULTS = ROOT / "bench" / "results"
DOCUMENT = ROOT / "docs" / "performance.md"
PHASES: dict[str, Callable[[Stage, Gateway], Iterator[Row]]] = {
    AT_ONCE: phases.at_once,
    FLIGHT: phases.in_flight,
    STREAM: phases.streams,
    CACHE: phases.cache,
    WORKERS: phases.workers,
}
OURS_ALONE = (CACHE, WORKERS)
QUIET_LOAD = 0.5


@dataclass(frozen=True)
class Step:
    round: int
    phase: str
    gateway: Gateway


def main() -> int:
    """Run what the command line asks for; gives the exit code."""
    chosen = _arguments()
    if problem := provide():
        print(problem, file=sys.stderr)
        return 1
    # Python leaves SIGINT ignored where the shell that started it did.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    shutil.rmtree(RUN, ignore_errors=True)
    RUN.mkdir(parents=True)
    try:
        _run(chosen)
    except KeyboardInterrupt:
        print("\nstopped", file=sys.stderr)
        return 130
    return 0


def _run(chosen: argparse.Namespace) -> None:
    plan = _plan(chosen)
    about: dict[str, Any] = {
        "date": date.today().isoformat(),
        "rounds": plan.rounds,
        "quick": chosen.quick,
        "machine": machine(),
        "versions": versions(),
    }
    if about["machine"]["load_before"] > QUIET_LOAD:
        _say(f"this machine is not quiet: its load is {about['machine']['load_before']:.2f}")
    rows = Rows(_measure(chosen, plan))
    part = any((chosen.only, chosen.phase, chosen.route, chosen.callers, chosen.seconds))
    judged = [each for each in verdicts(rows, cores=about["machine"]["cores"]) if not part or each.measured]
    text = report.tables(rows, judged, about)
    print(f"\n{text}")
    whole = not chosen.quick and not part
    file = RESULTS / f"{about['date']}.json" if whole else WORK / "last.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(report.dumped(about | {"targets": [vars(verdict) for verdict in judged]}, rows))
    if whole:
        report.write(DOCUMENT, text)
    print(f"\nall figures: {file.relative_to(ROOT)}")


def _measure(chosen: argparse.Namespace, plan: Plan) -> Iterator[Row]:
    steps = list(_steps(chosen, plan))
    started = time.monotonic()
    with Upstream(deltas=plan.deltas) as upstream:
        for number, step in enumerate(steps, 1):
            minutes, seconds = divmod(int(time.monotonic() - started), 60)
            _say(
                f"[{number}/{len(steps)} {minutes}:{seconds:02}] round {step.round}, {step.phase}: {step.gateway.name}"
            )
            stage = Stage(upstream, plan, step.round, lambda line: _say(f"    {line}"))
            stage = replace(stage, routes=tuple(chosen.route), callers=tuple(chosen.callers) or CALLERS)
            try:
                yield from PHASES[step.phase](stage, step.gateway)
            except Exception as exc:
                row = failed(stage, step.phase, step.gateway, exc)
                _say(f"    {step.gateway.name} {row.problem}")
                yield row


def _steps(chosen: argparse.Namespace, plan: Plan) -> Iterator[Step]:
    """Upstream alone first; then ours and the peers in turn, every other round in the other order."""
    peers = [gateways.PEERS[name] for name in gateways.PEERS if plan.everything or name != "portkey-24"]
    measured = [gateways.ours(), *(peer() for peer in peers)]
    if chosen.only:
        measured = [gateway for gateway in measured if gateway.name in chosen.only]
    wanted = chosen.phase or list(PHASES)
    for number in range(1, plan.rounds + 1):
        for phase in wanted:
            if phase in OURS_ALONE:
                if not chosen.only or "ours" in chosen.only:
                    yield Step(number, phase, gateways.ours())
                continue
            if phase != FLIGHT and not chosen.seconds:
                yield Step(number, phase, gateways.direct())
            for gateway in measured if number % 2 else reversed(measured):
                yield Step(number, phase, gateway)


def _plan(chosen: argparse.Namespace) -> Plan:
    plan = QUICK if chosen.quick else FULL
    if chosen.rounds:
        plan = replace(plan, rounds=chosen.rounds)
    seconds = dict(plan.seconds)
    for callers in chosen.callers:
        seconds.setdefault(callers, plan.seconds[16])
    return replace(plan, seconds=dict.fromkeys(seconds, chosen.seconds) if chosen.seconds else seconds)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round, at most three minutes")
    parser.add_argument("--rounds", type=int, help="how often all of it is measured")
    part = parser.add_argument_group("parts; with any of them neither documents nor bench/results are written")
    part.add_argument("--only", nargs="+", default=[], choices=["ours", *gateways.PEERS], help="these gateways")
    part.add_argument("--phase", nargs="+", default=[], choices=list(PHASES), help="these phases")
    part.add_argument("--route", nargs="+", default=[], help="these routes, as /api/v1/chat")
    part.add_argument("--callers", nargs="+", default=[], type=int, help="these numbers of callers")
    part.add_argument(
        "--seconds", type=int, help="each measurement this long, for a profiler to look at; upstream alone is left out"
    )
    return parser.parse_args()


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
