"""What happens at gunicorn's hooks: in the master around its workers, and in a worker at its start and its stop.

`gunicorn.conf.py` binds the hooks. The master imports this module, so only the standard library and light modules of
ours are imported at the top: a gevent worker patches the standard library after the fork, and a library that has made
locks or sockets before (SQLAlchemy, prometheus-client) would keep the unpatched ones. What a worker needs is imported
in `Hooks.post_worker_init`. `test_the_master_stays_light` shows it.
"""

from __future__ import annotations

import contextlib
import gc
import os
import resource
import signal
import sys
import threading
from collections.abc import Collection, MutableMapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from app.config import Config
from app.errors import ConfigurationException
from app.ledger.pricing import Prices
from app.process import metrics_files
from app.process.address import check_port
from app.process.quick_stop import QuickStop
from app.process.shared import Arbiter, MasterState, SharedState, Worker
from app.process.signals import WorkerSignals
from app.upstreams.local_model import DEMO, DEMO_MAX_TOKENS, MAX_TOKENS, LocalModel

BAD_SETTING = 2
"""The exit status of a start that a setting prevents."""
INHERITED_SOCKET = {"LISTEN_FDS", "GUNICORN_FD"}
"""Set when the listening socket is inherited: from systemd, and from the old master when SIGUSR2 starts a new one."""
OPEN_FILES = 65_536
GC_THRESHOLDS = (10_000, 20, 50)
SUMMARY_SECONDS = 1.0
"""How long a worker's end waits until summaries that were given up are settled."""
TELL_SECONDS = 2.0
"""How long a worker's end waits until MEMORY_URL has been told of the last turns."""


class Hooks:
    """gunicorn's hooks, in the order in which they run; gunicorn checks the number of arguments of each.

    `environ` is the environment that the workers inherit; `graceful_timeout` is gunicorn's setting, in seconds;
    `key_variables` hold keys of upstreams, which the local model does not get to see.
    """

    def __init__(
        self,
        settings: Config,
        environ: MutableMapping[str, str],
        *,
        graceful_timeout: float,
        local_model_file: Path | None,
        key_variables: Collection[str] = (),
    ) -> None:
        self._settings = settings
        self._environ = environ
        self._graceful_timeout = graceful_timeout
        self._local_model_file = local_model_file
        self._key_variables = key_variables

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
            {name: value for name, value in self._environ.items() if name not in self._key_variables},
            max_tokens=DEMO_MAX_TOKENS if is_demo else MAX_TOKENS,
            threads=self._settings.local_model_threads,
            api_key=self._environ.get("OPENAI_API_KEY", "").strip(),
        )
        self._environ["OPENAI_BASE_URL"] = model.base_url
        # llama.cpp has both APIs, but only this one follows a response schema and tells an answer that was cut.
        self._environ.setdefault("UPSTREAM_API", "chat_completions")
        self._environ["OPENAI_API_KEY"] = model.api_key

    def pre_exec(self, server: Arbiter) -> None:
        """In a fork of the master that becomes a new master, at SIGUSR2: `python -m gunicorn` is run as it was.

        gunicorn would run its file `__main__.py`, beside which Python finds gunicorn's `http` in the place of its own.
        """
        arguments = server.START_CTX["args"]
        if arguments[1].endswith(os.path.join("gunicorn", "__main__.py")):
            arguments[1:2] = ["-m", "gunicorn"]

    def on_reload(self, server: Arbiter) -> None:
        """In the master, at SIGHUP: tell the workers to leave, before gunicorn starts those in their place.

        gunicorn would tell them itself and then wait until their last call has ended, deaf to signals and to workers
        that die. It waits for those that are not newer than the last one of before, so all are called newer; each has
        its place in the number of workers until it has left: `test_a_reload_while_a_call_lasts`.
        """
        server.state.reloads.count()
        for pid, worker in tuple(server.WORKERS.items()):
            worker.age = server.worker_age + 0.5
            server.num_workers += 1
            server.kill_worker(pid, signal.SIGTERM)

    def pre_fork(self, server: Arbiter, worker: Worker) -> None:
        """In the master, before a worker is forked."""
        worker.shared = SharedState(server.state.reloads, server.state.store_made)
        server.state.metrics.ensure()
        with contextlib.suppress(ConfigurationException):
            self._keep_prices()

    def post_fork(self, server: Arbiter, worker: Worker) -> None:
        """In a worker, before the application is loaded: make the files that it counts in. Until it is loaded nothing
        is garbage, and to look for it would take a seventh of the start.

        Until gunicorn handles the worker's signals, the handlers are the master's, which only keep a signal for the
        master's loop. A stop would be lost, and it would last until the master kills this worker:
        `test_a_stop_while_a_worker_starts`.
        """
        gc.disable()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for number in (signal.SIGINT, signal.SIGQUIT):
            # Not SIG_DFL: that one leaves a core dump, and the other one's end is logged as a fault.
            signal.signal(number, lambda *_: os._exit(0))
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
        from app.process.shared_health import SharedHealth
        from app.store.database import Database
        from app.web.services import service

        settings, app = self._settings, worker.wsgi
        service(Database, app).made = worker.shared.store_made
        service(Ledger, app).prices.load()
        signals = self._handle_signals(worker)
        service(Metrics, app).fold()
        service(Metrics, app).keep_fresh()
        service(Housekeeping, app).start()
        service(SharedHealth, app).start()
        MemoryWatch(settings.memory_log_seconds, settings.memory_soft_limit_mb, signals.replace).start()
        if worker.age == 1:
            self._announce([listener.getsockname() for listener in worker.sockets])
        collect_less_often()

    def worker_exit(self, server: Arbiter, worker: Worker) -> None:
        """In a worker, at its end: give up summaries, wait until what is settled is written and turns are told; tell
        what was counted."""
        # A worker that could not load the application has none.
        if (application := getattr(worker, "wsgi", None)) is not None:
            from app.process.metrics import Metrics
            from app.services.memory_hook import MemoryHook
            from app.services.remembering import Remembering
            from app.store.database import Database
            from app.web.services import service

            if (summaries := service(Remembering, application).summaries) is not None:
                summaries.stop(SUMMARY_SECONDS)
            service(Database, application).flush(self._settings.database_timeout)
            service(MemoryHook, application).flush(TELL_SECONDS)
            service(Metrics, application).refresh()

    def child_exit(self, server: Arbiter, worker: Worker) -> None:
        """In the master, when a worker has ended; if it had a replacement, the usual number of workers is enough."""
        metrics_files.forget_gauges(server.state.metrics.path, worker.pid)
        if (worker.shared.has_replacement or worker.shared.is_outdated) and server.num_workers > server.cfg.workers:
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

    def _announce(self, listening: Sequence[Any]) -> None:
        """Say once, in the first worker, where the server is: what `--bind` or systemd has given it may differ from
        SERVER_HOST."""
        from app.process.announce import announce

        threading.Thread(target=announce, args=(self._settings, listening), daemon=True).start()


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
    """Look for cycles of objects less often, and never among what was loaded.

    Garbage collection took a tenth of a request's time before (docs/performance). One look at what was loaded would
    take 70 ms and find nothing of size.
    """
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)
    gc.enable()
