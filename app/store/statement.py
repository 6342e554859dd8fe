"""Statement: SQL that every request runs, compiled once from the tables and given to the driver as it is.

Without it each statement would go through SQLAlchemy's own way of executing, which takes longer than SQLite takes to
run it (docs/performance, "Where the time goes"). Values go in and come out by name.

This is the one module that reaches below SQLAlchemy's public interface: a dialect made anew for another style of
parameters, the driver's module (`loaded_dbapi`) and the driver's cursor. `tests/unit/test_private_parts.py` notices
when SQLAlchemy changes them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa

Row = Mapping[str, Any]

PARAMSTYLES = {"sqlite": "named", "postgresql": "pyformat"}
"""How each driver takes values by name. Source: PEP 249, "paramstyle"."""


class Statement:
    """`columns`: for an INSERT, the names of the values that are given."""

    def __init__(self, clause: sa.ClauseElement, columns: Sequence[str] | None = None) -> None:
        self._clause = clause
        self._columns = columns
        self._texts: dict[str, str] = {}

    def many(self, connection: sa.Connection, rows: Sequence[Row]) -> None:
        """Run it once for each row of values. Raises sqlalchemy.exc.DBAPIError."""
        self._run(connection, "executemany", rows)

    def rows(self, connection: sa.Connection, **values: Any) -> list[dict[str, Any]]:
        """Run it and give the rows it finds, by column name. Raises sqlalchemy.exc.DBAPIError."""
        cursor = self._run(connection, "execute", values)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def _run(self, connection: sa.Connection, method: str, values: Any) -> Any:
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
            by_name: Any = type(dialect)
            compiled = self._clause.compile(
                dialect=by_name(paramstyle=PARAMSTYLES[dialect.name]), column_keys=self._columns
            )
            text = self._texts[dialect.name] = str(compiled)
        return text
