"""The load generators, each a program of its own: wrk for requests, Node for calls in flight and for streams."""

from __future__ import annotations

import contextlib
import json
import os
import resource
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from bench.processes import RUN, Program
from bench.tools import node, wrk

HERE = Path(__file__).parent
SAMPLE_SECONDS = 0.5
WRK_TIMEOUT_SECONDS = 120


def requests(
    url: str, headers: Mapping[str, str], body: str, *, callers: int, seconds: int, sessions: int = 1
) -> dict[str, Any]:
    """POST as fast as answers come, on kept connections; gives requests, seconds, percentiles in µs and errors.

    `sessions`: how many there are of the one that the body names; each request is of the next.
    """
    lines = "\n".join(f"{name}: {value}" for name, value in headers.items())
    command = [str(wrk()), "-t1", f"-c{callers}", f"-d{seconds}s", f"--timeout={WRK_TIMEOUT_SECONDS}s"]
    # In a file: a large body does not fit into the environment.
    file = RUN / "body"
    file.write_text(body)
    done = subprocess.run(
        [*command, "-s", str(HERE / "chat.lua"), url],
        env={
            "PATH": os.environ["PATH"],
            "BENCH_HEADERS": lines,
            "BENCH_BODY": str(file),
            "BENCH_CALLERS": str(callers),
            "BENCH_SESSIONS": str(sessions),
        },
        capture_output=True,
        text=True,
        timeout=seconds + WRK_TIMEOUT_SECONDS,
    )
    return _last_json(done)


def node_load(
    script: str, spec: Mapping[str, object], gateway: Program, *, steady: tuple[float, float], limit_seconds: float
) -> dict[str, Any]:
    """Run calls.mjs or streams.mjs; gives what it says, and of the gateway meanwhile the most memory and, between the
    two moments of `steady` in seconds, its share of one core."""
    command = [str(node()), str(HERE / script)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        assert process.stdin
        process.stdin.write(json.dumps(spec))
        process.stdin.close()
        process.stdin = None
        watched = _watch(process, gateway, steady, time.monotonic() + limit_seconds)
        output, errors = process.communicate(timeout=5)
    finally:
        process.kill()
        process.wait()
    return _last_json(subprocess.CompletedProcess(command, process.returncode, output, errors)) | watched


@contextlib.contextmanager
def cores(**programs: Program) -> Iterator[dict[str, float]]:
    """Inside the block measure, after it read: the share of one core that each program and the load generator used."""
    used: dict[str, float] = {}
    started = time.monotonic()
    before = {name: program.cpu_seconds for name, program in programs.items()} | {"client": _children_seconds()}
    yield used
    after = {name: program.cpu_seconds for name, program in programs.items()} | {"client": _children_seconds()}
    seconds = time.monotonic() - started
    used |= {f"{name}_cores": round((after[name] - before[name]) / seconds, 3) for name in before}


def _watch(
    process: subprocess.Popen[str], gateway: Program, steady: tuple[float, float], give_up: float
) -> dict[str, float]:
    started = time.monotonic()
    most, most_all = 0.0, 0.0
    marks: list[tuple[float, float]] = []
    while process.poll() is None and time.monotonic() < give_up:
        sizes = gateway.resident_mb() or [0.0]
        most, most_all = max(most, sizes[0]), max(most_all, sum(sizes))
        if len(marks) < 2 and time.monotonic() - started >= steady[len(marks)]:
            marks.append((time.monotonic(), gateway.cpu_seconds))
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(SAMPLE_SECONDS)
    share = (marks[1][1] - marks[0][1]) / (marks[1][0] - marks[0][0]) if len(marks) == 2 else 0.0
    return {"resident_mb": most, "resident_all_mb": round(most_all, 1), "steady_cores": round(share, 3)}


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _last_json(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines or not lines[-1].startswith("{"):
        raise RuntimeError(f"{Path(done.args[0]).name} failed: {(done.stderr or done.stdout).strip()[-300:]}")
    return dict(json.loads(lines[-1]))
