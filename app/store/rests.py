"""Which upstreams and keys rest, as workers and machines tell each other: a row until somebody was answered.

Nothing here compares the moments at which two workers have learned something, since clocks differ. A change names what
it replaces instead: every rest that ends no later than the one its worker knew. A later one, of which that worker has
not heard, stays.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from app.store.engine import bound_lock_wait
from app.store.tables import rests
from app.store.upsert import upsert
from app.store.writer import LOCK_SECONDS

Place = tuple[str, str, str]
"""An upstream's name, the digest of its base URL, and the fingerprint of a key, empty for the upstream itself."""
Span = tuple[int, int]
"""Rests that end outside these moments (microseconds since 1970) are not believed."""


@dataclass(frozen=True)
class StoredRest:
    """Until when (microseconds since 1970), why, and how many there were in a row."""

    until: int
    reason: str
    in_a_row: int


@dataclass(frozen=True)
class Change:
    """What one worker has learned: a rest, or that an answer has ended it (None). `known`: the end of the rest that it
    knew of before; 0 where it knew of none."""

    place: Place
    known: int
    rest: StoredRest | None


def exchange(connection: sa.Connection, changes: Sequence[Change], span: Span) -> Mapping[Place, StoredRest]:
    """Write what one worker has learned, if anything, and give what all know then. The same again changes nothing."""
    if changes:
        bound_lock_wait(connection, LOCK_SECONDS, scope="LOCAL")
        connection.execute(rests.delete().where(sa.not_(_believed(span))))
    for change in sorted(changes, key=lambda change: change.place):
        if change.rest is None:
            connection.execute(rests.delete().where(_is_at(change.place), rests.c.rests_until <= change.known))
        else:
            connection.execute(_upsert(connection.dialect.name, change, change.rest))
    found = connection.execute(rests.select().where(_believed(span)))
    return {
        (row.upstream, row.address, row.key_fingerprint): StoredRest(row.rests_until, row.reason, row.rests_in_a_row)
        for row in found
    }


def _believed(span: Span) -> sa.ColumnElement[bool]:
    return rests.c.rests_until.between(*span)


def _is_at(place: Place) -> sa.ColumnElement[bool]:
    return sa.and_(*(column == value for column, value in zip(rests.primary_key.columns, place, strict=True)))


def _upsert(dialect: str, change: Change, rest: StoredRest) -> sa.Executable:
    values = {"rests_until": rest.until, "rests_in_a_row": rest.in_a_row, "reason": rest.reason}
    place = dict(zip(rests.primary_key.columns.keys(), change.place, strict=True))
    inserted: sa.Executable = (
        upsert(rests, dialect)
        .values(place | values)
        .on_conflict_do_update(
            index_elements=list(place),
            set_=values,
            where=sa.or_(rests.c.rests_until < rest.until, rests.c.rests_until <= change.known),
        )
    )
    return inserted
