"""Writer: one thread per worker that commits many requests' writes at once.

What a caller waits for is durable when it returns. What nobody waits for keeps the next caller's write company, so a
request costs one commit and not two. Work runs in a system thread under gevent, so that a slow or locked database holds
up nobody who does not need it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, cast

import sqlalchemy as sa

from app.errors import ChatServiceException, ServiceException

logger = logging.getLogger(__name__)

BATCH_MAX = 500
RETRY_SECONDS = 0.5
LATER_MAX = 100_000
COMPANY_SECONDS = 0.05
"""How long a write that nobody waits for waits for one that somebody does."""
DEADLOCK_STATES = frozenset({"40001", "40P01"})
"""PostgreSQL's words for: try again. Source: its manual, appendix A, "Error Codes"."""

Result = TypeVar("Result")
Work = Callable[[sa.Connection], Any]
Batch = Callable[[sa.Connection, Sequence[Any]], Sequence[Any]]
"""Does the same work for many items in one transaction and gives an outcome for each, in order. An outcome that is a
ServiceException is a refusal: it is raised where that item's caller waits, and has written nothing."""


@dataclass(eq=False)
class _Job:
    """One item of a batch. `lasting`: nobody waits, and it is tried until it is done."""

    batch: Batch
    item: Any
    lasting: bool = False
    undo: Callable[[sa.Connection, Any], None] | None = None
    done: threading.Event = field(default_factory=threading.Event)
    outcome: Any = None
    given_up: bool = False
    finished: bool = False


class Writer:
    """`connect` gives the connection to write on, anew after a failure; it raises while there is no database."""

    def __init__(self, connect: Callable[[], sa.Connection], is_ours: Callable[[], bool]) -> None:
        self._connect = connect
        self._is_ours = is_ours
        self._jobs: deque[_Job] = deque()
        self._wanted = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._connection: sa.Connection | None = None
        self._failing = False
        self._idle = False
        self._closed = False

    @property
    def waiting(self) -> int:
        """Jobs not committed yet."""
        return len(self._jobs)

    def write(
        self,
        batch: Batch,
        item: Any,
        timeout_seconds: float,
        *,
        undo: Callable[[sa.Connection, Any], None] | None = None,
    ) -> Any:
        """Run `batch` with `item` among others and return its outcome once that is durable.

        Raises an outcome that is an exception, and ChatServiceException `store_unavailable` when the database does not
        answer in time; `undo` is given the outcome if the write succeeds after all.
        """
        job = _Job(batch, item, undo=undo)
        self._submit(job)
        if not job.done.wait(timeout_seconds) and self._give_up(job):
            raise unavailable()
        if isinstance(job.outcome, Exception):
            raise job.outcome
        return job.outcome

    def write_later(self, batch: Batch, item: Any) -> None:
        """Run `batch` with `item` soon, and again until it succeeds; nobody waits. Dropped beyond a bound."""
        if len(self._jobs) > LATER_MAX:
            logger.error("the database has been away too long: a settlement is dropped and will be swept")
            return
        self._submit(_Job(batch, item, lasting=True))

    def flush(self, seconds: float) -> None:
        """Wait until everything submitted is committed, for at most `seconds`."""
        self._wanted.set()
        give_up = time.monotonic() + seconds
        while self._jobs and time.monotonic() < give_up:
            time.sleep(0.01)

    def close(self, seconds: float) -> None:
        """Commit what is waiting, if that takes no longer than `seconds`, and let go of the connection."""
        self.flush(seconds)
        self._closed = True
        self._wanted.set()
        if self._thread is not None:
            self._thread.join(seconds)
        self._disconnect()

    def _submit(self, job: _Job) -> None:
        self._jobs.append(job)
        if not job.lasting or self._idle:
            self._wanted.set()
        if self._thread is None:
            with self._lock:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
                    self._thread.start()

    def _give_up(self, job: _Job) -> bool:
        """Nobody waits any more; False when it is finished already."""
        with self._lock:
            job.given_up = not job.finished
        return job.given_up

    def _finish(self, job: _Job) -> None:
        """It is over; what nobody waited for is undone."""
        with self._lock:
            job.finished = True
        job.done.set()
        if job.given_up and job.undo is not None and not isinstance(job.outcome, Exception):
            undo, outcome = job.undo, job.outcome
            self.write_later(each, lambda connection: undo(connection, outcome))

    def _run(self) -> None:
        while not self._closed:
            if not self._wanted.wait(COMPANY_SECONDS):
                self._idle = True
                if not self._jobs:
                    self._wanted.wait()
                self._idle = False
            self._wanted.clear()
            while self._jobs and not self._closed:
                jobs = [self._jobs[index] for index in range(min(BATCH_MAX, len(self._jobs)))]
                if not self._commit(jobs):
                    time.sleep(RETRY_SECONDS)

    def _commit(self, jobs: list[_Job]) -> bool:
        """Run some jobs; False when the database is away, and only lasting ones are left waiting."""
        try:
            offload(lambda: self._execute(jobs))
        except Exception as exc:
            return self._failed(jobs, exc)
        self._failing = False
        for job in jobs:
            self._jobs.remove(job)
            self._finish(job)
        return True

    def _execute(self, jobs: list[_Job]) -> None:
        if self._connection is not None and not self._is_ours():
            # SQLite would go on writing to a file that has no name any more, and all of it would be lost.
            raise FileNotFoundError("the database file was taken away")
        if self._connection is None:
            self._connection = self._connect()
        together: dict[Batch, list[_Job]] = {}
        for job in jobs:
            job.outcome = unavailable() if job.given_up else None
            if not job.given_up:
                together.setdefault(job.batch, []).append(job)
        with self._connection.begin():
            for batch, members in together.items():
                outcomes = batch(self._connection, [job.item for job in members])
                for job, outcome in zip(members, outcomes, strict=True):
                    job.outcome = outcome

    def _failed(self, jobs: list[_Job], exc: Exception) -> bool:
        """Isolate a job that breaks a batch; when a single one fails, its caller is told or it is tried later."""
        if len(jobs) > 1 and _is_the_jobs_fault(exc):
            outcomes = [self._commit([job]) for job in jobs]
            return all(outcomes)
        if not self._failing:
            self._failing = True
            logger.error("the database fails", exc_info=exc)
        self._disconnect()
        for job in jobs:
            if job.lasting and not isinstance(exc, sa.exc.IntegrityError | sa.exc.DataError):
                continue
            self._jobs.remove(job)
            job.outcome = unavailable()
            self._finish(job)
        return False

    def _disconnect(self) -> None:
        """The next batch starts on a new connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                offload(connection.invalidate)
                offload(connection.close)


def each(connection: sa.Connection, works: Sequence[Work]) -> list[Any]:
    """The batch of unlike works: each does its own."""
    return [_outcome(work, connection) for work in works]


def _outcome(work: Work, connection: sa.Connection) -> Any:
    try:
        return work(connection)
    except ServiceException as exc:
        return exc


def _is_the_jobs_fault(exc: Exception) -> bool:
    """Whether the database is well and the same jobs, one by one, may succeed but for one of them."""
    state = getattr(getattr(exc, "orig", None), "sqlstate", None)
    return isinstance(exc, sa.exc.IntegrityError | sa.exc.DataError) or state in DEADLOCK_STATES


def offload(work: Callable[[], Result]) -> Result:
    """Run `work` where it may block: in a system thread under gevent, else here."""
    from gevent import get_hub, monkey

    if not monkey.is_module_patched("threading"):
        return work()

    def guarded() -> tuple[Result | None, Exception | None]:
        # What leaves a pool's thread as an exception is printed by gevent, and lost where that cannot be written.
        try:
            return work(), None
        except Exception as exc:
            return None, exc

    result, error = get_hub().threadpool.apply(guarded)
    if error is not None:
        raise error
    return cast(Result, result)


def unavailable() -> ChatServiceException:
    """The answer while the database is away: it is never the caller's token that is wrong."""
    return ChatServiceException("The server's records are not available; try again shortly", "store_unavailable")
