"""Which tables this version knows; a look at SQLite's file for gunicorn's master, which must not load SQLAlchemy."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from app.errors import ConfigurationException

REVISION = "0010"
"""The newest migration."""


class NewerDatabase(ConfigurationException):
    """The tables were made by a later version of this server."""

    def __init__(self, revision: str) -> None:
        message = (
            f"DATABASE_URL leads to a database of a newer version of this server (its tables are {revision}, this "
            f"version knows {REVISION}); install that version, or restore a backup"
        )
        super().__init__(message, "DATABASE_URL", error_code="store_unavailable")


def check_revision(found: str | None) -> None:
    """Raise NewerDatabase unless this version knows the tables. Revisions are numbered in order."""
    if found is not None and found > REVISION:
        raise NewerDatabase(found)


def check_file(url: str) -> None:
    """Raise NewerDatabase when SQLite's file is of a newer version; what cannot be read is no matter here."""
    file = Path(url.removeprefix("sqlite:///"))
    if not url.startswith("sqlite:///") or not file.is_file():
        return
    found = None
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(file, timeout=1)) as connection:
        ((found,),) = connection.execute("SELECT version_num FROM alembic_version").fetchall() or [(None,)]
    check_revision(found)
