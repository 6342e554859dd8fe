"""Statement: SQL that every request runs, compiled once from the tables and given to the driver as it is.

SQLAlchemy's own way to execute a statement takes longer than SQLite takes to run it (docs/performance).

This is the one module that reaches below SQLAlchemy's public interface: the order of the values in a compiled statement
(`positiontup`), the driver's module (`loaded_dbapi`) and the driver's cursor. `tests/test_private_parts.py` notices
when SQLAlchemy changes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import sqlalchemy as sa


class Statement:
    """`parameters` are the names of the values, in the order in which they are given."""

    def __init__(self, clause: sa.ClauseElement, *parameters: str) -> None:
        self._clause = clause
        self._parameters = parameters
        self._texts: dict[str, str] = {}

    def many(self, connection: sa.Connection, rows: Sequence[Sequence[Any]]) -> None:
        """Run it once for each row of values. Raises sqlalchemy.exc.DBAPIError."""
        self._run(connection, "executemany", rows)

    def rows(self, connection: sa.Connection, *values: Any) -> list[Any]:
        """Run it and give the rows it finds, as tuples. Raises sqlalchemy.exc.DBAPIError."""
        return list(self._run(connection, "execute", values).fetchall())

    def _run(self, connection: sa.Connection, method: str, values: Sequence[Any]) -> Any:
        text, dbapi = self._text(connection.dialect), connection.dialect.loaded_dbapi
        try:
            cursor: Any = connection.connection.cursor()
            getattr(cursor, method)(text, values)
        except dbapi.Error as exc:
            raise sa.exc.DBAPIError.instance(text, None, exc, dbapi.Error, dialect=connection.dialect) from exc
        return cursor

    def _text(self, dialect: sa.Dialect) -> str:
        text = self._texts.get(dialect.name)
        if text is None:
            compiled: Any = self._clause.compile(dialect=dialect, column_keys=self._parameters)
            assert tuple(compiled.positiontup) == self._parameters, compiled.positiontup
            text = self._texts[dialect.name] = str(compiled)
        return text
