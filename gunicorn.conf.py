"""gunicorn's settings, each with its reason. Ours are read here once, before anything is started."""

from __future__ import annotations

import gc
import math
import mmap
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from pathlib import Path

from dotenv import load_dotenv
from gunicorn.glogging import Logger

from app.config import Config
from app.errors import ConfigurationException
from app.logging import log_config
from app.upstreams.local_model import LOCAL_KEY, LocalModel, model_file

load_dotenv()


def check_host(host):
    """Raise unless this machine has the address: gunicorn would try for five seconds and not name the setting."""
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind) as probe:
            probe.bind(address)
    except (OSError, UnicodeError):
        raise ConfigurationException("SERVER_HOST must be an address of this machine", "SERVER_HOST") from None


try:
    settings = Config.from_env()
    settings.check_exposure()
    check_host(settings.server_host)
    local_model_file = model_file(settings.local_model) if settings.local_model else None
except ConfigurationException as exc:
    print(exc.message, file=sys.stderr)
    sys.exit(2)

bind = (
    f"[{settings.server_host}]:{settings.server_port}"
    if ":" in settings.server_host
    else (f"{settings.server_host}:{settings.server_port}")
)
workers = settings.web_concurrency

# gevent: thousands of calls in flight and no slow client in another's way. It patches the standard library when the
# worker starts, so nothing may import SQLAlchemy or psycopg before: no preload.
worker_class = "app.process.workers." + ("GeventWorker" if settings.worker_class == "gevent" else "ThreadWorker")
preload_app = False
# Room for every call in flight, as many waiting for a slot, and the probes.
worker_connections = 2 * settings.max_concurrent_requests + 1000
# gthread only: a thread per call in flight and per call that waits, and some for the other routes.
threads = settings.max_concurrent_requests + 32
# The kernel's queue; a burst of 1,000 callers must not be refused before a worker sees it.
backlog = 4096

# A worker's heartbeat, not a limit for requests: those have REQUEST_TIMEOUT.
timeout = 60
# Longer than any request may take after readiness has failed, so that a stop loses none.
graceful_timeout = math.ceil(settings.drain_seconds + settings.request_timeout) + 5
# Longer than a proxy keeps an idle connection in its pool would be safest; 5 s serves direct callers without hoarding.
keepalive = 5

# Bounds on what is read before Flask sees the request. The body's is MAX_REQUEST_BYTES, enforced by Flask.
limit_request_line = 4094
limit_request_fields = 100
limit_request_field_size = 8190

# On by default since gunicorn 25.1: a socket that takes commands. Nothing here needs it.
control_socket_disable = True

# One dictConfig for gunicorn and the application.
logconfig_dict = log_config(settings)
loglevel = settings.log_level.lower()


class NoAccessLog(Logger):
    """The application's own line says more of a request, and only once."""

    def access(self, resp, req, environ, request_time):
        """Write nothing."""


logger_class = NoAccessLog


# When Python looks for cycles of objects; see settle_down().
GC_THRESHOLDS = (10_000, 20, 50)
# How long a worker that is being replaced goes on serving: until the new one has loaded the application.
OVERLAP_SECONDS = 2.0
# How long before the end of graceful_timeout, when the master kills it, a worker ends by itself what is still there.
LAST_SECONDS = 2.5


def check_port(host, port):
    """Leave unless the port can be listened on: gunicorn would try for five seconds, with two lines each."""
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    with socket.socket(family, kind) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as exc:
            print(f"SERVER_PORT cannot be used ({exc.strerror}); another program may be listening", file=sys.stderr)
            sys.exit(2)


def on_starting(server):
    """Give up at once when the port is taken; remember reloads where every worker can see them."""
    # A listening socket is inherited when systemd holds it and when SIGUSR2 puts a new gunicorn in place.
    if not os.environ.keys() & {"LISTEN_FDS", "GUNICORN_FD"}:
        check_port(settings.server_host, settings.server_port)
    # Before any worker imports prometheus-client, which decides by this variable where it keeps its values. Made here
    # and not above: a reload reads this file again, and must not lose what was counted.
    server.metrics_directory = tempfile.mkdtemp(prefix="llm-server-metrics-")
    os.environ["PROMETHEUS_MULTIPROC_DIR"] = server.metrics_directory
    server.reloads = mmap.mmap(-1, 1)
    server.local_model = None


def when_ready(server):
    """Start the local model: the port is ours by now, and no worker is there yet."""
    if local_model_file is not None:
        server.local_model = LocalModel(local_model_file)
        os.environ["OPENAI_BASE_URL"] = server.local_model.base_url
        # llama.cpp has both APIs, but only this one follows a response schema and tells an answer that was cut.
        os.environ.setdefault("UPSTREAM_API", "chat_completions")
        if not os.environ.get("OPENAI_API_KEY", "").strip():
            os.environ["OPENAI_API_KEY"] = LOCAL_KEY


def on_reload(server):
    """Count: the workers that are older than this are being replaced, not stopped."""
    server.reloads[0] = (server.reloads[0] + 1) % 256


def pre_fork(server, worker):
    """Tell the worker which reload it belongs to; let it tell the master that it leaves."""
    worker.reloads, worker.born = server.reloads, server.reloads[0]
    worker.leaves = mmap.mmap(-1, 1)


def child_exit(server, worker):
    """Forget the gauges of a worker that is gone; if it asked for its replacement, the usual number is enough now."""
    # What mark_process_dead of prometheus-client does, which this process must not import: a gevent worker that is
    # forked later would have its locks unpatched.
    for file in Path(server.metrics_directory).glob(f"gauge_live*_{worker.pid}.db"):
        file.unlink(missing_ok=True)
    if worker.leaves[0] and server.num_workers > server.cfg.workers:
        server.num_workers -= 1


def settle_down():
    """Look for cycles less often, and never again among what was loaded: a tenth of a request's time went there."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def post_worker_init(worker):
    """Make SIGTERM fail readiness first, and Ctrl-C lose no row; watch memory; say once where the server is."""
    from app.ledger.ledger import Ledger
    from app.process.housekeeping import Housekeeping
    from app.process.memory import MemoryWatch
    from app.process.metrics import Metrics
    from app.process.quick_stop import QuickStop, ignore
    from app.process.readiness import Readiness
    from app.web.services import service

    app = worker.wsgi
    service(Ledger, app).prices.load()
    quick_stop = service(QuickStop, app)
    quick_stop.start()

    def replace():
        if not worker.alive:
            return
        # One more worker first (SIGTTIN), so that requests need not wait while this one finishes its calls.
        if os.getppid() == worker.ppid:
            worker.leaves[0] = 1
            os.kill(worker.ppid, signal.SIGTTIN)
        signal.setitimer(signal.ITIMER_REAL, OVERLAP_SECONDS)

    def stop(signum, frame):
        serve_on_seconds = OVERLAP_SECONDS
        if worker.reloads[0] == worker.born:
            service(Readiness, app).drain()
            serve_on_seconds = settings.drain_seconds
        # The kernel's timer: a signal handler may run where gevent can start neither a thread nor a greenlet.
        signal.setitimer(signal.ITIMER_REAL, max(serve_on_seconds, 0.001))

    def leave(signum, frame):
        # Another SIGTERM would only put the timer off.
        signal.signal(signal.SIGTERM, ignore)
        signal.signal(signal.SIGALRM, quick_stop.begin)
        signal.setitimer(signal.ITIMER_REAL, graceful_timeout - settings.drain_seconds - LAST_SECONDS)
        worker.handle_exit(signum, frame)

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGALRM, leave)
    # Signals must not interrupt the system calls of requests in flight.
    for number in (signal.SIGTERM, signal.SIGALRM):
        signal.siginterrupt(number, False)
    service(Metrics, app).keep_fresh()
    service(Housekeeping, app).start()

    MemoryWatch(settings.memory_log_seconds, settings.memory_soft_limit_mb, replace).start()
    if worker.age == 1:
        from app.process.announce import announce

        threading.Thread(target=announce, args=(settings,), daemon=True).start()
    settle_down()


def worker_exit(server, worker):
    """Wait until what is settled is written."""
    if hasattr(worker, "wsgi"):
        from app.store.database import Database
        from app.web.services import service

        service(Database, worker.wsgi).flush(settings.database_timeout)


def on_exit(server):
    """Stop the local model; remove what was counted."""
    shutil.rmtree(getattr(server, "metrics_directory", ""), ignore_errors=True)
    if getattr(server, "local_model", None):
        server.local_model.stop()
