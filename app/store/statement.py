"""SQL that every request runs, compiled once from the tables and given to the driver as it is.

Without it each statement would go through SQLAlchemy's own way of executing, which takes longer than SQLite takes to
run it (docs/performance, "Where the time goes"). Values go in and come out by name.

Many rows are written by one call. The driver's `executemany` lets go of Python's lock for each row and waits to have it
back: with 1,000 requests in flight each row would wait for a request, and all of them for the rows
(`test_many_rows_are_one_call`).

This is the one module that reaches below SQLAlchemy's public interface: a dialect made anew for another style of
parameters, the order of a compiled statement's parameters (`positiontup`), the driver's module (`loaded_dbapi`) and the
driver's cursor. `tests/unit/test_private_parts.py` notices when SQLAlchemy changes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

Row = Mapping[str, Any]

PARAMSTYLES = {"sqlite": "named", "postgresql": "pyformat"}
"""How each driver takes values by name. Source: PEP 249, "paramstyle"."""
POSITIONAL = {"sqlite": "qmark", "postgresql": "format"}
"""How it takes them in order."""
SIZES = (64, 32, 16, 8, 4, 2, 1)
"""How many rows one call writes; a statement is compiled for each number. SQLite takes up to 32,766 values."""


class Statement:
    """`columns`: for an INSERT, the names of the values that are given."""

    def __init__(self, clause: sa.ClauseElement, columns: Sequence[str] | None = None) -> None:
        self._clause = clause
        self._columns = columns
        self._texts: dict[str, str] = {}

    def run(self, connection: sa.Connection, **values: Any) -> None:
        """Run it. Raises sqlalchemy.exc.DBAPIError."""
        _run(connection, self._text(connection.dialect), values)

    def rows(self, connection: sa.Connection, **values: Any) -> list[dict[str, Any]]:
        """Run it and give the rows it finds, by column name. Raises sqlalchemy.exc.DBAPIError."""
        cursor = _run(connection, self._text(connection.dialect), values)
        names = [column[0] for column in cursor.description]
        return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]

    def _text(self, dialect: sa.Dialect) -> str:
        text = self._texts.get(dialect.name)
        if text is None:
            compiled = _compile(self._clause, dialect, PARAMSTYLES, self._columns)
            text = self._texts[dialect.name] = str(compiled)
        return text


class RowsStatement:
    """SQL that takes rows of values: `build` makes it from the table of these rows, whose columns are `columns`."""

    def __init__(
        self, build: Callable[[sa.Subquery], sa.ClauseElement], columns: Mapping[str, sa.types.TypeEngine[Any]]
    ) -> None:
        self._build = build
        self._columns = columns
        self._texts: dict[tuple[str, int], str] = {}

    def run(self, connection: sa.Connection, rows: Sequence[Row]) -> None:
        """Run it for some rows. Raises sqlalchemy.exc.DBAPIError."""
        names = tuple(self._columns)
        for part in _parts(rows):
            _run(connection, self._text(connection.dialect, len(part)), [row[name] for row in part for name in names])

    def _text(self, dialect: sa.Dialect, size: int) -> str:
        text = self._texts.get((dialect.name, size))
        if text is None:
            order = [f"{name}_{number}" for number in range(size) for name in self._columns]
            # PostgreSQL does not guess the types of the values of a subquery.
            values = [
                sa.select(
                    *(
                        sa.cast(sa.bindparam(f"{name}_{number}"), kind).label(name)
                        for name, kind in self._columns.items()
                    )
                )
                for number in range(size)
            ]
            compiled = _compile(self._build(sa.union_all(*values).subquery("given")), dialect, POSITIONAL)
            if compiled.positiontup != order:
                raise AssertionError("the values of a statement are not in the order of its rows")
            text = self._texts[dialect.name, size] = str(compiled)
        return text


def _parts(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """The rows in parts of SIZES."""
    start = 0
    for size in SIZES:
        while len(rows) - start >= size:
            yield rows[start : start + size]
            start += size


def _compile(
    clause: sa.ClauseElement, dialect: sa.Dialect, styles: Mapping[str, str], columns: Sequence[str] | None = None
) -> Any:
    by_name: Any = type(dialect)
    return clause.compile(dialect=by_name(paramstyle=styles[dialect.name]), column_keys=columns)


def _run(connection: sa.Connection, text: str, values: Any) -> Any:
    dbapi = connection.dialect.loaded_dbapi
    try:
        cursor: Any = connection.connection.cursor()
        cursor.execute(text, values)
    except dbapi.Error as exc:
        raise sa.exc.DBAPIError.instance(text, None, exc, dbapi.Error, dialect=connection.dialect) from exc
    return cursor
