"""A PostgreSQL on this machine, the one that the tests have: what it uses, and how many deadlocks it saw."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import psutil
import sqlalchemy as sa

from bench.processes import DidNotStart

if TYPE_CHECKING:
    from tests.postgres import Postgres


@dataclass(frozen=True)
class Running:
    """A server and one empty, migrated database."""

    url: str
    server: Postgres

    @property
    def cpu_seconds(self) -> float:
        """User and system time of all its processes that run now; connections that were closed are not in it."""
        total = 0.0
        for process in self.server.processes():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def deadlocks(self) -> int:
        """How many deadlocks this database has seen; ask when nobody is connected, for only then all are counted."""
        return self._asked("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")

    def version(self) -> int:
        """The number that PostgreSQL gives itself: 180004 is 18.4."""
        return self._asked("SELECT current_setting('server_version_num')")

    def _asked(self, statement: str) -> int:
        engine = sa.create_engine(self.url, poolclass=sa.NullPool)
        with engine.connect() as connection:
            return int(connection.execute(sa.text(statement)).scalar_one())


@contextlib.contextmanager
def started() -> Iterator[Running]:
    """For a block; it comes with the packages of the tests, which `make install-bench` installs."""
    try:
        from tests.postgres import Postgres
    except ImportError as exc:
        raise DidNotStart(f"the package {exc.name} is not installed: make install-test") from exc
    with Postgres() as server, server.database() as url:
        yield Running(url, server)
