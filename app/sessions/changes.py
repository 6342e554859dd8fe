"""Sessions as their owners change them: named, summarised, deleted, taken in; and those that housekeeping ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa

from app.errors import ChatServiceException, ValidationException
from app.json_bytes import dump_json
from app.sessions.lines import Imported
from app.sessions.rules import broken_rules, is_name
from app.sessions.seal import Seal
from app.sessions.sessions import insert_new
from app.sessions.stored import Described, describe, described_summary, find, named, session_not_found
from app.sessions.turns import IS_FREE, row_of, session_busy, write_turns
from app.store.database import Database
from app.store.tables import sessions
from app.store.writer import each
from app.units import MICROSECONDS

FORGET_MAX = 50
"""So many sessions are deleted in one transaction of housekeeping."""
NO_SUMMARY: Mapping[str, Any] = {
    **dict.fromkeys(("summary", "summary_by", "summary_model", "summary_at", "summary_request")),
    "summary_turns": 0,
}
_IS_EMPTY = sessions.c.turns == sa.literal_column("0")


class SessionChanges:
    """`owner` and what is raised: see StoredSessions.

    What a prompt is made of changes with a new `revision`: a turn that was made of the old one is then made anew.
    """

    def __init__(self, database: Database, seal: Seal | None = None, clock: Callable[[], float] | None = None) -> None:
        self._database = database
        self._seal = seal or Seal()
        self._clock = clock or database.clock

    def change(self, owner: int, name: str, *, title: str | None = None, metadata: Any = None) -> Described:
        """Give a session a title, or other metadata in the place of those that it has; gives what is known of it.

        Raises ValidationException, and ChatServiceException `session_unreadable`.
        """
        given = {"title": title, "metadata": metadata}
        given = {name: value for name, value in given.items() if value is not None}
        _check(given)
        values = self._closed(**given)

        def work(connection: sa.Connection) -> Described:
            row = find(connection, owner, name)
            # What cannot be read is refused before anything is written.
            described = describe(row, self._seal) | given
            if values:
                connection.execute(sessions.update().where(sessions.c.id == row.id).values(values))
            return described

        return self._database.erase(work, seconds=0)

    def summarise(self, owner: int, name: str, text: str, covers: int) -> Described | None:
        """Have `text` stand for the first `covers` turns from the next turn on. Raises ValidationException."""
        _check({"text": text})
        values = {
            **NO_SUMMARY,
            "summary": self._seal.close(text),
            "summary_turns": covers,
            "summary_by": "caller",
            "summary_at": self._now(),
        }

        def work(connection: sa.Connection) -> Described | None:
            most = find(connection, owner, name).turns
            if not 1 <= covers <= most:
                raise ValidationException(f"must be from 1 to {most}, the number of turns", "covers")
            _revise(connection, owner, name, values)
            return described_summary(find(connection, owner, name), self._seal)

        return self._database.erase(work, seconds=0)

    def forget_summary(self, owner: int, name: str) -> None:
        """Take the summary away: the turns that it stood for may be sent again themselves."""

        def work(connection: sa.Connection) -> None:
            find(connection, owner, name)
            _revise(connection, owner, name, NO_SUMMARY)

        self._database.erase(work)

    def delete(self, owner: int, name: str) -> None:
        """Delete a session with all its turns. Of a turn that goes on nothing will be kept."""

        def work(connection: sa.Connection) -> None:
            if not is_name(name) or not connection.execute(sessions.delete().where(named(owner, name))).rowcount:
                raise session_not_found()

        self._database.erase(work)

    def take_in(self, owner: int, name: str, imported: Imported) -> Described:
        """Make a session of one that was exported.

        Raises ValidationException for a name that no session may have, and ChatServiceException 409: `session_exists`,
        or `session_busy` where its first turn goes on.
        """
        if not is_name(name):
            raise ValidationException("is not the name of a session", "session_id", location="path")
        now = self._now()
        values = self._values(imported, now) | {"owner": owner, "name": name}
        rows = [
            row_of(item.turn, self._seal, now if item.created_at is None else item.created_at) | {"model": item.model}
            for item in imported.turns
        ]

        def work(connection: sa.Connection) -> int:
            _make_room(connection, owner, name)
            session = insert_new(connection, values)
            if session is None:
                raise session_busy()
            write_turns(connection, session, 1, rows)
            return session

        def undo(connection: sa.Connection, session: int) -> None:
            connection.execute(sessions.delete().where(sessions.c.id == session))

        self._database.write_with_others(each, work, undo=undo)
        return self._database.read(lambda connection: describe(find(connection, owner, name), self._seal))

    def forget(self, before: int) -> int:
        """Delete a batch of sessions whose last turn was before a moment; give their number."""
        return self._forget(sa.and_(sessions.c.updated_at < before, IS_FREE))

    def forget_empty(self, before: int) -> int:
        """Delete a batch of sessions that began before a moment and have had no turn since; give their number."""
        return self._forget(sa.and_(sessions.c.updated_at < before, _IS_EMPTY, IS_FREE))

    def _forget(self, condition: sa.ColumnElement[bool]) -> int:
        """Read first: mostly there is nothing to write."""
        query = sa.select(sessions.c.id).where(condition).order_by(sessions.c.updated_at).limit(FORGET_MAX)
        ids = self._database.read(lambda connection: connection.execute(query).scalars().all())
        if not ids:
            return 0
        doomed = sessions.delete().where(sessions.c.id.in_(ids), condition)
        return self._database.erase(lambda connection: connection.execute(doomed).rowcount, seconds=0)

    def _values(self, imported: Imported, now: int) -> dict[str, Any]:
        """The columns of a session that is taken in; it counts as used now."""
        summary = imported.summary or {}
        return {
            **self._closed(title=imported.title, metadata=imported.metadata),
            "created_at": now if imported.created_at is None else imported.created_at,
            "updated_at": now,
            "character": imported.character,
            "turns": len(imported.turns),
            # See Sessions.begin.
            "revision": now,
            "summary": self._seal.close(summary["text"]) if summary else None,
            "summary_turns": summary.get("covers", 0),
            "summary_by": summary.get("by") or ("caller" if summary else None),
            "summary_model": summary.get("model"),
            "summary_at": now if summary else None,
        }

    def _closed(self, *, title: str | None = None, metadata: Mapping[str, str] | None = None) -> dict[str, str]:
        """What is stored of a title and of metadata. Of none nothing is sealed."""
        closed = {}
        if title is not None:
            closed["title"] = self._seal.close(title) if title else ""
        if metadata is not None:
            closed["metadata"] = self._seal.close(dump_json(metadata).decode()) if metadata else "{}"
        return closed

    def _now(self) -> int:
        return int(self._clock() * MICROSECONDS)


def session_exists() -> ChatServiceException:
    """The answer to an import into a session that is there."""
    return ChatServiceException("There is a session of this name", "session_exists")


def _check(given: Mapping[str, Any]) -> None:
    if errors := broken_rules(given):
        raise ValidationException(f"These fields break a rule: {', '.join(errors)}", next(iter(errors)), errors=errors)


def _revise(connection: sa.Connection, owner: int, name: str, values: Mapping[str, Any]) -> None:
    changed = {**values, "revision": sessions.c.revision + 1}
    connection.execute(sessions.update().where(named(owner, name)).values(changed))


def _make_room(connection: sa.Connection, owner: int, name: str) -> None:
    """See that no session has this name; a row that never had a turn is none."""
    found = connection.execute(sa.select(sessions.c.turns).where(named(owner, name))).scalar()
    if found:
        raise session_exists()
    if found is None:
        return
    gone = connection.execute(sessions.delete().where(named(owner, name), _IS_EMPTY, IS_FREE)).rowcount
    if not gone:
        raise session_busy()
