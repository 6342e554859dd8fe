"""A worker's SIGTERM: it serves on for a while, then it finishes what is there, and in the end it stops quickly."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from app.process.quick_stop import ignore
from app.process.shared import Worker

OVERLAP_SECONDS = 2.0
"""How long a worker that is being replaced still accepts connections: until the new one has loaded the application."""
LAST_SECONDS = 2.5
"""How long before the master kills a worker (SIGKILL, after graceful_timeout) the worker begins a quick stop."""


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
