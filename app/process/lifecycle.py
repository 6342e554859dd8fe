"""What happens at gunicorn's hooks: in the master around its workers, and in a worker at its start and its stop.

`gunicorn.conf.py` binds the hooks. The master imports this module, so only the standard library and light modules of
ours are imported at the top: a gevent worker patches the standard library after the fork, and a library that has made
locks or sockets before (SQLAlchemy, prometheus-client) would keep the unpatched ones. What a worker needs is imported
in `Hooks.post_worker_init`. `test_the_master_stays_light` shows it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import mmap
import os
import resource
import signal
import sys
import threading
from collections.abc import Callable, MutableMapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, Protocol

from app.config import Config
from app.errors import ConfigurationException
from app.ledger.pricing import Prices
from app.process import metrics_files
from app.process.address import check_port
from app.process.quick_stop import QuickStop, ignore
from app.upstreams.local_model import DEMO, DEMO_MAX_TOKENS, MAX_TOKENS, LocalModel

BAD_SETTING = 2
"""The exit status of a start that a setting prevents."""
INHERITED_SOCKET = {"LISTEN_FDS", "GUNICORN_FD"}
"""Set when the listening socket is inherited: from systemd, and from the old master when SIGUSR2 starts a new one."""
OVERLAP_SECONDS = 2.0
"""How long a worker that is being replaced still accepts connections: until the new one has loaded the application."""
LAST_SECONDS = 2.5
"""How long before the master kills a worker (SIGKILL, after graceful_timeout) the worker begins a quick stop."""
OPEN_FILES = 65_536
GC_THRESHOLDS = (10_000, 20, 50)


class WorkerSettings(Protocol):
    """The settings of gunicorn that are asked for. `address` has what `bind` names: pairs of host and port, paths."""

    workers: int
    address: Sequence[Any]


class Listener(Protocol):
    """What is used of gunicorn's listening socket."""

    def getsockname(self) -> Any:
        """Its address: a tuple that begins with host and port, or a path."""


class Arbiter(Protocol):
    """What is used of gunicorn's master. `state` is ours."""

    cfg: WorkerSettings
    num_workers: int
    LISTENERS: Sequence[Listener]
    state: MasterState


class Worker(Protocol):
    """What is used of gunicorn's worker: `age` counts from 1, `ppid` is the master, `wsgi` the application, and
    `sockets` are those it listens on.

    `shared` is ours.
    """

    age: int
    pid: int
    ppid: int
    alive: bool
    wsgi: Any
    sockets: list[Any]
    shared: SharedState

    def handle_exit(self, sig: int, frame: object) -> None:
        """Stop accepting connections, finish the requests that are there, and end."""


class MasterState:
    """What the master keeps from its start to its end.

    gunicorn reads `gunicorn.conf.py` again when it reloads (SIGHUP). State that is made there would be made anew: the
    counts of all workers would start from 0, and a second local model would run beside the first. So it is made once,
    in `on_starting`, and is an attribute of gunicorn's master.
    `test_a_reload_forgets_nothing_and_the_end_leaves_nothing` shows it.
    """

    def __init__(self) -> None:
        self.metrics = metrics_files.Directory()
        self.reloads = Reloads()
        self.local_model: LocalModel | None = None


class Reloads:
    """How often the server was reloaded, modulo 256, in memory that the master shares with every worker."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 1)

    @property
    def number(self) -> int:
        """So many reloads until now."""
        return self._memory[0]

    def count(self) -> None:
        """One more."""
        self._memory[0] = (self.number + 1) % 256


class SharedState:
    """What the master and one worker tell each other after the fork; made before it."""

    def __init__(self, reloads: Reloads) -> None:
        self._reloads = reloads
        self._at_birth = reloads.number
        self._asked = mmap.mmap(-1, 1)

    @property
    def is_outdated(self) -> bool:
        """The server was reloaded since the fork: this worker is being replaced, the server is not stopping."""
        return self._reloads.number != self._at_birth

    @property
    def has_replacement(self) -> bool:
        """The worker has asked the master for one more worker in its place."""
        return bool(self._asked[0])

    def ask_for_replacement(self) -> None:
        """Said by the worker, before it sends SIGTTIN."""
        self._asked[0] = 1


class WorkerSignals:
    """A worker's SIGTERM and SIGALRM. (SIGINT and SIGQUIT are handled in quick_stop.py.)

    At SIGTERM gunicorn's own handler would stop accepting connections at once. A load balancer that has not yet
    learned of it would go on sending requests, and each would fail: `test_sigterm_with_calls_in_flight`. Therefore
    SIGTERM only makes readiness fail, and a timer stops the worker later. While the server is reloaded readiness must
    not fail, since new workers serve already: `test_sighup_under_load`. And what has not ended after graceful_timeout
    is killed by the master, with its callers untold and its ledger rows open; so the same timer begins a quick stop a
    moment earlier: `test_a_caller_that_does_not_read`.

        SIGTERM    readiness fails, requests are still taken
        SIGALRM    after drain_seconds: no new connections, requests are finished
        SIGALRM    LAST_SECONDS before the end of graceful_timeout: quick stop
    """

    def __init__(
        self,
        worker: Worker,
        drain: Callable[[], None],
        quick_stop: Callable[[int, object], None],
        *,
        drain_seconds: float,
        graceful_timeout: float,
    ) -> None:
        self._worker = worker
        self._drain = drain
        self._quick_stop = quick_stop
        self._drain_seconds = drain_seconds
        self._finish_seconds = graceful_timeout - drain_seconds - LAST_SECONDS
        self._is_stopping = False

    def take_over(self) -> None:
        """Handle the signals here instead of in gunicorn."""
        signal.signal(signal.SIGTERM, self.stop)
        signal.signal(signal.SIGALRM, self.leave)
        # They must not interrupt the system calls of requests in flight.
        for number in (signal.SIGTERM, signal.SIGALRM):
            signal.siginterrupt(number, False)

    def stop(self, signum: int, frame: object) -> None:
        """SIGTERM: serve on until the drain is over, or until the new workers of a reload are there.

        Once only: gunicorn's master says it every second to a worker that is one too many (SIGTTOU), and the timer
        would never come to its end.
        """
        if self._is_stopping:
            return
        self._is_stopping = True
        serve_on_seconds = OVERLAP_SECONDS
        if not self._worker.shared.is_outdated:
            self._drain()
            serve_on_seconds = self._drain_seconds
        # A timer of the kernel: a signal handler may run where gevent can start neither a thread nor a greenlet.
        # Zero would switch it off.
        signal.setitimer(signal.ITIMER_REAL, max(serve_on_seconds, 0.001))

    def leave(self, signum: int, frame: object) -> None:
        """SIGALRM: accept no more connections and finish what is there; the next SIGALRM begins a quick stop."""
        # Another SIGTERM would only put the timer off.
        signal.signal(signal.SIGTERM, ignore)
        signal.signal(signal.SIGALRM, self._quick_stop)
        signal.setitimer(signal.ITIMER_REAL, self._finish_seconds)
        self._worker.handle_exit(signum, frame)

    def replace(self) -> None:
        """Leave as in a reload; called by MemoryWatch when this worker has grown too large.

        The master is asked for one more worker first (SIGTTIN), so that requests need not wait while this one finishes
        its own; `Hooks.child_exit` takes the number back. `test_a_worker_above_the_memory_limit_is_replaced` shows it.
        """
        if not self._worker.alive:
            return
        if os.getppid() == self._worker.ppid:
            self._worker.shared.ask_for_replacement()
            os.kill(self._worker.ppid, signal.SIGTTIN)
        signal.setitimer(signal.ITIMER_REAL, OVERLAP_SECONDS)


class Hooks:
    """gunicorn's hooks, in the order in which they run; gunicorn checks the number of arguments of each.

    `environ` is the environment that the workers inherit; `graceful_timeout` is gunicorn's setting, in seconds.
    """

    def __init__(
        self,
        settings: Config,
        environ: MutableMapping[str, str],
        *,
        graceful_timeout: float,
        local_model_file: Path | None,
    ) -> None:
        self._settings = settings
        self._environ = environ
        self._graceful_timeout = graceful_timeout
        self._local_model_file = local_model_file

    def on_starting(self, server: Arbiter) -> None:
        """In the master, before anything is started: end when the port is taken; make what is kept until the end."""
        try:
            self._keep_prices()
        except ConfigurationException as exc:
            give_up(exc)
        if not self._environ.keys() & INHERITED_SOCKET:
            addresses = [address for address in server.cfg.address if isinstance(address, tuple)]
            try:
                self._settings.check_exposure(*addresses)
                for host, port in addresses:
                    check_port(host, port)
            except ConfigurationException as exc:
                give_up(exc)
        allow_open_files()
        try:
            server.state = MasterState()
        except OSError as exc:
            message = f"TMPDIR must be a directory that can be written ({exc.strerror})"
            give_up(ConfigurationException(message, "TMPDIR"))
        self._environ[metrics_files.DIRECTORY_VARIABLE] = str(server.state.metrics.path)

    def when_ready(self, server: Arbiter) -> None:
        """In the master, when the port is ours and no worker is there yet: start the local model, if there is one.

        What is really listened on is known now, inherited sockets (systemd) included.
        """
        try:
            self._settings.check_exposure(*(listener.getsockname() for listener in server.LISTENERS))
        except ConfigurationException as exc:
            self.on_exit(server)
            give_up(exc)
        if self._local_model_file is None:
            return
        is_demo = self._settings.local_model == DEMO
        model = server.state.local_model = LocalModel(
            self._local_model_file,
            max_tokens=DEMO_MAX_TOKENS if is_demo else MAX_TOKENS,
            api_key=self._environ.get("OPENAI_API_KEY", "").strip(),
        )
        self._environ["OPENAI_BASE_URL"] = model.base_url
        # llama.cpp has both APIs, but only this one follows a response schema and tells an answer that was cut.
        self._environ.setdefault("UPSTREAM_API", "chat_completions")
        self._environ["OPENAI_API_KEY"] = model.api_key

    def on_reload(self, server: Arbiter) -> None:
        """In the master, at SIGHUP: tell the workers that they are being replaced."""
        server.state.reloads.count()

    def pre_fork(self, server: Arbiter, worker: Worker) -> None:
        """In the master, before a worker is forked."""
        worker.shared = SharedState(server.state.reloads)
        server.state.metrics.ensure()
        with contextlib.suppress(ConfigurationException):
            self._keep_prices()

    def post_fork(self, server: Arbiter, worker: Worker) -> None:
        """In a worker, before the application is loaded: make the files that it counts in.

        Until gunicorn handles the worker's signals, the handlers are the master's, which only keep a signal for the
        master's loop. A SIGTERM would be lost, and the stop would last until the master kills this worker:
        `test_a_stop_while_a_worker_starts`.
        """
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        if not metrics_files.prepare(server.state.metrics.path, worker.pid):
            self._environ.pop(metrics_files.DIRECTORY_VARIABLE, None)
            print(f"worker {worker.pid} counts for itself: no room for metrics in TMPDIR", file=sys.stderr)

    def post_worker_init(self, worker: Worker) -> None:
        """In a worker, when the application is loaded: handle its signals, and start what runs beside its requests."""
        # Here and not at the top: gevent has patched the standard library by now.
        from app.ledger.ledger import Ledger
        from app.process.housekeeping import Housekeeping
        from app.process.memory import MemoryWatch
        from app.process.metrics import Metrics
        from app.web.services import service

        settings, app = self._settings, worker.wsgi
        service(Ledger, app).prices.load()
        signals = self._handle_signals(worker)
        service(Metrics, app).fold()
        service(Metrics, app).keep_fresh()
        service(Housekeeping, app).start()
        MemoryWatch(settings.memory_log_seconds, settings.memory_soft_limit_mb, signals.replace).start()
        if worker.age == 1:
            self._announce(worker)
        collect_less_often()

    def worker_exit(self, server: Arbiter, worker: Worker) -> None:
        """In a worker, at its end: wait until what is settled is written, and tell what was counted."""
        # A worker that could not load the application has none.
        if (application := getattr(worker, "wsgi", None)) is not None:
            from app.process.metrics import Metrics
            from app.store.database import Database
            from app.web.services import service

            service(Database, application).flush(self._settings.database_timeout)
            service(Metrics, application).refresh()

    def child_exit(self, server: Arbiter, worker: Worker) -> None:
        """In the master, when a worker has ended; if it had a replacement, the usual number of workers is enough."""
        metrics_files.forget_gauges(server.state.metrics.path, worker.pid)
        if worker.shared.has_replacement and server.num_workers > server.cfg.workers:
            server.num_workers -= 1

    def on_exit(self, server: Arbiter) -> None:
        """In the master, at its end: stop the local model; remove what was counted."""
        server.state.metrics.remove()
        if server.state.local_model is not None:
            server.state.local_model.stop()

    def _keep_prices(self) -> None:
        """Read PRICES_FILE in the master: what can be read is inherited by every worker that is forked later."""
        Prices(Path(self._settings.prices_file))

    def _handle_signals(self, worker: Worker) -> WorkerSignals:
        from app.process.readiness import Readiness
        from app.web.services import service

        quick_stop = service(QuickStop, worker.wsgi)
        quick_stop.start()
        signals = WorkerSignals(
            worker,
            service(Readiness, worker.wsgi).drain,
            quick_stop.begin,
            drain_seconds=self._settings.drain_seconds,
            graceful_timeout=self._graceful_timeout,
        )
        signals.take_over()
        return signals

    def _announce(self, worker: Worker) -> None:
        """Say once, in the first worker, where the server is: `gunicorn -b` may have another address than the settings.

        A Unix socket has no address to paste.
        """
        from app.process.announce import announce

        addresses = [sock.getsockname() for sock in worker.sockets]
        if address := next((address for address in addresses if isinstance(address, tuple)), None):
            settings = dataclasses.replace(self._settings, server_host=address[0], server_port=address[1])
            threading.Thread(target=announce, args=(settings,), daemon=True).start()


def give_up(exc: ConfigurationException) -> NoReturn:
    """End the start with one line that names the setting."""
    print(exc.message, file=sys.stderr)
    sys.exit(BAD_SETTING)


def allow_open_files() -> None:
    """Let this process and its workers open up to OPEN_FILES files, as far as the system permits.

    Each connection is one. The usual limit of 1,024 would be reached by the connections of one slow peer.
    """
    allowed, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if most == resource.RLIM_INFINITY else min(OPEN_FILES, most)
    if allowed != resource.RLIM_INFINITY and allowed < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def collect_less_often() -> None:
    """Look for cycles of objects less often, and never again among what was loaded.

    Garbage collection took a tenth of a request's time before (docs/performance).
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
