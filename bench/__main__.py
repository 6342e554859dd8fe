"""`python -m bench`: measures this server beside its peers; see `--help` for parts of it."""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

from bench import gateways, phases, report
from bench.gateways import Gateway
from bench.machine import machine, versions
from bench.plan import CALLERS, FULL, QUICK, Plan
from bench.processes import ROOT, RUN, WORK
from bench.rows import Row, Rows
from bench.stage import AT_ONCE, CACHE, FLIGHT, STORES, STREAM, WORKERS, Stage, failed
from bench.targets import verdicts
from bench.tools import draw, provide
from bench.upstream import Upstream

RESULTS = ROOT / "bench" / "results"
DOCUMENT = ROOT / "docs" / "performance.md"
PLOT = ROOT / "docs" / "costs.svg"
PHASES: dict[str, Callable[[Stage, Gateway], Iterator[Row]]] = {
    AT_ONCE: phases.at_once,
    FLIGHT: phases.in_flight,
    STREAM: phases.streams,
    CACHE: phases.cache,
    WORKERS: phases.workers,
    STORES: phases.stores,
}
ALONE = {CACHE: "ours", WORKERS: "ours", STORES: "postgresql"}
"""The phases that measure this server alone, and by which name `--only` asks for them."""
QUIET_LOAD = 0.5


@dataclass(frozen=True)
class Step:
    round: int
    phase: str
    gateway: Gateway


def main() -> int:
    """Run what the command line asks for; gives the exit code."""
    chosen = arguments()
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
    plan = plan_of(chosen)
    about: dict[str, Any] = {
        "date": date.today().isoformat(),
        "rounds": plan.rounds,
        "quick": chosen.quick,
        "machine": machine(),
        "versions": versions(chosen.against),
    }
    if about["machine"]["load_before"] > QUIET_LOAD:
        _say(f"this machine is not quiet: its load is {about['machine']['load_before']:.2f}")
    rows = Rows(_measure(chosen, plan))
    part = any((chosen.only, chosen.against, chosen.phase, chosen.route, chosen.callers, chosen.seconds))
    judged = [each for each in verdicts(rows, cores=about["machine"]["cores"]) if not part or each.measured]
    text = report.tables(rows, judged, about)
    print(f"\n{text}")
    whole = not chosen.quick and not part
    file = RESULTS / f"{about['date']}.json" if whole else WORK / "last.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(report.dumped(about | {"targets": [vars(verdict) for verdict in judged]}, rows))
    if whole:
        report.write(DOCUMENT, text)
        _draw(report.costs(rows))
    print(f"\nall figures: {file.relative_to(ROOT)}")


def _draw(costs: list[dict[str, str | float]]) -> None:
    """The plot of what a request costs; where nothing was measured the old one stays."""
    file = WORK / "costs.json"
    file.write_text(json.dumps(costs))
    if costs:
        draw("costs", file, PLOT)


def _measure(chosen: argparse.Namespace, plan: Plan) -> Iterator[Row]:
    planned = list(steps(chosen, plan))
    started = time.monotonic()
    with Upstream(deltas=plan.deltas) as upstream:
        for number, step in enumerate(planned, 1):
            minutes, seconds = divmod(int(time.monotonic() - started), 60)
            place = f"{number}/{len(planned)} {minutes}:{seconds:02}"
            _say(f"[{place}] round {step.round}, {step.phase}: {step.gateway.name}")
            stage = Stage(upstream, plan, step.round, lambda line: _say(f"    {line}"))
            stage = replace(stage, routes=tuple(chosen.route), callers=tuple(chosen.callers) or CALLERS)
            try:
                yield from PHASES[step.phase](stage, step.gateway)
            except Exception as exc:
                row = failed(stage, step.phase, step.gateway, exc)
                _say(f"    {step.gateway.name} {row.problem}")
                yield row


def steps(chosen: argparse.Namespace, plan: Plan) -> Iterator[Step]:
    """Upstream alone first; then ours and the others in turn, every other round in the other order."""
    measured = _gateways(chosen, plan)
    for number in range(1, plan.rounds + 1):
        for phase in chosen.phase or PHASES:
            if phase in ALONE:
                if not chosen.against and (not chosen.only or ALONE[phase] in chosen.only):
                    yield Step(number, phase, gateways.ours())
                continue
            if measured and phase != FLIGHT and not chosen.seconds:
                yield Step(number, phase, gateways.direct())
            for gateway in measured if number % 2 else reversed(measured):
                yield Step(number, phase, gateway)


def _gateways(chosen: argparse.Namespace, plan: Plan) -> list[Gateway]:
    """What is measured beside each other: ours and the peers, or ours and the one before."""
    if chosen.against:
        return [gateways.ours(), gateways.before(chosen.against)]
    peers = [gateways.PEERS[name] for name in gateways.PEERS if plan.everything or name != "portkey-24"]
    measured = [gateways.ours(), *(peer() for peer in peers)]
    return [gateway for gateway in measured if not chosen.only or gateway.name in chosen.only]


def plan_of(chosen: argparse.Namespace) -> Plan:
    plan = QUICK if chosen.quick else FULL
    if chosen.rounds:
        plan = replace(plan, rounds=chosen.rounds)
    seconds = dict(plan.seconds)
    for callers in chosen.callers:
        seconds.setdefault(callers, plan.seconds[16])
    return replace(plan, seconds=dict.fromkeys(seconds, chosen.seconds) if chosen.seconds else seconds)


def arguments(words: Sequence[str] | None = None) -> argparse.Namespace:
    """What the command line asks for, or these words of one."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round, at most three minutes")
    parser.add_argument("--rounds", type=int, help="how often all of it is measured")
    part = parser.add_argument_group("parts; with any of them neither documents nor bench/results are written")
    of_ours = ["ours", "postgresql"]
    either = part.add_mutually_exclusive_group()
    either.add_argument("--only", nargs="+", default=[], choices=[*of_ours, *gateways.PEERS], help="these gateways")
    either.add_argument(
        "--against", type=_tree, metavar="DIR", help="this server and, in turn, the one in DIR: an earlier commit"
    )
    part.add_argument("--phase", nargs="+", default=[], choices=list(PHASES), help="these phases")
    part.add_argument("--route", nargs="+", default=[], help="these routes, as /api/v1/chat")
    part.add_argument("--callers", nargs="+", default=[], type=int, help="these numbers of callers")
    part.add_argument(
        "--seconds", type=int, help="each measurement this long, for a profiler to look at; upstream alone is left out"
    )
    return parser.parse_args(words)


def _tree(text: str) -> Path:
    """A directory that holds a server."""
    tree = Path(text).resolve()
    if not (tree / "wsgi.py").exists():
        raise argparse.ArgumentTypeError("there is no wsgi.py in this directory")
    return tree


def _say(line: str) -> None:
    print(line, flush=True)


if __name__ == "__main__":
    sys.exit(main())
