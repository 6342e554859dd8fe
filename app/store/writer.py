"""Writer: one thread per worker, with one connection, that commits the writes of many requests at once.

Without it each request would begin and commit two transactions of its own, one at its start and one at its end. A
commit waits for the disk, and SQLite lets only one connection write at a time, so requests would wait for each other's
disk writes, and under gevent a commit would stop all other requests of the worker while it lasts.

Here a request hands in its write and waits. While one commit reaches the disk, the next writes gather, and the writer
commits them together: `test_many_writes_share_a_commit`. A write that nobody waits for is kept until the next one that
somebody waits for, so a request costs one commit and not two: `test_a_write_that_nobody_waits_for_costs_no_commit`.
The writer is a system thread under gevent, too, so a slow or locked database holds up only those who write:
`test_other_greenlets_go_on_while_the_database_is_slow`.

A write may fail by its own fault: a value that the database refuses, or any exception of its code. The database works
then, and nobody else may wait for it. The batch is halved until the faulty write is alone; it is set aside, logged and
counted, and all others are committed: `test_a_write_that_fails_by_its_own_fault_fails_alone`.

A row may be locked by a transaction that is not ours. The batch is halved for it in the same way, but what needs that
row is put off and tried again, by itself, until it succeeds or its caller waits no longer: `test_one_client_is_locked`.
"""

from __future__ import annotations

import contextlib
import logging
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from app.errors import ChatServiceException, ServiceException
from app.store.engine import ASK_SECONDS, bound_lock_wait
from app.store.threads import Bell, Done, make_done, make_lock, pause, start_thread, wait_until

logger = logging.getLogger(__name__)

BATCH_MAX = 500
RETRY_SECONDS = 0.5
HELD_SECONDS = 0.02
TURN_SECONDS = 3 * ASK_SECONDS
"""After so long at the database a writer of SQLite leaves it to the other workers for this moment."""
DEADLOCK_TRIES = 5
LATER_MAX = 100_000
COMPANY_SECONDS = 0.05
"""How long a write that nobody waits for is kept for the next one that somebody waits for."""
DEADLOCK_STATES = frozenset({"40001", "40P01"})
"""serialization_failure and deadlock_detected: the transaction may be tried again. Source: the manual of PostgreSQL,
appendix A, "Error Codes"."""
VALUE_ERRORS = sa.exc.IntegrityError | sa.exc.DataError | sa.exc.NotSupportedError
"""What a database says of values that it does not take."""
LOCKED = "55P03"
"""lock_not_available: another transaction has held a row for longer than was waited for it."""
LOCK_SECONDS = 1.0
"""For a row that another worker locks: it commits soon."""
SUSPECT_SECONDS = 0.05
"""For rows of which one is known to be locked for longer."""
LOCKED_TRIES = 20
"""So many halves of a batch are tried; with SUSPECT_SECONDS each, its other jobs wait for a second at most."""

Work = Callable[[sa.Connection], Any]
Batch = Callable[[sa.Connection, Sequence[Any]], Sequence[Any]]
"""Does the same work for many items in one transaction and gives an outcome for each, in order. An outcome that is a
ServiceException is a refusal: it is raised where that item's caller waits, and has written nothing."""


@dataclass(eq=False)
class _Job:
    """One item of a batch. `lasting`: no caller waits, and it is tried until it is done."""

    batch: Batch
    item: Any
    lasting: bool = False
    undo: Callable[[sa.Connection, Any], None] | None = None
    done: Done | None = None
    outcome: Any = None
    given_up: bool = False
    finished: bool = False
    is_suspect: bool = False
    """Whether it was put off because of a lock."""
    was_alone: bool = False
    """Whether it was put off by itself once: it needs the lock, and does not only stand beside one that does."""


class Writer:
    """`connect` gives the connection to write on, anew after a failure; it raises while there is no database.

    `takes_turns`: other workers write as often as this one, and only one can write at a time, as with SQLite.
    `bounds_each`: each transaction has to bound its waits for locks, since `connect` has not done it for all of them by
    LOCK_SECONDS.
    """

    def __init__(
        self,
        connect: Callable[[], sa.Connection],
        is_ours: Callable[[], bool],
        *,
        takes_turns: bool = False,
        bounds_each: bool = False,
    ) -> None:
        self._bounds_each = bounds_each
        self._takes_turns = takes_turns
        self._held_seconds = 0.0
        self._connect = connect
        self._is_ours = is_ours
        self._awaited: deque[_Job] = deque()
        self._later: deque[_Job] = deque()
        self._put_off: list[_Job] = []
        self._due = 0.0
        self._locked_tries = 0
        self._bell = Bell()
        self._lock = make_lock()
        self._is_running = False
        self._connection: sa.Connection | None = None
        self._failing = False
        self._reason: ServiceException = unavailable()
        self._idle = False
        self._flushing = False
        self._closed = False
        self.deadlocks = 0
        self.is_corrupt = False
        """Whether a part of SQLite's file that the ledger needs was found broken; work of other kinds may still do."""
        self.set_aside = 0
        """Writes that nobody waited for and that were given up, since they fail whenever they are tried."""

    @property
    def waiting(self) -> int:
        """Jobs not committed yet."""
        return len(self._awaited) + len(self._later) + len(self._put_off)

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
        done = make_done()
        job = _Job(batch, item, undo=undo, done=done)
        self._submit(job)
        if not done.wait(timeout_seconds) and self._give_up(job):
            raise unavailable()
        if isinstance(job.outcome, Exception):
            raise job.outcome
        return job.outcome

    def write_later(self, batch: Batch, item: Any) -> None:
        """Run `batch` with `item` soon, and again until it succeeds; nobody waits. Dropped beyond a bound."""
        if len(self._later) > LATER_MAX:
            logger.error("the database has been away too long: a settlement is dropped and will be swept")
            return
        self._submit(_Job(batch, item, lasting=True))

    def write_and_tell(self, batch: Batch, item: Any) -> Callable[[float], bool]:
        """The same at once, as somebody will wait for it: give what waits for at most so many seconds and tells whether
        it is durable. It is tried on when nobody waits any more."""
        job = _Job(batch, item, lasting=True, done=(done := make_done()))
        self._submit(job)
        return lambda seconds: done.wait(seconds) and not isinstance(job.outcome, Exception)

    def flush(self, seconds: float) -> None:
        """Wait until everything submitted is committed, for at most `seconds`."""
        self._flushing = True
        self._bell.ring()
        wait_until(lambda: not self.waiting, seconds)
        self._flushing = False

    def close(self, seconds: float) -> None:
        """Commit what is waiting, if that takes no longer than `seconds`, and let go of the connection."""
        self.flush(seconds)
        self._closed = True
        self._bell.ring()
        wait_until(lambda: not self._is_running, seconds)
        self._disconnect()

    def _submit(self, job: _Job) -> None:
        self._queue(job).append(job)
        if job.done is not None or self._idle:
            self._bell.ring()
        if not self._is_running:
            with self._lock:
                if not self._is_running and not self._closed:
                    self._is_running = True
                    start_thread(self._run)

    def _give_up(self, job: _Job) -> bool:
        """Mark that its caller waits no longer; False when it is finished already."""
        with self._lock:
            job.given_up = not job.finished
        return job.given_up

    def _finish(self, job: _Job) -> None:
        """The job is over; if its caller has given up meanwhile, what it wrote is undone."""
        with self._lock:
            job.finished = True
        if job.done is not None:
            job.done.set()
        if job.given_up and job.undo is not None and not isinstance(job.outcome, Exception):
            undo, outcome = job.undo, job.outcome
            self.write_later(each, lambda connection: undo(connection, outcome))

    def _run(self) -> None:
        try:
            while not self._closed:
                self._wait()
                # Settlements first: they make room for the next admissions.
                jobs = [*_first(self._later), *_first(self._awaited)]
                began = time.monotonic()
                if not self._commit(jobs) or not self._try_put_off():
                    pause(RETRY_SECONDS)
                self._leave_a_turn(time.monotonic() - began)
        finally:
            self._is_running = False

    def _wait(self) -> None:
        """Until somebody waits for a write, or a write that nobody waits for has been kept for about COMPANY_SECONDS.

        Who submits such a write rings only where nothing was written for as long: else it would wake this thread for
        nothing, which takes a twelfth of a request's processor time.
        """
        while not self._awaited and not self._closed and not self._is_due:
            if self._later and self._flushing:
                return
            if self._bell.wait(COMPANY_SECONDS):
                continue
            if self._later:
                return
            self._idle = True
            if not self._later:
                self._bell.wait(max(0.0, self._due - time.monotonic()) if self._put_off else None)
            self._idle = False

    def _leave_a_turn(self, seconds: float) -> None:
        self._held_seconds += seconds
        if self._takes_turns and self._held_seconds > HELD_SECONDS:
            self._held_seconds = 0.0
            pause(TURN_SECONDS)

    def _queue(self, job: _Job) -> deque[_Job]:
        return self._later if job.done is None else self._awaited

    def _commit(self, jobs: list[_Job]) -> bool:
        """Run some jobs, each kind in a transaction; False when the database is away.

        `each` is for work of any kind, which may lock rows in any order. So each such work has a transaction of its
        own, else two workers could wait for each other's rows.
        """
        self._locked_tries = 0
        kinds: dict[object, list[_Job]] = {}
        for job in jobs:
            kinds.setdefault(job if job.batch is each else job.batch, []).append(job)
        if all(self._commit_together(kind) for kind in kinds.values()):
            return True
        for job in jobs:
            if not job.lasting and not job.finished:
                self._remove(job, self._reason)
        return False

    def _commit_together(self, jobs: list[_Job], tries: int = 1) -> bool:
        try:
            self._execute(jobs)
        except Exception as exc:
            if _sqlstate(exc) == LOCKED:
                return self._halve_locked(jobs, exc)
            if not _is_the_jobs_fault(exc):
                return self._away(exc)
            self.deadlocks += _is_deadlock(exc)
            if _is_deadlock(exc) and tries < DEADLOCK_TRIES:
                return self._commit_together(jobs, tries + 1)
            return self._isolate(jobs, exc)
        self._failing = False
        for job in jobs:
            self._queue(job).remove(job)
            self._finish(job)
        return True

    def _execute(self, jobs: list[_Job]) -> None:
        """Run jobs of one kind in a transaction."""
        if self._connection is not None and not self._is_ours():
            # SQLite would go on writing to a file that has no name any more, and all of it would be lost.
            raise FileNotFoundError("the database file was taken away")
        if self._connection is None:
            self._connection = self._connect()
        for job in jobs:
            job.outcome = unavailable() if job.given_up else None
        wanted = [job for job in jobs if job.outcome is None]
        if not wanted:
            return
        with self._connection.begin():
            if self._put_off or self._locked_tries or wanted[0].is_suspect:
                bound_lock_wait(self._connection, SUSPECT_SECONDS, scope="LOCAL")
            elif self._bounds_each:
                bound_lock_wait(self._connection, LOCK_SECONDS, scope="LOCAL")
            outcomes = wanted[0].batch(self._connection, [job.item for job in wanted])
            for job, outcome in zip(wanted, outcomes, strict=True):
                job.outcome = outcome
        if wanted[0].batch is not each:
            self.is_corrupt = False

    def _halve_locked(self, jobs: list[_Job], exc: Exception) -> bool:
        """Halve jobs of which one needs a row that is locked; what is left after some tries is put off."""
        self._locked_tries += 1
        if len(jobs) > 1 and self._locked_tries < LOCKED_TRIES:
            half = len(jobs) // 2
            return all(self._commit_together(some) for some in (jobs[:half], jobs[half:]))
        if not self._put_off and not jobs[0].is_suspect:
            logger.warning("another transaction holds rows of the database; what needs them waits", exc_info=exc)
        for job in jobs:
            self._queue(job).remove(job)
            job.is_suspect, job.was_alone = True, job.was_alone or len(jobs) == 1
        self._put_off += jobs
        self._due = time.monotonic() + RETRY_SECONDS
        return True

    @property
    def _is_due(self) -> bool:
        return bool(self._put_off) and time.monotonic() >= self._due

    def _try_put_off(self) -> bool:
        """Try again what was put off, apart from the others; False when the database is away."""
        if not self._is_due:
            return True
        # Those that need the lock come last: they would use up the tries each time, at the cost of those beside them.
        jobs, self._put_off = sorted(self._put_off, key=lambda job: job.was_alone), []
        for job in jobs:
            self._queue(job).append(job)
        return self._commit(jobs)

    def _isolate(self, jobs: list[_Job], exc: Exception) -> bool:
        """Halve jobs of which one fails by its own fault; a single one is set aside, and its caller is told."""
        if len(jobs) > 1:
            half = len(jobs) // 2
            return all(self._commit_together(some) for some in (jobs[:half], jobs[half:]))
        (job,) = jobs
        logger.error("a write fails by its own fault and is set aside", exc_info=exc)
        self._disconnect()
        self.set_aside += job.lasting
        self._remove(job, ChatServiceException("This request could not be recorded", "internal_error"))
        return True

    def _remove(self, job: _Job, outcome: Exception) -> None:
        """The job is over and has written nothing."""
        self._queue(job).remove(job)
        job.outcome = outcome
        self._finish(job)

    def _away(self, exc: Exception) -> bool:
        """The database fails: what nobody waits for is tried later."""
        self._reason = exc if isinstance(exc, ServiceException) else unavailable()
        self.is_corrupt |= _is_corruption(exc)
        if not self._failing:
            self._failing = True
            what = exc.message if isinstance(exc, ServiceException) else "the database fails"
            logger.error("%s", what, exc_info=exc)
        self._disconnect()
        return False

    def _disconnect(self) -> None:
        """Close the connection; the next batch opens a new one."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                connection.invalidate()
                connection.close()


def each(connection: sa.Connection, works: Sequence[Work]) -> list[Any]:
    """The batch for work of different kinds: every item is a function that does its own."""
    return [_outcome(work, connection) for work in works]


def _outcome(work: Work, connection: sa.Connection) -> Any:
    try:
        return work(connection)
    except ServiceException as exc:
        return exc


def _is_the_jobs_fault(exc: Exception) -> bool:
    """Whether the database works and only some of these jobs fail: the others succeed without them."""
    if isinstance(exc, sa.exc.ProgrammingError | sa.exc.InterfaceError):
        # A value of a type that the driver does not know has no SQLSTATE; neither has a connection that was closed.
        return getattr(exc.orig, "sqlstate", None) is None and "closed" not in str(exc.orig)
    if isinstance(exc, sa.exc.DBAPIError):
        return isinstance(exc, VALUE_ERRORS) or _is_deadlock(exc)
    return not isinstance(exc, sa.exc.SQLAlchemyError | OSError | ServiceException)


def _is_deadlock(exc: Exception) -> bool:
    return _sqlstate(exc) in DEADLOCK_STATES


def _sqlstate(exc: Exception) -> str | None:
    return getattr(getattr(exc, "orig", None), "sqlstate", None)


def _is_corruption(exc: Exception) -> bool:
    code = getattr(getattr(exc, "orig", None), "sqlite_errorcode", 0)
    return code & 0xFF in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def _first(jobs: deque[_Job]) -> list[_Job]:
    """As many as go into a batch. By index: other threads append meanwhile, which an iterator does not allow."""
    return [jobs[index] for index in range(min(BATCH_MAX, len(jobs)))]


def unavailable() -> ChatServiceException:
    """The error while the database cannot be used: 503, and not 401, since the token may be right."""
    return ChatServiceException("The server's records are not available; try again shortly", "store_unavailable")
