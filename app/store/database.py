"""Database: SQLite or PostgreSQL, its tables kept up to date, its writes grouped, its reads beside them."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import sqlalchemy as sa

from app.errors import ServiceException
from app.store.engine import bound_lock_wait, make_engine
from app.store.revision import REVISION, check_revision
from app.store.threads import make_lock, offload, wait_until
from app.store.writer import LOCK_SECONDS, Batch, Writer, each, unavailable

Result = TypeVar("Result")
ERASE_SECONDS = 2.0
"""How long a deletion waits until what is deleted is gone from SQLite's log as well; housekeeping goes on with it."""
TRUNCATE_WAIT_MS = 20
"""Meanwhile nobody writes: SQLite waits for readers with its lock held."""
GONE = "the database file is gone; put it back, or restart to begin a new one"


class Flag(Protocol):
    """What is true from some moment on, as threading.Event has it."""

    def is_set(self) -> bool:
        """Whether that moment was."""

    def set(self) -> None:
        """It is now."""


class Database:
    """`timeout_seconds` bounds how long a caller waits for a write or a read.

    `prepared`: whether PostgreSQL may prepare statements that repeat. `alone`: no other worker writes all the time.
    """

    def __init__(self, url: str, *, timeout_seconds: float = 3.0, prepared: bool = True, alone: bool = False) -> None:
        self._url = sa.make_url(url)
        self._timeout_seconds = timeout_seconds
        self.engine = make_engine(self._url, timeout_seconds, prepared=prepared)
        self._reading = make_engine(self._url, timeout_seconds, reading=True, prepared=prepared)
        self._bounds_each = not prepared
        self._writer = Writer(
            self._writing_connection,
            lambda: self._files() == self._opened,
            takes_turns=not alone and self._url.get_backend_name() == "sqlite",
            bounds_each=self._bounds_each,
        )
        self._migrating = make_lock()
        self._opened: list[tuple[int, int] | None] = []
        self._migrated = False
        self.made: Flag = threading.Event()
        """Whether the tables are there; all workers of a server share one. A worker that takes another's place must
        not begin an empty database where theirs was taken away: it would know no client."""
        self._clock_offset: float | None = None
        self._erased, self._emptied = 1, 0
        """Deletions, and after how many of them SQLite's log was emptied. At its start a worker cannot know whether
        another has left something there."""
        self._hanging: set[str] = set()
        self._counting = make_lock()
        self._running, self._closed = 0, False
        """What runs beside the writer; after close() nothing more begins."""

    @property
    def waiting(self) -> int:
        """Writes not committed yet."""
        return self._writer.waiting

    @property
    def set_aside(self) -> int:
        """Writes that were given up because they failed by their own fault."""
        return self._writer.set_aside

    @property
    def deadlocks(self) -> int:
        """Transactions that PostgreSQL has ended because two waited for each other; they are tried again."""
        return self._writer.deadlocks

    def migrate(self) -> None:
        """Bring the tables up to date; workers that start together wait for each other.

        Raises FileNotFoundError where they were there and are not any more.
        """
        if self.made.is_set() and (self._is_gone() or self._revision() is None):
            raise FileNotFoundError(GONE)
        # One thread at a time: Alembic is loaded, which takes locks of gevent's, and keeps what it does in globals.
        with self._migrating:
            self._make_tables()
        self.made.set()

    def _make_tables(self) -> None:
        if self._url.get_backend_name() == "sqlite" and self._url.database:
            _make_private(Path(self._url.database))
        found = self._revision()
        if found == REVISION:
            return
        check_revision(found)
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

    def write(self, work: Callable[[sa.Connection], Result]) -> Result:
        """Run `work` in a transaction and return its result once that is durable.

        Raises what `work` raises, and ChatServiceException `store_unavailable` when the database does not answer in
        time.
        """
        result: Result = self.write_with_others(each, work)
        return result

    def write_with_others(
        self, batch: Batch, item: Any, *, undo: Callable[[sa.Connection, Any], None] | None = None
    ) -> Any:
        """Run `batch` with `item` and what others have submitted for it; see Writer.write."""
        return self._writer.write(batch, item, self._timeout_seconds, undo=undo)

    def write_later(self, batch: Batch, item: Any) -> None:
        """Run `batch` with `item` soon, and again until it succeeds; the caller does not wait."""
        self._writer.write_later(batch, item)

    def write_and_tell(self, batch: Batch, item: Any) -> Callable[[float], bool]:
        """The same; gives what waits, for at most so many seconds, and tells whether it is durable."""
        return self._writer.write_and_tell(batch, item)

    def erase(self, work: Callable[[sa.Connection], Result], *, seconds: float = ERASE_SECONDS) -> Result:
        """As `write`, for work that deletes what must not be found on the disk any more.

        Waits for at most `seconds` until it is gone from SQLite's log as well, which takes a moment without readers.
        """
        result = self.write(work)
        self.empty_log(seconds)
        return result

    def empty_log(self, seconds: float) -> bool:
        """Take what was deleted and replaced until now out of SQLite's log; False where others have kept it busy for so
        long: then the next checkpoints go on with it."""
        self._erased += 1
        erased, give_up = self._erased, time.monotonic() + seconds
        while self._emptied < erased and time.monotonic() < give_up:
            with contextlib.suppress(ServiceException):
                self.checkpoint()
            if self._emptied < erased:
                time.sleep(0.01)
        return self._emptied >= erased

    def read(self, work: Callable[[sa.Connection], Result]) -> Result:
        """Run `work` on a connection of its own, beside the writer.

        Raises what `work` raises, and ChatServiceException `store_unavailable` when the database does not answer in
        time: also one that accepts connections and then says nothing. Making the tables may take longer.
        """

        return self._offloaded(lambda: self._run(self._reading, work))

    def run_aside(self, work: Callable[[sa.Connection], Result], *, writes: bool, about: str = "") -> Result:
        """Run `work` beside the requests' reads and writes, none of which fails or waits when it fails or hangs.

        One at a time, `about` each thing: while the last one hangs no other begins. What was given up may be committed
        all the same. Raises as `read` does.
        """
        if about in self._hanging:
            raise unavailable()

        def run() -> Result:
            self._hanging.add(about)
            try:
                return self._run(self.engine if writes else self._reading, work)
            finally:
                self._hanging.discard(about)

        return self._offloaded(run)

    def _run(self, engine: sa.Engine, work: Callable[[sa.Connection], Result]) -> Result:
        """Run `work` in this thread, in a transaction of its own; raises as `read` does."""
        with self._counting:
            if self._closed:
                raise unavailable()
            self._running += 1
        try:
            if not self._migrated:
                self.migrate()
                self._migrated = True
            elif self._is_gone():
                # To connect would make an empty file.
                raise unavailable()
            # Begun here: a Statement passes SQLAlchemy by, which would begin with the first of its own.
            with engine.begin() as connection:
                return work(connection)
        except (sa.exc.SQLAlchemyError, OSError) as exc:
            raise unavailable() from exc
        finally:
            with self._counting:
                self._running -= 1

    def _offloaded(self, run: Callable[[], Result]) -> Result:
        try:
            return offload(run, self._timeout_seconds if self._migrated else None)
        except TimeoutError as exc:
            raise unavailable() from exc

    def is_writable(self) -> bool:
        """Tell whether a transaction can be committed now, and the ledger has not met a broken part of the file."""
        try:
            self.write(lambda connection: connection.execute(sa.text("UPDATE clients SET name = name WHERE id = -1")))
        except ServiceException:
            return False
        return not self._writer.is_corrupt

    def checkpoint(self) -> None:
        """Move what SQLite has committed from its log into the file, beside the writer; PostgreSQL does it itself.

        The log is emptied where it may have what was deleted. While others read or write that fails, and is tried again
        with the next checkpoint.
        """
        erased = self._erased
        if self._url.get_backend_name() != "sqlite":
            self._emptied = erased
        elif self._migrated and self._emptied == erased:
            self.read(lambda connection: connection.exec_driver_sql("PRAGMA wal_checkpoint(PASSIVE)").all())
        elif self._migrated and self.read(_empty_log):
            self._emptied = erased

    def clock(self) -> float:
        """Seconds since 1970, by PostgreSQL's clock where machines share one, else by this machine's.

        PostgreSQL is asked when the writer connects, with each sweep, and before who rests is read; in between the
        process's own monotonic clock goes on.
        """
        if self._clock_offset is None:
            return time.time()
        return time.monotonic() + self._clock_offset

    def flush(self, seconds: float) -> None:
        """Wait until everything submitted is committed, for at most `seconds`."""
        self._writer.flush(seconds)

    def close(self) -> None:
        """Commit what is waiting, as long as that takes no longer than a write may, and let go of the database.

        What others read is waited for as long; nobody begins to read any more.
        """
        self._writer.close(self._timeout_seconds)
        with self._counting:
            self._closed = True
        wait_until(lambda: not self._running, self._timeout_seconds)
        for engine in (self.engine, self._reading):
            engine.dispose()

    def _writing_connection(self) -> sa.Connection:
        """Make the tables, but only once: an empty database in place of ours would know no client's token."""
        if not self._migrated:
            self.migrate()
        elif self._is_gone() or self._revision() != REVISION:
            raise FileNotFoundError(GONE)
        connection = self.engine.connect()
        with connection.begin():
            self.read_clock(connection)
            if not self._bounds_each:
                bound_lock_wait(connection, LOCK_SECONDS, scope="SESSION")
        if self._opened[:1] != [self._file()]:
            self._writer.is_corrupt = False
        self._opened, self._migrated = self._files(), True
        return connection

    def read_clock(self, connection: sa.Connection) -> None:
        """Compare this process's clock with PostgreSQL's."""
        if connection.dialect.name == "postgresql":
            seconds = connection.execute(sa.text("SELECT extract(epoch FROM clock_timestamp())")).scalar_one()
            self._clock_offset = float(seconds) - time.monotonic()

    def _revision(self) -> str | None:
        """Which tables there are; None when there are none."""
        with self._reading.connect() as connection:
            if not sa.inspect(connection).has_table("alembic_version"):
                return None
            return connection.execute(sa.text("SELECT version_num FROM alembic_version")).scalar()

    def _is_gone(self) -> bool:
        """Whether SQLite's file has been taken away."""
        return self._url.get_backend_name() == "sqlite" and bool(self._url.database) and self._file() is None

    def _files(self) -> list[tuple[int, int] | None]:
        """Which files lie at SQLite's path: the database and its log. What is written to a log without a name is lost
        as surely as what is written to such a database."""
        return [self._file(), self._file("-wal")]

    def _file(self, suffix: str = "") -> tuple[int, int] | None:
        """Which file lies at SQLite's path; None when there is none, and for PostgreSQL."""
        if self._url.get_backend_name() != "sqlite" or not self._url.database:
            return None
        try:
            found = os.stat(self._url.database + suffix)
        except OSError:
            return None
        return found.st_dev, found.st_ino


def _empty_log(connection: sa.Connection) -> bool:
    """Empty SQLite's log; False while others read or write."""
    connection.exec_driver_sql(f"PRAGMA busy_timeout={TRUNCATE_WAIT_MS}")
    (is_busy, *_) = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").one()
    return not is_busy


def _make_private(file: Path) -> None:
    """Make SQLite's file, and its directory, for their owner alone; SQLite gives its log (WAL) the file's mode.

    What is there already keeps its mode.
    """
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with contextlib.suppress(FileExistsError):
        os.close(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
