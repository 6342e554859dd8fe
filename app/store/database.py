"""Database: SQLite or PostgreSQL behind one writer per worker, which commits many requests' writes at once.

What a caller waits for is durable when it returns: `write` comes back after the commit. Work runs in a system thread
under gevent, so that a slow or locked database holds up nobody who does not need it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

import sqlalchemy as sa
from sqlalchemy.pool import NullPool

from app.errors import ChatServiceException, ServiceException

logger = logging.getLogger(__name__)

REVISION = "0001"
BATCH_MAX = 500
RETRY_SECONDS = 0.5
LATER_MAX = 100_000

Result = TypeVar("Result")
Work = Callable[[sa.Connection], Any]


@dataclass(eq=False)
class _Job:
    """One piece of work. `undo` takes back what nobody waited for; `lasting` work is tried until it is done."""

    work: Work
    lasting: bool = False
    undo: Work | None = None
    done: threading.Event = field(default_factory=threading.Event)
    result: Any = None
    error: Exception | None = None
    given_up: bool = False
    finished: bool = False
    lock: Any = field(default_factory=threading.Lock)

    def give_up(self) -> bool:
        """Nobody waits any more; False when it is finished already."""
        with self.lock:
            self.given_up = not self.finished
        return self.given_up

    def finish(self) -> bool:
        """It is over; False when nobody waited for that."""
        with self.lock:
            self.finished = True
        self.done.set()
        return not self.given_up


class Database:
    """`timeout_seconds` bounds how long a caller waits for a write or a read."""

    def __init__(self, url: str, *, timeout_seconds: float = 3.0) -> None:
        self._url = sa.make_url(url)
        self._timeout_seconds = timeout_seconds
        self.engine = _engine(self._url, timeout_seconds)
        self._reading = _engine(self._url, timeout_seconds, begin="BEGIN")
        self._jobs: deque[_Job] = deque()
        self._wanted = threading.Event()
        self._writer: threading.Thread | None = None
        self._lock = threading.Lock()
        self._failing = False
        self._connection: sa.Connection | None = None
        self._opened: tuple[int, int] | None = None
        self._closed = False

    @property
    def waiting(self) -> int:
        """Jobs not committed yet."""
        return len(self._jobs)

    def migrate(self) -> None:
        """Bring the tables up to date; workers that start together wait for each other."""
        if self._url.get_backend_name() == "sqlite" and self._url.database:
            Path(self._url.database).parent.mkdir(parents=True, exist_ok=True)
        if self._revision() == REVISION:
            return
        # Imported only when there is something to do: it costs a third of a second.
        from alembic import command
        from alembic.config import Config as AlembicConfig

        config = AlembicConfig()
        config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
        with self.engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(sa.text("SELECT pg_advisory_xact_lock(5601)"))
            config.attributes["connection"] = connection
            command.upgrade(config, "head")

    def write(self, work: Callable[[sa.Connection], Result], *, undo: Work | None = None) -> Result:
        """Run `work` in a transaction and return its result once that is durable.

        Raises what `work` raises, and ChatServiceException `store_unavailable` when the database does not answer in
        time; `undo` runs if the write succeeds after all.
        """
        job = _Job(work, undo=undo)
        self._submit(job)
        if not job.done.wait(self._timeout_seconds) and job.give_up():
            raise unavailable()
        if job.error is not None:
            raise job.error
        result: Result = job.result
        return result

    def write_later(self, work: Work) -> None:
        """Run `work` soon, and again until it succeeds; nobody waits. The oldest are dropped beyond a bound."""
        if len(self._jobs) > LATER_MAX:
            logger.error("the database has been away too long: a settlement is dropped and will be swept")
            return
        self._submit(_Job(work, lasting=True))

    def read(self, work: Callable[[sa.Connection], Result]) -> Result:
        """Run `work` on a connection of its own, beside the writer."""

        def run() -> Result:
            try:
                if self._opened is None:
                    self.migrate()
                elif self._file() is None:
                    # To connect would make an empty file.
                    raise unavailable()
                with self._reading.connect() as connection:
                    return work(connection)
            except (sa.exc.SQLAlchemyError, OSError) as exc:
                raise unavailable() from exc

        return offload(run)

    def is_writable(self) -> bool:
        """Tell whether a transaction can be committed now."""
        try:
            self.write(lambda connection: connection.execute(sa.text("UPDATE clients SET name = name WHERE id = -1")))
        except ServiceException:
            return False
        return True

    def flush(self, seconds: float) -> None:
        """Wait until everything submitted is committed, for at most `seconds`."""
        give_up = time.monotonic() + seconds
        while self._jobs and time.monotonic() < give_up:
            time.sleep(0.01)

    def close(self) -> None:
        """Commit what is waiting, as long as that takes no longer than a write may, and let go of the database."""
        self.flush(self._timeout_seconds)
        self._closed = True
        self._wanted.set()
        if self._writer is not None:
            self._writer.join(self._timeout_seconds)
        self._disconnect()
        for engine in (self.engine, self._reading):
            engine.dispose()

    def _submit(self, job: _Job) -> None:
        self._jobs.append(job)
        self._wanted.set()
        if self._writer is None:
            with self._lock:
                if self._writer is None:
                    self._writer = threading.Thread(target=self._run, name="store-writer", daemon=True)
                    self._writer.start()

    def _run(self) -> None:
        while not self._closed:
            self._wanted.wait()
            self._wanted.clear()
            while self._jobs and not self._closed:
                batch = [self._jobs[index] for index in range(min(BATCH_MAX, len(self._jobs)))]
                if not self._commit(batch):
                    time.sleep(RETRY_SECONDS)

    def _commit(self, batch: list[_Job]) -> bool:
        """Run a batch; False when the database is away, and only lasting work is left waiting."""
        try:
            offload(lambda: self._execute(batch))
        except Exception as exc:
            return self._failed(batch, exc)
        self._failing = False
        for job in batch:
            self._jobs.remove(job)
            if not job.finish() and job.error is None and job.undo is not None:
                self.write_later(job.undo)
        return True

    def _execute(self, batch: list[_Job]) -> None:
        if self._connection is not None and self._file() != self._opened:
            # SQLite would go on writing to a file that has no name any more, and all of it would be lost.
            raise FileNotFoundError("the database file was taken away")
        if self._connection is None:
            self._prepare()
            self._connection = self.engine.connect()
            self._opened = self._file()
        with self._connection.begin():
            for job in batch:
                if job.given_up:
                    job.error = unavailable()
                    continue
                try:
                    job.result, job.error = job.work(self._connection), None
                except ServiceException as exc:
                    # A refusal has written nothing, so the others' work can go on.
                    job.error = exc

    def _prepare(self) -> None:
        """Make the tables, but only once: an empty database in place of ours would know no client's token."""
        if self._opened is None:
            self.migrate()
        elif self._file() is None or self._revision() != REVISION:
            raise FileNotFoundError("the database file is gone; put it back, or restart to begin a new one")

    def _revision(self) -> str | None:
        """Which tables there are; None when there are none."""
        with self._reading.connect() as connection:
            if not sa.inspect(connection).has_table("alembic_version"):
                return None
            return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()

    def _file(self) -> tuple[int, int] | None:
        """Which file lies at SQLite's path; None when there is none, and for PostgreSQL."""
        if self._url.get_backend_name() != "sqlite" or not self._url.database:
            return None
        try:
            found = os.stat(self._url.database)
        except OSError:
            return None
        return found.st_dev, found.st_ino

    def _disconnect(self) -> None:
        """The next batch starts on a new connection."""
        connection, self._connection = self._connection, None
        if connection is not None:
            with contextlib.suppress(Exception):
                offload(connection.invalidate)
                offload(connection.close)

    def _failed(self, batch: list[_Job], exc: Exception) -> bool:
        """Isolate a job that breaks a batch; when a single one fails, its caller is told or it is tried later."""
        if len(batch) > 1 and isinstance(exc, sa.exc.IntegrityError | sa.exc.DataError):
            outcomes = [self._commit([job]) for job in batch]
            return all(outcomes)
        if not self._failing:
            self._failing = True
            logger.error("the database fails", exc_info=exc)
        self._disconnect()
        for job in batch:
            if job.lasting and not isinstance(exc, sa.exc.IntegrityError | sa.exc.DataError):
                continue
            self._jobs.remove(job)
            job.error = unavailable()
            job.finish()
        return False


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


def _engine(url: sa.URL, timeout_seconds: float, *, begin: str = "BEGIN IMMEDIATE") -> sa.Engine:
    if url.get_backend_name() != "sqlite":
        return sa.create_engine(url, pool_pre_ping=True, pool_size=4, max_overflow=4, pool_timeout=timeout_seconds)
    options = {"check_same_thread": False, "timeout": timeout_seconds}
    engine = sa.create_engine(url, connect_args=options, poolclass=NullPool)

    @sa.event.listens_for(engine, "connect")
    def configure(connection: Any, _: Any) -> None:
        # The driver's own transaction handling begins too late for us; see "begin" below.
        connection.isolation_level = None
        try:
            for pragma in ("journal_mode=WAL", "synchronous=FULL", "foreign_keys=ON"):
                connection.execute(f"PRAGMA {pragma}")
        except Exception:
            # Whoever keeps the exception keeps the connection, and its locks would hold up every later one.
            connection.close()
            raise

    @sa.event.listens_for(engine, "begin")
    def begin_transaction(connection: sa.Connection) -> None:
        # Immediate: a transaction that reads before it writes must not fail when another has written meanwhile.
        connection.exec_driver_sql(begin)

    return engine
