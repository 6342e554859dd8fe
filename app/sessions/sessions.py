"""The sessions in the database as a turn finds them: by owner and name, with their newest turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import sqlalchemy as sa

from app.sessions.conversation import Conversation, Turn
from app.sessions.recent import RecentConversations
from app.sessions.seal import Seal
from app.sessions.summary import OpenSummary
from app.sessions.turns import FORGET_EMPTY, OpenTurn
from app.store.database import Database
from app.store.statement import Statement
from app.store.tables import sessions, turns
from app.store.upsert import upsert
from app.store.writer import each
from app.units import MICROSECONDS

PAGE = 40
"""So many turns are read at once when a prompt is made."""
EMPTY_SECONDS = 3600
"""How long a session without turns may lie before housekeeping takes it away: its first turn may still go on."""

_BY_NAME = Statement(
    sessions.select().where(sessions.c.owner == sa.bindparam("of_owner"), sessions.c.name == sa.bindparam("named"))
)
_BETWEEN = sa.select(
    turns.c.number, turns.c.user_text, turns.c.answer_text, turns.c.interrupted, turns.c.character
).where(
    turns.c.session == sa.bindparam("of_session"),
    turns.c.number > sa.bindparam("after"),
    turns.c.number < sa.bindparam("before"),
)
_NEWEST = Statement(_BETWEEN.order_by(turns.c.number.desc()))
_OLDEST = Statement(_BETWEEN.order_by(turns.c.number))


class Sessions:
    """`owner` is a client's id, 0 where nobody needs a token; another owner's session is not found."""

    def __init__(self, database: Database, seal: Seal | None = None, clock: Callable[[], float] | None = None) -> None:
        self._database = database
        self._clock = clock or database.clock
        self.seal = seal or Seal()
        self.recent = RecentConversations()

    def conversation(self, owner: int, name: str, max_tokens: int) -> Conversation | None:
        """A session as a turn finds it, with as many of its newest turns as `max_tokens` may hold; None where there is
        none yet.

        Raises ChatServiceException `store_unavailable`.
        """
        return self._database.read(lambda connection: self._read(connection, owner, name, max_tokens))

    def begin(self, owner: int, name: str) -> None:
        """Make the row of a session that begins; it is no session before its first turn is kept."""
        now = int(self._clock() * MICROSECONDS)
        # A session that was deleted and begun again is never taken for the one before.
        values = {"owner": owner, "name": name, "created_at": now, "updated_at": now, "revision": now}

        self._database.write(lambda connection: insert_new(connection, values))

    def forget_empty(self, conversation: Conversation) -> None:
        """Take the row of a session away soon whose first turn was refused; one that has turns, or has one that goes
        on, stays."""
        if not conversation.turns:
            self._database.write_later(
                each, lambda connection: FORGET_EMPTY.run(connection, of_session=conversation.id)
            )

    def open_turn(self, conversation: Conversation, request_id: str, user_text: str, **known: Any) -> OpenTurn:
        """A turn of a session; see OpenTurn."""
        return OpenTurn(self.seal, request_id, conversation, user_text, clock=self._clock, **known)

    def open_summary(self, conversation: Conversation, request_id: str, covers: int) -> OpenSummary:
        """A summary of the first `covers` turns of a session; see OpenSummary."""
        return OpenSummary(self.seal, request_id, conversation, covers, clock=self._clock)

    def oldest(self, conversation: Conversation, last: int, max_tokens: int) -> list[Turn]:
        """The first turns that no summary covers, up to number `last`: as many as have `max_tokens` (estimated)
        together, but one at least.

        Raises ChatServiceException `store_unavailable`.
        """
        return self._database.read(lambda connection: self._oldest(connection, conversation, last, max_tokens))

    def _oldest(self, connection: sa.Connection, conversation: Conversation, last: int, max_tokens: int) -> list[Turn]:
        found: list[Turn] = []
        for after in range(conversation.summary_turns, last, PAGE):
            before = min(after + PAGE, last) + 1
            for row in _OLDEST.rows(connection, of_session=conversation.id, after=after, before=before):
                turn = self.turn(row)
                max_tokens -= turn.tokens
                if found and max_tokens < 0:
                    return found
                found.append(turn)
        return found

    def _read(self, connection: sa.Connection, owner: int, name: str, max_tokens: int) -> Conversation | None:
        found = _BY_NAME.rows(connection, of_owner=owner, named=name)
        if not found:
            return None
        (row,) = found
        recent = self._newest(connection, row, max_tokens) if row["turns"] > row["summary_turns"] else []
        return Conversation(
            row["id"],
            row["revision"],
            row["turns"],
            recent,
            self.seal.open(row["summary"]) if row["summary"] else "",
            row["summary_turns"],
            row["character"],
        )

    def _newest(self, connection: sa.Connection, row: dict[str, Any], max_tokens: int) -> list[Turn]:
        """The newest turns, oldest first: those that fit, and one more, so that it is seen where the limit lies."""
        kept: list[Turn] = []
        for turn in self._backwards(connection, row):
            kept.append(turn)
            max_tokens -= turn.tokens
            if max_tokens < 0:
                break
        return kept[::-1]

    def _backwards(self, connection: sa.Connection, row: dict[str, Any]) -> Iterator[Turn]:
        before = row["turns"] + 1
        while before > row["summary_turns"] + 1:
            after = max(row["summary_turns"], before - 1 - PAGE)
            yield from map(self.turn, _NEWEST.rows(connection, of_session=row["id"], after=after, before=before))
            before = after + 1

    def turn(self, row: dict[str, Any]) -> Turn:
        """A turn from its row."""
        user_text, answer_text = self.seal.open_all(row["user_text"], row["answer_text"])
        return Turn(user_text, answer_text, bool(row["interrupted"]), row["character"])


def insert_new(connection: sa.Connection, values: Mapping[str, Any]) -> int | None:
    """Make the row of a session; gives its id, or None where there is one of this owner and name."""
    make = upsert(sessions, connection.dialect.name).values(values)
    made: int | None = connection.execute(make.on_conflict_do_nothing().returning(sessions.c.id)).scalar()
    return made
