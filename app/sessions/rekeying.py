"""Rekeying: all texts of sessions are stored anew, as the newest key does it, while the server runs."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from app.errors import ServiceException
from app.sessions.seal import Seal
from app.store.database import Database
from app.store.tables import sessions, turns

TEXTS: Mapping[sa.Table, tuple[str, ...]] = {
    turns: ("user_text", "answer_text"),
    sessions: ("title", "metadata", "summary"),
}
"""The columns with what was said; every other one is read by SQL, or names somebody."""
NOTHING = frozenset({None, "", "{}"})
"""What no text, title or metadata is stored as, with a key and without."""
BATCH_ROWS = 200
"""Few, since SQLite lets nobody else write meanwhile."""
EMPTY_LOG_SECONDS = 10.0
"""How long to wait in the end until what the texts were before is out of SQLite's log as well."""

Row = sa.RowMapping


@dataclass
class Rekeyed:
    """How many texts were stored anew, were so already, and cannot be opened with the keys that there are.

    `is_erased`: what they were before is out of SQLite's log as well.
    """

    renewed: int = 0
    untouched: int = 0
    unreadable: int = 0
    is_erased: bool = False


class Rekeying:
    """Goes through the tables in the order of their keys, batch by batch. A second run goes over what a first one has
    left: that was ended early, or found a text that changed while it worked on it."""

    def __init__(self, database: Database, seal: Seal, batch_rows: int = BATCH_ROWS) -> None:
        self._database = database
        self._seal = seal
        self._batch_rows = batch_rows

    def run(self) -> Rekeyed:
        """Store every text anew.

        Raises ChatServiceException `store_unavailable`; what was done until then stays.
        """
        done = Rekeyed()
        for table, columns in TEXTS.items():
            for rows in self._batches(table):
                changes = [change for row in rows for change in self._changes(table, row, columns, done)]
                if changes:
                    done.renewed += self._database.write(functools.partial(_write, changes=changes))
        done.is_erased = self._database.empty_log(EMPTY_LOG_SECONDS)
        return done

    def _batches(self, table: sa.Table) -> Iterator[Sequence[Row]]:
        key = sa.tuple_(*table.primary_key.columns)
        columns = (*table.primary_key.columns, *(table.c[name] for name in TEXTS[table]))
        query = sa.select(*columns).order_by(*table.primary_key.columns).limit(self._batch_rows)
        page = query
        while rows := self._database.read(functools.partial(_read, query=page)):
            yield rows
            page = query.where(key > tuple(rows[-1][column.name] for column in table.primary_key.columns))

    def _changes(self, table: sa.Table, row: Row, columns: Sequence[str], done: Rekeyed) -> Iterator[sa.Update]:
        """A statement for each text of a row that is to be stored anew; it does nothing to one that has changed."""
        for name in columns:
            stored = row[name]
            if stored in NOTHING:
                continue
            if self._seal.is_newest(stored):
                done.untouched += 1
                continue
            try:
                renewed = self._seal.close(self._seal.open(stored))
            except ServiceException:
                done.unreadable += 1
                continue
            is_it = [column == row[column.name] for column in table.primary_key.columns]
            yield table.update().where(*is_it, table.c[name] == stored).values({name: renewed})


def _read(connection: sa.Connection, query: sa.Select[Any]) -> Sequence[Row]:
    return connection.execute(query).mappings().all()


def _write(connection: sa.Connection, changes: Sequence[sa.Update]) -> int:
    """Run the statements; give how many texts were changed."""
    return sum(connection.execute(change).rowcount for change in changes)
