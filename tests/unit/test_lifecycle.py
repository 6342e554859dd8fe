"""gunicorn's hooks and a worker's signals, without gunicorn; test_process.py shows them at work."""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from app.config import Config
from app.errors import ConfigurationException
from app.ledger.pricing import Prices
from app.models import Usage
from app.process import signals
from app.process.address import check_host, check_port, host_and_port
from app.process.lifecycle import Hooks
from app.process.metrics_files import FILE_BYTES, Directory
from app.process.shared import MasterState, SharedState
from app.process.signals import WorkerSignals
from tests.server import ROOT, free_port

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGALRM, signal.SIGTTIN)


class FakeArbiter:
    """A master with two workers, as long as nobody asks for more."""

    state: MasterState

    def __init__(self, address: Any = ("127.0.0.1", 0)) -> None:
        self.cfg = SimpleNamespace(workers=2, address=[address])
        self.num_workers = 2
        self.START_CTX: dict[Any, Any] = {}
        self.WORKERS: dict[int, Any] = {}
        self.worker_age = 2
        self.told: list[tuple[int, int]] = []
        self.LISTENERS: list[Any] = [SimpleNamespace(getsockname=lambda: address)]

    def kill_worker(self, pid: int, sig: int) -> None:
        self.told.append((pid, sig))


class FakeWorker:
    """A worker that notes when it is told to leave; of no master, so that no test sends a signal to a stranger."""

    shared: SharedState

    def __init__(self, pid: int = 1) -> None:
        self.age: float = 1
        self.pid, self.ppid, self.alive = pid, 0, True
        self.left: list[int] = []

    def handle_exit(self, sig: int, frame: object) -> None:
        self.alive = False
        self.left.append(sig)


class FakeReadiness:
    draining = False

    def drain(self) -> None:
        self.draining = True


def make_hooks(environ: dict[str, str] | None = None, model: Path | None = None, **settings: Any) -> Hooks:
    config = Config(**({"server_port": free_port()} | settings))
    return Hooks(config, {} if environ is None else environ, graceful_timeout=130, local_model_file=model)


@pytest.fixture
def master() -> Iterator[FakeArbiter]:
    """A master that has been started."""
    arbiter = FakeArbiter()
    make_hooks().on_starting(arbiter)
    yield arbiter
    make_hooks().on_exit(arbiter)


@pytest.fixture
def worker(master: FakeArbiter) -> FakeWorker:
    """A worker that is about to be forked."""
    fake = FakeWorker()
    make_hooks().pre_fork(master, fake)
    return fake


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """What a test does to the signals of this process is undone."""
    before = [signal.getsignal(number) for number in SIGNALS]
    yield
    signal.setitimer(signal.ITIMER_REAL, 0)
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)


class TestMaster:
    def test_workers_inherit_a_directory_for_their_counts(self) -> None:
        """It is there from the start of the master to its end."""
        arbiter, environ = FakeArbiter(), dict[str, str]()
        hooks = make_hooks(environ)
        hooks.on_starting(arbiter)
        directory = Path(environ["PROMETHEUS_MULTIPROC_DIR"])
        assert directory.is_dir()
        hooks.when_ready(arbiter)
        assert environ.keys() == {"PROMETHEUS_MULTIPROC_DIR"}
        hooks.on_exit(arbiter)
        assert not directory.exists()

    def test_masters_that_start_at_once(self, threads: ThreadPoolExecutor) -> None:
        """None takes the directory of another, which is not locked yet, for one that was left."""

        def start_and_stop(_: int) -> bool:
            directory = Directory()
            is_there = directory.path.is_dir()
            directory.remove()
            return is_there

        assert all(threads.map(start_and_stop, range(200)))

    def test_a_port_that_is_taken(self, capsys: pytest.CaptureFixture[str]) -> None:
        """The start ends with status 2 and one line that names the setting."""
        with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SystemExit) as ended:
            make_hooks().on_starting(FakeArbiter(taken.getsockname()))
        assert ended.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("SERVER_PORT cannot be used")

    @pytest.mark.parametrize("name", ["LISTEN_FDS", "GUNICORN_FD"])
    def test_a_port_that_is_inherited(self, name: str) -> None:
        """systemd and SIGUSR2 hand over a socket that listens already: the port is taken, and that is right."""
        with socket.create_server(("127.0.0.1", 0)) as taken:
            arbiter, hooks = FakeArbiter(taken.getsockname()), make_hooks({name: "3"})
            hooks.on_starting(arbiter)
        hooks.on_exit(arbiter)

    @pytest.mark.parametrize(
        ("given", "api", "key"),
        [
            ({}, "chat_completions", ""),
            ({"UPSTREAM_API": "responses", "OPENAI_API_KEY": "sk-of-the-user"}, "responses", "sk-of-the-user"),
            ({"OPENAI_API_KEY": " "}, "chat_completions", ""),
        ],
    )
    def test_the_local_model(self, tmp_path: Path, given: dict[str, str], api: str, key: str) -> None:
        """Workers find it through their environment; what the user has set stays. It ends with the master."""
        arbiter, environ = FakeArbiter(), dict(given)
        hooks = make_hooks(environ, tmp_path / "model.gguf")
        hooks.on_starting(arbiter)
        hooks.when_ready(arbiter)
        model = arbiter.state.local_model
        assert model is not None
        hooks.on_exit(arbiter)
        assert model._process.poll() is not None
        assert environ["OPENAI_BASE_URL"] == model.base_url
        assert (environ["UPSTREAM_API"], environ["OPENAI_API_KEY"]) == (api, model.api_key)
        assert model.api_key == key or (not key and len(model.api_key) > 30)

    def test_a_reload_is_seen_by_the_workers_that_were_there(self, master: FakeArbiter, worker: FakeWorker) -> None:
        """gunicorn has read its settings again by then, so the hooks are new ones; the state is the same."""
        reread, new = make_hooks(), FakeWorker()
        assert not worker.shared.is_outdated
        reread.on_reload(master)
        reread.pre_fork(master, new)
        assert worker.shared.is_outdated
        assert not new.shared.is_outdated

    def test_who_is_replaced_keeps_its_place_until_it_has_left(self, master: FakeArbiter, worker: FakeWorker) -> None:
        """A worker that dies meanwhile is replaced, and gunicorn neither waits for the old one nor tells it twice."""
        hooks = make_hooks()
        master.WORKERS = {worker.pid: worker}
        hooks.on_reload(master)
        assert master.told == [(worker.pid, signal.SIGTERM)]
        assert master.num_workers == 3
        assert master.worker_age < worker.age < master.worker_age + 1
        hooks.child_exit(master, worker)
        assert master.num_workers == 2

    def test_reloads_may_be_many(self, master: FakeArbiter, worker: FakeWorker) -> None:
        """The count begins again at 256."""
        for _ in range(255):
            make_hooks().on_reload(master)
            assert worker.shared.is_outdated

    def test_what_workers_share_with_the_master(self, master: FakeArbiter, worker: FakeWorker) -> None:
        """What either writes after the fork, the other one reads."""
        ours, theirs = os.pipe()
        child = os.fork()
        if child == 0:
            worker.shared.ask_for_replacement()
            os.write(theirs, b"asked")
            time.sleep(0.2)
            os._exit(int(worker.shared.is_outdated))
        os.read(ours, 5)
        assert worker.shared.has_replacement
        make_hooks().on_reload(master)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
        os.close(ours)
        os.close(theirs)

    def test_the_number_of_workers_after_a_replacement(self, master: FakeArbiter, worker: FakeWorker) -> None:
        """The extra worker that a leaving one asked for is not kept; other exits change nothing."""
        master.num_workers = 3
        make_hooks().child_exit(master, worker)
        assert master.num_workers == 3
        worker.shared.ask_for_replacement()
        make_hooks().child_exit(master, worker)
        assert master.num_workers == 2
        make_hooks().child_exit(master, worker)
        assert master.num_workers == 2

    def test_gauges_of_a_worker_that_is_gone(self, master: FakeArbiter, worker: FakeWorker) -> None:
        """They are removed, with nothing of another worker and no counter."""
        names = {"gauge_livesum_1.db", "gauge_livesum_11.db", "gauge_all_1.db", "counter_1.db", "histogram_1.db"}
        for name in names:
            (master.state.metrics.path / name).touch()
        make_hooks().child_exit(master, worker)
        left = {file.name for file in master.state.metrics.path.iterdir()}
        assert left - {"in-use.lock"} == names - {"gauge_livesum_1.db"}

    def test_a_directory_that_vanishes(self, master: FakeArbiter, worker: FakeWorker) -> None:
        """It is made again before the next worker is forked, and the worker finds its files with all their room."""
        shutil.rmtree(master.state.metrics.path)
        environ = {"PROMETHEUS_MULTIPROC_DIR": str(master.state.metrics.path)}
        make_hooks().pre_fork(master, worker)
        make_hooks(environ).post_fork(master, worker)
        made = {file.name: file.stat().st_blocks * 512 for file in master.state.metrics.path.glob("*.db")}
        assert made.keys() == {"counter_1.db", "histogram_1.db", "gauge_livesum_1.db"}
        assert min(made.values()) >= FILE_BYTES
        assert environ

    def test_a_directory_that_cannot_be_made_again(self, master: FakeArbiter, worker: FakeWorker) -> None:
        """The worker counts for itself."""
        shutil.rmtree(master.state.metrics.path)
        master.state.metrics.path.touch()
        environ = {"PROMETHEUS_MULTIPROC_DIR": str(master.state.metrics.path)}
        make_hooks().pre_fork(master, worker)
        make_hooks(environ).post_fork(master, worker)
        assert not environ
        master.state.metrics.path.unlink()

    def test_a_price_file_that_cannot_be_read(
        self, tmp_path: Path, master: FakeArbiter, worker: FakeWorker, capsys: pytest.CaptureFixture[str]
    ) -> None:
        """At the start it ends the server; later the prices of before count for every worker that is replaced."""
        file = tmp_path / "prices.toml"
        hooks = make_hooks(prices_file=str(file))
        file.write_text("[models")
        with pytest.raises(SystemExit) as ended:
            hooks.on_starting(FakeArbiter())
        assert ended.value.code == 2
        assert capsys.readouterr().err.startswith("PRICES_FILE")
        file.write_text('[models."house"]\ninput = "1"\noutput = "2"\n')
        hooks.pre_fork(master, worker)
        for broken in ("[models", "", "\x00"):
            file.write_text(broken)
            hooks.pre_fork(master, worker)
            if broken:
                assert Prices(file).cost_nano("house", Usage(1_000_000, 0, 1_000_000)) == 10**9
        assert Prices(file).cost_nano("house", Usage(1_000_000, 0, 1_000_000)) is None or broken

    def test_a_worker_without_an_application(self, master: FakeArbiter, worker: FakeWorker) -> None:
        """One that could not load it has nothing to write at its end."""
        make_hooks().worker_exit(master, worker)


MASTER = """
import json, sys
from gunicorn.app.wsgiapp import WSGIApplication
class FakeArbiter:
    num_workers, worker_age, LISTENERS, WORKERS = 1, 1, [], {}
    cfg = type("FakeSettings", (), {"workers": 1, "address": []})
class FakeWorker:
    pid = 1
sys.argv = ["gunicorn", "wsgi:app"]
cfg = WSGIApplication().cfg
cfg.worker_class, cfg.logger_class
master, worker = FakeArbiter(), FakeWorker()
cfg.on_starting(master)
cfg.when_ready(master)
cfg.pre_fork(master, worker)
cfg.on_reload(master)
cfg.child_exit(master, worker)
cfg.on_exit(master)
print(json.dumps(sorted(sys.modules)))
"""
FOR_WORKERS_ONLY = ("flask", "werkzeug", "sqlalchemy", "psycopg", "prometheus_client", "openai", "psutil")


def test_the_master_stays_light() -> None:
    """gunicorn reads the settings and runs all of the master's hooks, and nothing is loaded that gevent has to patch
    first. gunicorn checks the number of arguments of each hook at the same time.
    """
    settings = {"PYTHON_DOTENV_DISABLED": "1", "LOG_FILE": "", "SERVER_PORT": str(free_port())}
    done = subprocess.run(
        [sys.executable, "-c", MASTER], cwd=ROOT, env=os.environ | settings, check=True, capture_output=True, text=True
    )
    loaded = set(json.loads(done.stdout.splitlines()[-1]))
    assert "app.process.lifecycle" in loaded
    assert loaded.isdisjoint(FOR_WORKERS_ONLY)


WORKER = """
import gc, signal, socket, sys, threading, time
from app import create_app
from app.config import Config
from app.process.lifecycle import Hooks
from app.process.shared import Reloads, SharedState
from app.process.readiness import Readiness
from app.store.database import Database
from app.web.services import service

config = Config(database_url=sys.argv[1], server_port=int(sys.argv[2]), log_file="", drain_seconds=0.1)
hooks = Hooks(config, {}, graceful_timeout=130, local_model_file=None)

class FakeWorker:
    age, alive, wsgi, shared, sockets = 1, True, create_app(config), SharedState(Reloads()), [socket.socket()]
    def handle_exit(self, sig, frame):
        self.alive = False

worker = FakeWorker()
readiness = service(Readiness, worker.wsgi)
hooks.post_worker_init(worker)
print({"housekeeping", "memory-watch", "metrics", "quick-stop"} <= {thread.name for thread in threading.enumerate()})
print("sqlalchemy.dialects.postgresql" in sys.modules)
print({"genai_prices", "httpx2", "openai", "pydantic"} & set(sys.modules))
print(gc.get_freeze_count() > 10_000, signal.getsignal(signal.SIGINT).__qualname__)
readiness.check()
signal.raise_signal(signal.SIGTERM)
print(readiness.draining, worker.alive)
while worker.alive:
    time.sleep(0.01)
written = []
service(Database, worker.wsgi).write_later(lambda connection, items: written.extend(items) or items, 1)
hooks.worker_exit(None, worker)
print(written)
"""


def test_a_worker_from_its_start_to_its_end(database_url: str) -> None:
    """It handles its signals, has its threads beside its requests, loads SQLAlchemy's words for its own database alone
    and none of the packages of which it needs data or types only, collects less garbage, drains at SIGTERM, and what it
    still has to write is written.
    """
    command = [sys.executable, "-c", WORKER, database_url, str(free_port())]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=30)
    assert done.stdout.splitlines() == ["True", "False", "set()", "True QuickStop.begin", "True True", "[1]"]


class TestSignals:
    def signals(self, worker: FakeWorker, *, drain_seconds: float = 0.2) -> tuple[FakeReadiness, list[int]]:
        """Have a worker's signals handled; give its readiness, and the signals that asked for a quick stop."""
        readiness, quick_stops = FakeReadiness(), list[int]()
        WorkerSignals(
            worker,
            readiness.drain,
            lambda signum, frame: quick_stops.append(signum),
            drain_seconds=drain_seconds,
            graceful_timeout=drain_seconds + signals.LAST_SECONDS + 0.3,
        ).take_over()
        return readiness, quick_stops

    def test_a_stop(self, worker: FakeWorker) -> None:
        """Readiness fails at once; the worker stops accepting after the drain; what is left then is stopped quickly.

        A second SIGTERM changes nothing at either stage.
        """
        readiness, quick_stops = self.signals(worker)
        began = time.monotonic()
        signal.raise_signal(signal.SIGTERM)
        assert readiness.draining
        assert not worker.left
        wait_until(lambda: bool(worker.left))
        assert time.monotonic() - began >= 0.2
        signal.raise_signal(signal.SIGTERM)
        assert not quick_stops
        wait_until(lambda: bool(quick_stops))
        assert 0.5 <= time.monotonic() - began < 1.5
        assert (worker.left, quick_stops) == ([signal.SIGALRM], [signal.SIGALRM])

    def test_a_stop_that_is_asked_for_again_and_again(self, worker: FakeWorker) -> None:
        """gunicorn's master repeats SIGTERM every second to a worker that is one too many; the drain ends in time."""
        self.signals(worker, drain_seconds=0.5)
        began = time.monotonic()
        while not worker.left and time.monotonic() - began < 3:
            signal.raise_signal(signal.SIGTERM)
            time.sleep(0.05)
        assert worker.left
        assert time.monotonic() - began >= 0.5

    def test_a_stop_without_a_drain(self, worker: FakeWorker) -> None:
        """A timer of zero seconds would never end."""
        self.signals(worker, drain_seconds=0)
        signal.raise_signal(signal.SIGTERM)
        wait_until(lambda: bool(worker.left))

    def test_a_reload(self, master: FakeArbiter, worker: FakeWorker) -> None:
        """Readiness does not fail, and the worker serves on until its replacement is there."""
        readiness, _ = self.signals(worker, drain_seconds=60)
        make_hooks().on_reload(master)
        signal.raise_signal(signal.SIGTERM)
        assert not readiness.draining
        assert 0 < signal.getitimer(signal.ITIMER_REAL)[0] <= signals.OVERLAP_SECONDS

    def test_system_calls_are_not_interrupted(self, worker: FakeWorker) -> None:
        """A library in C that waits for upstream or the database goes on waiting; Python's own calls do so anyway."""
        self.signals(worker, drain_seconds=60)
        reading, writing = os.pipe()
        main = threading.get_ident()
        threading.Timer(0.1, lambda: signal.pthread_kill(main, signal.SIGTERM)).start()
        threading.Timer(0.3, lambda: os.write(writing, b"x")).start()
        assert ctypes.CDLL(None).read(reading, ctypes.create_string_buffer(1), 1) == 1
        os.close(reading)
        os.close(writing)

    def test_a_replacement(self) -> None:
        """The master is asked for one more worker, and the worker leaves after a while."""
        asked = list[int]()
        signal.signal(signal.SIGTTIN, lambda signum, frame: asked.append(signum))
        done = subprocess.run([sys.executable, "-c", REPLACED], cwd=ROOT, check=True, capture_output=True, text=True)
        assert asked == [signal.SIGTTIN]
        assert done.stdout == "True True\n"

    def test_no_replacement_for_a_worker_that_is_leaving(self, worker: FakeWorker) -> None:
        """Its place is taken already, or will not be needed."""
        worker.alive = False
        WorkerSignals(worker, print, print, drain_seconds=1, graceful_timeout=9).replace()
        assert signal.getitimer(signal.ITIMER_REAL)[0] == 0
        assert not worker.shared.has_replacement


REPLACED = """
import os, signal
from app.process.shared import Reloads, SharedState
from app.process.signals import WorkerSignals
class FakeWorker:
    alive, ppid, shared = True, os.getppid(), SharedState(Reloads())
WorkerSignals(FakeWorker(), print, print, drain_seconds=1, graceful_timeout=9).replace()
print(FakeWorker.shared.has_replacement, signal.getitimer(signal.ITIMER_REAL)[0] > 0)
"""


def wait_until(holds: Any) -> None:
    give_up = time.monotonic() + 5
    while not holds():
        assert time.monotonic() < give_up
        time.sleep(0.01)


class TestAddress:
    @pytest.mark.parametrize(
        ("host", "written"), [("127.0.0.1", "127.0.0.1:80"), ("::1", "[::1]:80"), ("localhost", "localhost:80")]
    )
    def test_how_it_is_written(self, host: str, written: str) -> None:
        """IPv6 needs brackets."""
        assert host_and_port(host, 80) == written

    @pytest.mark.parametrize("host", ["192.0.2.1", "no.such.host.invalid", "ä" * 80])
    def test_a_host_that_is_not_this_machine(self, host: str) -> None:
        with pytest.raises(ConfigurationException, match="SERVER_HOST must be an address of this machine"):
            check_host(host)

    def test_a_port_that_is_free(self) -> None:
        check_port("127.0.0.1", free_port())
