"""QuickStop: a worker's end within two seconds that tells every caller and leaves no row of the ledger open.

It begins with SIGINT (Ctrl-C) or SIGQUIT, or when a graceful stop takes too long (`WorkerSignals` in signals.py).
gunicorn's own handler would leave the process at once: callers would see a closed connection and try again, though
upstream works on and bills the first call, and the ledger row of each call would stay open, its cost unknown, until
another worker sweeps it. Here the calls are ended first, so that each request gives an answer and settles its row:
`test_a_quick_stop_loses_no_bill`. Two things can hold this up, and neither may: a call that does not end, and a
database that does not answer. So a timer of the kernel ends the process in any case:
`test_a_stuck_worker_leaves_in_time`.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    # For types only: gunicorn's master imports this module (see lifecycle.py).
    from app.calls.call import Calls
    from app.ledger.ledger import Ledger
    from app.store.database import Database

ANSWER_SECONDS = 1.0
FLUSH_SECONDS = 0.5
LIMIT_SECONDS = 1.8
"""For all of it, as gunicorn's master may kill a worker 2 s after it has asked for its end."""
SIGNALS = (signal.SIGINT, signal.SIGQUIT)


class QuickStop:
    """One thread per worker, which waits until a quick stop is wanted; `leave` ends the process."""

    def __init__(
        self, calls: Calls, ledger: Ledger, database: Database, *, leave: Callable[[int], object] = os._exit
    ) -> None:
        self._calls = calls
        self._ledger = ledger
        self._database = database
        self._leave = leave
        self._wanted = threading.Event()

    def start(self) -> None:
        """Start the thread and handle the signals."""
        threading.Thread(target=self._run, name="quick-stop", daemon=True).start()
        for number in SIGNALS:
            signal.signal(number, self.begin)

    def begin(self, signum: int, frame: object) -> None:
        """Have the thread end the worker, and the kernel's timer, should the thread not come to its end.

        This is a signal handler: it may run in gevent's hub, where nothing can be started and nothing waited for.
        """
        # A second signal must neither begin again nor put the timer off.
        for number in (*SIGNALS, signal.SIGTERM):
            signal.signal(number, ignore)
        signal.signal(signal.SIGALRM, lambda *_: self._leave(0))
        signal.setitimer(signal.ITIMER_REAL, LIMIT_SECONDS)
        self._wanted.set()

    def _run(self) -> None:
        self._wanted.wait()
        give_up = time.monotonic() + ANSWER_SECONDS
        self._calls.end("shutting_down")
        while self._calls and time.monotonic() < give_up:
            time.sleep(0.01)
        # Of calls that nothing could end: whose caller does not read, or whose upstream does not let them connect.
        self._ledger.settle_open("server_shutting_down")
        self._database.flush(FLUSH_SECONDS)
        # The exit of the interpreter would wait for their threads.
        self._leave(0)


def ignore(signum: int, frame: object) -> None:
    """Do nothing. Unlike SIG_IGN this may be set while the signal is on its way: Python would print a traceback."""
