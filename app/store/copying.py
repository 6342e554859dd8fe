"""Copies everything from one database into another that is still empty, as from SQLite to PostgreSQL."""

from __future__ import annotations

import sqlalchemy as sa

from app.errors import ValidationException
from app.store.database import Database
from app.store.tables import metadata

BATCH_ROWS = 1000


def copy_database(source: Database, target: Database) -> dict[str, int]:
    """Copy all tables; give the number of rows of each. All of it is there in the end, or nothing.

    Raises ValidationException unless the target is empty, and what a database raises.
    """
    source.migrate()
    target.migrate()
    with source.engine.connect() as reading, target.engine.begin() as writing:
        for table in metadata.sorted_tables:
            if writing.execute(sa.select(table).limit(1)).first() is not None:
                raise ValidationException("is not empty", "TARGET")
        copied = {table.name: _copy_table(table, reading, writing) for table in metadata.sorted_tables}
        reading.rollback()
    return copied


def _copy_table(table: sa.Table, reading: sa.Connection, writing: sa.Connection) -> int:
    number = 0
    rows = reading.execute(sa.select(table).order_by(*table.primary_key.columns))
    while batch := [dict(row._mapping) for row in rows.fetchmany(BATCH_ROWS)]:
        writing.execute(table.insert(), batch)
        number += len(batch)
    if number and writing.dialect.name == "postgresql":
        _go_on_after(table, writing)
    return number


def _go_on_after(table: sa.Table, writing: sa.Connection) -> None:
    """The next number that PostgreSQL gives comes after the largest that was copied."""
    for column in table.primary_key.columns:
        if column is table.autoincrement_column:
            largest = sa.select(sa.func.max(column)).scalar_subquery()
            sequence = sa.func.pg_get_serial_sequence(table.name, column.name)
            writing.execute(sa.select(sa.func.setval(sequence, largest)))
