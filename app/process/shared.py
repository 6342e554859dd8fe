"""What gunicorn's master and its workers share across the fork, and what is used here of gunicorn's own objects."""

from __future__ import annotations

import mmap
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from app.process import metrics_files
from app.upstreams.local_model import LocalModel


class WorkerSettings(Protocol):
    """The settings of gunicorn that are asked for. `address` has what `bind` names: pairs of host and port, paths."""

    workers: int
    address: Sequence[Any]


class Listener(Protocol):
    """What is used of gunicorn's listening socket."""

    def getsockname(self) -> Any:
        """Its address: a tuple that begins with host and port, or a path."""


class Arbiter(Protocol):
    """What is used of gunicorn's master. `START_CTX["args"]` is its command line. `state` is ours."""

    START_CTX: Mapping[Any, Any]
    cfg: WorkerSettings
    num_workers: int
    WORKERS: Mapping[int, Worker]
    worker_age: int
    LISTENERS: Sequence[Listener]
    state: MasterState

    def kill_worker(self, pid: int, sig: int) -> None:
        """Send a signal to a worker that may be gone."""


class Worker(Protocol):
    """What is used of gunicorn's worker: `age` counts from 1, `ppid` is the master, `wsgi` the application, `sockets`
    are what it listens on.

    `shared` is ours.
    """

    age: float
    pid: int
    ppid: int
    alive: bool
    wsgi: Any
    sockets: Sequence[Listener]
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
        self.store_made = SharedFlag()
        self.local_model: LocalModel | None = None


class SharedFlag:
    """A flag in memory that the master shares with every worker; see app/store/database.py, `Flag`."""

    def __init__(self) -> None:
        self._memory = mmap.mmap(-1, 1)

    def is_set(self) -> bool:
        """Whether one of them has set it."""
        return bool(self._memory[0])

    def set(self) -> None:
        """For all of them."""
        self._memory[0] = 1


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

    def __init__(self, reloads: Reloads, store_made: SharedFlag | None = None) -> None:
        self.store_made = store_made or SharedFlag()
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
