"""`python -m bench.several`: what a plan with three targets costs, beside one upstream without a file."""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench import load, upstream, wire
from bench.gateways import KEY, Gateway, ours
from bench.processes import RUN, Program
from bench.tools import provide
from bench.upstream import Upstream

LIMIT = 0.03
CALLERS = 16
WARM_SECONDS = 2
KEY_VARIABLE = "BENCH_KEY"


@dataclass(frozen=True)
class Load:
    """One load on one server: processor time of a request, and requests in a second."""

    cpu_us: float
    per_second: float


Pair = tuple[Load, Load]
"""Without a file and with one, in the same round."""


def main(words: Sequence[str] | None = None) -> int:
    """Measure both in turn and print what the plan costs."""
    parser = argparse.ArgumentParser(prog="python -m bench.several", description=__doc__)
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--seconds", type=int, default=3, help="of one load")
    parser.add_argument("--route", default=wire.NATIVE, choices=[wire.NATIVE, wire.RESPONSES, wire.COMPLETIONS])
    chosen = parser.parse_args(words)
    if problem := provide():
        print(problem, file=sys.stderr)
        return 1
    shutil.rmtree(RUN, ignore_errors=True)
    RUN.mkdir(parents=True)
    print(told(costs(_measure(chosen.rounds, chosen.seconds, chosen.route))))
    return 0


def file_of(base_url: str) -> str:
    """Three upstreams, each with a key, and a model that any of them may answer."""
    names = ("first", "second", "third")
    tables = [
        f'[upstreams.{name}]\nbase_url = "{base_url}"\ndialects = ["responses", "chat_completions"]\n'
        f'key_env = "{KEY_VARIABLE}"\n'
        for name in names
    ]
    targets = ", ".join(f'{{upstream = "{name}"}}' for name in names)
    return "\n".join([*tables, f'[models."{wire.MODEL}"]\ntargets = [{targets}]\n'])


def costs(pairs: Iterable[Pair]) -> dict[str, float]:
    """What the plan costs, as a share: the median over the rounds, for what else the machine does differs by round."""
    measured = list(pairs)
    return {
        "CPU": statistics.median(three.cpu_us / one.cpu_us - 1 for one, three in measured),
        "requests/s": statistics.median(one.per_second / three.per_second - 1 for one, three in measured),
    }


def told(cost: dict[str, float]) -> str:
    """One line for each."""
    outcome = "met" if max(cost.values()) < LIMIT else "**not met**"
    lines = [f"a plan with three targets, {name}: {share:+.1%}" for name, share in cost.items()]
    return "\n".join([*lines, f"below {LIMIT:.0%} of both: {outcome}"])


def _measure(rounds: int, seconds: int, route: str) -> list[Pair]:
    with ExitStack() as running:
        base_url = running.enter_context(Upstream(deltas=1)).base_url(upstream.AT_ONCE)
        file = Path(RUN) / "upstreams.toml"
        file.write_text(file_of(base_url))
        gateways = [ours("one"), ours("three", UPSTREAMS_FILE=file, **{KEY_VARIABLE: KEY})]
        pairs = []
        for number in range(rounds):
            # Every other round in the other order.
            pairs.append(_pair(gateways if number % 2 else gateways[::-1], seconds, base_url, route))
            one, three = pairs[-1]
            print(f"  {number + 1}/{rounds}: {one.cpu_us:.0f} µs, with the file {three.cpu_us:.0f} µs", flush=True)
        return pairs


def _pair(gateways: Sequence[Gateway], seconds: int, base_url: str, route: str) -> Pair:
    """One round. Both are started anew: two processes of the same program differ by more than what is measured."""
    with ExitStack() as running:
        servers = [(gateway, running.enter_context(gateway.start(base_url))) for gateway in gateways]
        for gateway, program in servers:
            _load(gateway, program, WARM_SECONDS, base_url, route)
        found = {gateway.name: _load(gateway, program, seconds, base_url, route) for gateway, program in servers}
    return found["one"], found["three"]


def _load(gateway: Gateway, program: Program, seconds: int, base_url: str, route: str) -> Load:
    before = program.cpu_seconds
    said = load.requests(
        f"http://127.0.0.1:{program.port}{route}",
        gateway.headers(base_url),
        wire.request_body(route),
        callers=CALLERS,
        seconds=seconds,
    )
    if said["status_errors"] or said["socket_errors"] or not said["requests"]:
        raise RuntimeError(f"requests failed: {said}")
    used = program.cpu_seconds - before
    return Load(1e6 * used / said["requests"], said["requests"] / said["seconds"])


if __name__ == "__main__":
    sys.exit(main())
