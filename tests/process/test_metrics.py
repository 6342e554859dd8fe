"""Metrics over real workers."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.api.test_metrics import CHAT
from tests.prometheus import samples, value
from tests.server import Server


def total(server: Server, name: str, **labels: str) -> float:
    return value(samples(server.request("GET", "/metrics").body.decode()), name, **labels)


@pytest.mark.parametrize("worker_class", ["gevent", "gthread"])
def test_workers_are_summed_and_nothing_goes_back(start_server: Callable[..., Server], worker_class: str) -> None:
    """Whichever worker answers, the sums are of all; a killed worker's counts stay, its gauges go."""
    server = start_server(WEB_CONCURRENCY=2, WORKER_CLASS=worker_class, MAX_CONCURRENT_REQUESTS=7)
    for number in range(20):
        assert server.chat(f"message {number}").status == 200
    # The caller has its answer a moment before it is counted.
    server.wait_for(lambda: total(server, "requests_total", route=CHAT) == 20)
    assert {total(server, "requests_total", route=CHAT) for _ in range(10)} == {20}
    assert total(server, "tokens_total", direction="input") == 20 * 11
    assert total(server, "upstream_seconds_count", route=CHAT) == 20
    server.wait_for(lambda: total(server, "slots") == 14)
    for victim in list(server.worker_pids):
        os.kill(victim, signal.SIGKILL)
        server.wait_for(lambda gone=victim: len(server.worker_pids) == 2 and gone not in server.worker_pids)
        server.wait_ready()
        assert total(server, "requests_total", route=CHAT) == 20
    for number in range(10):
        assert server.chat(f"message {number}").status == 200
    server.wait_for(lambda: total(server, "requests_total", route=CHAT) == 30)
    server.wait_for(lambda: total(server, "slots") == 14)
    server.wait_for(lambda: total(server, "requests_in_flight") == 1)


def test_a_reload_forgets_nothing_and_the_end_leaves_nothing(
    start_server: Callable[..., Server], tmp_path: Path
) -> None:
    """The directory of the counts outlives SIGHUP and ends with the server."""
    directory = Path(tempfile.mkdtemp(dir=tmp_path))
    server = start_server(TMPDIR=directory)
    assert server.chat("hi").status == 200
    server.wait_for(lambda: total(server, "requests_total", route=CHAT) == 1)
    before = server.worker_pids
    server.send_signal(signal.SIGHUP)
    server.wait_for(lambda: server.worker_pids and not set(before) & set(server.worker_pids))
    server.wait_ready()
    assert total(server, "requests_total", route=CHAT) == 1
    assert len(list(directory.glob("llm-server-metrics-*"))) == 1
    assert server.stop() == 0
    assert list(directory.glob("llm-server-metrics-*")) == []


@pytest.mark.parametrize("how", ["kill", "reload"])
def test_the_metrics_directory_vanishes(start_server: Callable[..., Server], tmp_path: Path, how: str) -> None:
    """As when a cleaner of /tmp removes it: the workers go on, /metrics answers, and new workers start."""
    directory = Path(tempfile.mkdtemp(dir=tmp_path))
    server = start_server(TMPDIR=directory, WEB_CONCURRENCY=2)
    (metrics,) = directory.glob("llm-server-metrics-*")

    def mapped(pid: int) -> frozenset[str]:
        names = (Path(one.path).name for one in psutil.Process(pid).memory_maps())
        return frozenset(name.removesuffix(f"_{pid}.db") for name in names if name.endswith(f"_{pid}.db"))

    # One is ready. Until the other has the same files in its memory, for a quarter of a second, it needs the directory.
    server.wait_for(lambda: len(server.worker_pids) == 2 and len(set(map(mapped, server.worker_pids))) == 1)
    # At once: a worker may make a file in it at any moment.
    shutil.rmtree(metrics.rename(tmp_path / "cleaned"))
    assert server.request("GET", "/metrics").status == 200
    before = server.worker_pids
    if how == "kill":
        os.kill(before[0], signal.SIGKILL)
        server.wait_for(lambda: len(server.worker_pids) == 2 and before[0] not in server.worker_pids)
    else:
        server.send_signal(signal.SIGHUP)
        server.wait_for(lambda: len(server.worker_pids) == 2 and not set(before) & set(server.worker_pids))
    server.wait_ready()
    assert [server.chat("hi").status for _ in range(4)] == [200] * 4
    assert server.request("GET", "/metrics").status == 200
    assert server.process.poll() is None


def test_files_of_dead_workers_are_folded(start_server: Callable[..., Server], tmp_path: Path) -> None:
    """Their number stays bounded, and nothing that was counted is lost or counted twice."""
    directory = Path(tempfile.mkdtemp(dir=tmp_path))
    server = start_server(TMPDIR=directory)
    for number in range(1, 6):
        assert server.chat("hi").status == 200
        server.wait_for(lambda wanted=number: total(server, "requests_total", route=CHAT) == wanted)
        (victim,) = server.worker_pids
        os.kill(victim, signal.SIGKILL)
        server.wait_for(lambda gone=victim: server.worker_pids and gone not in server.worker_pids)
        server.wait_ready()
        assert total(server, "requests_total", route=CHAT) == number
        assert total(server, "upstream_seconds_count", route=CHAT) == number
    assert len(list(directory.glob("llm-server-metrics-*/*.db"))) <= 8


def test_directories_of_dead_masters_are_removed(start_server: Callable[..., Server], tmp_path: Path) -> None:
    """Those of servers that still run stay."""
    directory = Path(tempfile.mkdtemp(dir=tmp_path))
    for _ in range(2):
        server = start_server(TMPDIR=directory)
        server.send_signal(signal.SIGKILL, group=True)
        server.process.wait(10)
        assert not server.leftovers()
    start_server(TMPDIR=directory)
    start_server(TMPDIR=directory)
    assert len(list(directory.glob("llm-server-metrics-*"))) == 2
