"""Sessions as their owners read them: listed, shown with their turns page by page, and exported as JSON Lines."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import sqlalchemy as sa

from app.errors import ChatServiceException
from app.json_bytes import dump_json
from app.sessions.lines import FORMAT
from app.sessions.rules import is_name
from app.sessions.seal import Seal
from app.store.database import Database
from app.store.tables import sessions, turns
from app.units import dollars, iso

Described = dict[str, Any]
PAGE_CHARACTERS = 2_000_000
"""A page ends with the turn that makes it longer than this, whatever its limit is."""
READ_ROWS = 20
"""So many turns are read at once; a single one may have megabytes."""
EXPORT_TURNS = 100


class StoredSessions:
    """`owner` is a client's id, 0 where nobody needs a token; another owner's session is not found.

    All of it raises ChatServiceException `store_unavailable`, and what names a session 404 `session_not_found`.
    """

    def __init__(self, database: Database, seal: Seal | None = None, *, page_characters: int = PAGE_CHARACTERS) -> None:
        self._database = database
        self._page_characters = page_characters
        self._seal = seal or Seal()

    def page(
        self, owner: int, *, cursor: str | None = None, limit: int = 100, search: str = ""
    ) -> tuple[list[Described], str | None]:
        """Sessions whose names begin with `search`, that of the last turn first, and the cursor of the next page (None
        on the last)."""
        query = listing(owner, _parsed(cursor), limit + 1)
        if search:
            query = query.where(sa.func.substr(sessions.c.name, 1, len(search)) == search)
        found = self._database.read(lambda connection: connection.execute(query).all())
        last = found[limit - 1] if len(found) > limit else None
        described = [self._listed(row) for row in found[:limit]]
        return described, None if last is None else f"{last.updated_at}-{last.id}"

    def known(self, owner: int, name: str) -> Described:
        """What a list says of a session, which can be told of one whose texts cannot be read as well."""
        return self._listed(self._database.read(lambda connection: find(connection, owner, name)))

    def _listed(self, row: Any) -> Described:
        """What is known of a session; of one whose texts cannot be read nothing is said."""
        try:
            return describe(row, self._seal)
        except ChatServiceException:
            return describe(row, None)

    def show(
        self, owner: int, name: str, *, cursor: int | None = None, limit: int = 100, newest_first: bool = False
    ) -> Described:
        """A session, its summary and a page of its turns; `cursor`: the number of the last turn of the page before."""

        def work(connection: sa.Connection) -> tuple[Any, list[Described], int | None]:
            row = find(connection, owner, name)
            return row, *self._page(self._turns(connection, row.id, cursor, newest_first), limit)

        row, page, next_cursor = self._database.read(work)
        summary = {"summary": described_summary(row, self._seal)}
        return describe(row, self._seal) | summary | {"turns": page, "next_cursor": next_cursor}

    def export(self, owner: int, name: str) -> Iterator[bytes]:
        """A session as it is now in JSON Lines, a header and then its turns, some of them at a time.

        Raises `session_not_found` at once, or in the middle where the session was deleted meanwhile.
        """
        row = self._database.read(lambda connection: find(connection, owner, name))
        header = FORMAT | describe(row, self._seal) | {"summary": described_summary(row, self._seal)}
        return self._exported(row.id, row.turns, header)

    def _exported(self, session: int, number: int, header: Described) -> Iterator[bytes]:
        yield dump_json(header) + b"\n"
        after = 0
        while after < number:
            page = self._database.read(self._next_page(session, after))
            if not page:
                raise session_not_found()
            after = page[-1]["turn"]
            yield b"".join(dump_json(turn) + b"\n" for turn in page if turn["turn"] <= number)

    def _next_page(self, session: int, after: int) -> Callable[[sa.Connection], list[Described]]:
        return lambda connection: self._page(self._turns(connection, session, after), EXPORT_TURNS)[0]

    def _page(self, found: Iterable[Described], limit: int) -> tuple[list[Described], int | None]:
        """So many turns, and the number of the last of them where there are more."""
        page: list[Described] = []
        room = self._page_characters
        for turn in found:
            if page and (len(page) == limit or room < 0):
                return page, page[-1]["turn"]
            page.append(turn)
            room -= len(turn["user_message"] or "") + len(turn["response_text"] or "")
        return page, None

    def _turns(
        self, connection: sa.Connection, session: int, cursor: int | None, newest_first: bool = False
    ) -> Iterator[Described]:
        while found := connection.execute(turns_from(session, cursor, newest_first)).all():
            yield from (self._turn(row) for row in found)
            cursor = found[-1].number

    def _turn(self, row: Any) -> Described:
        user_text, answer_text = self._seal.open_all(row.user_text, row.answer_text)
        return {
            "turn": row.number,
            "created_at": iso(row.created_at),
            "user_message": user_text,
            "response_text": answer_text,
            "interrupted": bool(row.interrupted),
            "model": row.model,
            "character": row.character,
            "request_id": row.request_id,
        }


def listing(owner: int, before: tuple[int, int] | None, limit: int) -> sa.Select[Any]:
    """The sessions of an owner, that of the last turn first; `before`: the moment and the id of one."""
    query = sessions.select().where(sessions.c.owner == owner, sessions.c.turns > 0)
    if before is not None:
        query = query.where(sa.tuple_(sessions.c.updated_at, sessions.c.id) < before)
    return query.order_by(sessions.c.updated_at.desc(), sessions.c.id.desc()).limit(limit)


def turns_from(session: int, cursor: int | None, newest_first: bool) -> sa.Select[Any]:
    """The next turns of a session after the one with the number `cursor`."""
    number = turns.c.number
    query = turns.select().where(turns.c.session == session)
    if cursor is not None:
        query = query.where(number < cursor if newest_first else number > cursor)
    return query.order_by(number.desc() if newest_first else number).limit(READ_ROWS)


def named(owner: int, name: str) -> sa.ColumnElement[bool]:
    """The condition for the row of a session."""
    return sa.and_(sessions.c.owner == owner, sessions.c.name == name)


def find(connection: sa.Connection, owner: int, name: str) -> Any:
    """The row of a session; raises `session_not_found`."""
    query = sessions.select().where(named(owner, name), sessions.c.turns > 0)
    row = connection.execute(query).first() if is_name(name) else None
    if row is None:
        raise session_not_found()
    return row


def describe(row: Any, seal: Seal | None) -> Described:
    """What is known of a session beside its turns and summary; without a seal its title and metadata are None."""
    return {
        "session_id": row.name,
        "title": seal and seal.open(row.title),
        "metadata": seal and json.loads(seal.open(row.metadata)),
        "character": row.character,
        "turn_count": row.turns,
        "created_at": iso(row.created_at),
        "updated_at": iso(row.updated_at),
        "input_tokens": row.input_tokens,
        "output_tokens": row.output_tokens,
        "cost_usd": dollars(row.cost_nano),
        "requests_of_unknown_cost": row.unknown_costs,
    }


def described_summary(row: Any, seal: Seal) -> Described | None:
    """The summary of a session, where there is one."""
    if not row.summary:
        return None
    return {
        "text": seal.open(row.summary),
        "covers": row.summary_turns,
        "by": row.summary_by,
        "model": row.summary_model,
        "created_at": None if row.summary_at is None else iso(row.summary_at),
    }


def session_not_found() -> ChatServiceException:
    """The answer where there is no such session, or it is another owner's."""
    return ChatServiceException("There is no such session", "session_not_found")


def _parsed(cursor: str | None) -> tuple[int, int] | None:
    if cursor is None:
        return None
    updated_at, _, number = cursor.partition("-")
    return int(updated_at), int(number)
