"""SQL that every request runs, compiled once from the tables and given to the driver as it is.

Without it each statement would go through SQLAlchemy's own way of executing, which takes longer than SQLite takes to
run it (docs/performance, "Where the time goes"). Values go in and come out by name.

Many rows are written by one call. The driver's `executemany` lets go of Python's lock for each row and waits to have it
back: with 1,000 requests in flight each row would wait for a request, and all of them for the rows
(`test_many_rows_are_one_call`). SQLite is given their values. PostgreSQL is given one JSON text, which takes psycopg a
sixth and the server a third of the time; for SQLite it is the other way round.

This is the one module that reaches below SQLAlchemy's public interface: a dialect made anew for another style of
parameters, the order of a compiled statement's parameters (`positiontup`), the driver's module (`loaded_dbapi`) and the
driver's cursor. `tests/unit/test_private_parts.py` notices when SQLAlchemy changes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from app.json_bytes import dump_json
from app.store.fitting import fit_for

Row = Mapping[str, Any]

PARAMSTYLES = {"sqlite": "named", "postgresql": "pyformat"}
"""How each driver takes values by name. Source: PEP 249, "paramstyle"."""
POSITIONAL = {"sqlite": "qmark"}
"""How it takes them in order."""
SIZES = (64, 32, 16, 8, 4, 2, 1)
"""How many rows one call writes; a statement is compiled for each number. SQLite takes up to 32,766 values."""
ANY = 0
"""As many as there are."""
PLACE = "place"
"""The column with a row's place among the rows of one call."""


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
        return _read(_run(connection, self._text(connection.dialect), values))

    def _text(self, dialect: sa.Dialect) -> str:
        text = self._texts.get(dialect.name)
        if text is None:
            compiled = _compile(self._clause, dialect, PARAMSTYLES, self._columns)
            text = self._texts[dialect.name] = str(compiled)
        return text


class RowsStatement:
    """SQL that takes rows of values, which are made to fit their columns (app/store/fitting.py).

    `build` makes it from the table of these rows; that has PLACE and `columns`.
    """

    def __init__(
        self, build: Callable[[sa.FromClause], sa.ClauseElement], columns: Mapping[str, sa.types.TypeEngine[Any]]
    ) -> None:
        self._build = build
        self._columns = columns
        self._names = (*columns, PLACE)
        self._fits = [(name, fit_for(kind)) for name, kind in columns.items()]
        self._texts: dict[tuple[str, int], str] = {}

    def run(self, connection: sa.Connection, rows: Sequence[Row]) -> None:
        """Run it for some rows. Raises sqlalchemy.exc.DBAPIError."""
        for _ in self._cursors(connection, rows):
            pass

    def rows(self, connection: sa.Connection, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """Run it for some rows and give what it returns, by column name. Raises sqlalchemy.exc.DBAPIError."""
        return [row for cursor in self._cursors(connection, rows) for row in _read(cursor)]

    def _cursors(self, connection: sa.Connection, rows: Sequence[Row]) -> Iterator[Any]:
        if connection.dialect.name == "postgresql":
            if rows:
                told = [
                    dict(zip(self._names, (*self._fitted(row), place), strict=True)) for place, row in enumerate(rows)
                ]
                yield _run(connection, self._text(connection.dialect, ANY), {"given": dump_json(told).decode()})
            return
        for part in _parts(rows):
            values = [value for row in part for value in self._fitted(row)]
            yield _run(connection, self._text(connection.dialect, len(part)), values)

    def _fitted(self, row: Row) -> list[Any]:
        return [value if (value := row[name]) is None or fit is None else fit(value) for name, fit in self._fits]

    def _text(self, dialect: sa.Dialect, size: int) -> str:
        text = self._texts.get((dialect.name, size))
        if text is None:
            text = self._texts[dialect.name, size] = (
                self._in_json(dialect) if size == ANY else self._listed(dialect, size)
            )
        return text

    def _in_json(self, dialect: sa.Dialect) -> str:
        """The text for any number of rows, which are one value."""
        given = sa.func.json_to_recordset(sa.cast(sa.bindparam("given"), sa.JSON)).table_valued(
            *(sa.column(name, kind) for name, kind in self._columns.items()), sa.column(PLACE, sa.Integer)
        )
        return str(_compile(self._build(given.render_derived(name="given", with_types=True)), dialect, PARAMSTYLES))

    def _listed(self, dialect: sa.Dialect, size: int) -> str:
        """The text for so many rows, whose values are given in order."""
        values = [
            sa.select(
                *(sa.bindparam(f"{name}_{number}", type_=kind).label(name) for name, kind in self._columns.items()),
                sa.literal_column(str(number)).label(PLACE),
            )
            for number in range(size)
        ]
        compiled = _compile(self._build(sa.union_all(*values).subquery("given")), dialect, POSITIONAL)
        if compiled.positiontup != [f"{name}_{number}" for number in range(size) for name in self._columns]:
            raise AssertionError("the values of a statement are not in the order of its rows")
        return str(compiled)


def _parts(rows: Sequence[Row]) -> Iterator[Sequence[Row]]:
    """The rows in parts of SIZES."""
    start = 0
    for size in SIZES:
        while len(rows) - start >= size:
            yield rows[start : start + size]
            start += size


def _read(cursor: Any) -> list[dict[str, Any]]:
    found = cursor.fetchall()
    names = [column[0] for column in cursor.description]
    return [dict(zip(names, row, strict=True)) for row in found]


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
