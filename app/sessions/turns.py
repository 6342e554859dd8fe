"""One turn of a session in the transactions that open and settle its request.

The turn and the request's row in the ledger are written together: both are there or neither. The pending row is also
the session's lock. It is taken in the transaction that admits the request, and only while the session is still as it
was when the prompt was made of it; so no two turns are ever made of the same past, in whatever worker or machine they
run (test_sessions.py). A worker that is killed leaves no lock: the row that it held is settled as every row of a dead
worker is.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from app.errors import ChatServiceException
from app.ledger.beside import Ending
from app.sessions.conversation import Conversation, Turn, newest
from app.sessions.seal import Seal
from app.store.statement import RowsStatement, Statement
from app.store.tables import requests, sessions, turns
from app.units import MICROSECONDS

OF_SESSION = sa.and_(
    requests.c.session_id == sessions.c.name,
    sa.func.coalesce(requests.c.client_id, sa.literal_column("0")) == sessions.c.owner,
)
"""A request's row is one of the session. Callers choose the ids of their requests: one of the same id may be another
session's, or another client's."""


def is_pending(request: sa.ColumnElement[str]) -> sa.Exists:
    """Whether the session's request of this id goes on."""
    is_open = requests.c.status == sa.literal_column("'pending'")
    return sa.exists().where(requests.c.request_id == request, is_open, OF_SESSION).correlate(sessions)


IS_FREE = ~is_pending(sessions.c.turn_request)
"""No turn of the session goes on: it names none, or one whose worker was lost."""
_HOLD = Statement(
    sa.select(sessions.c.id)
    .where(sessions.c.id == sa.func.any(sa.bindparam("ids", type_=sa.ARRAY(sa.BigInteger))))
    .order_by(sessions.c.id)
    .with_for_update()
)
_CLAIM = Statement(
    sessions.update()
    .where(sessions.c.id == sa.bindparam("of_session"), sessions.c.revision == sa.bindparam("as_read"), IS_FREE)
    .values(turn_request=sa.bindparam("request"), interrupted_request=sa.null(), heard_characters=sa.null())
    .returning(sessions.c.id)
)
_COUNT = Statement(
    sessions.update()
    # A session that was deleted meanwhile, and one that has its id now, have not been claimed by this request.
    .where(sessions.c.id == sa.bindparam("of_session"), sessions.c.turn_request == sa.bindparam("request"))
    .values(
        turn_request=sa.null(),
        turns=sessions.c.turns + sa.bindparam("more_turns"),
        revision=sessions.c.revision + sa.bindparam("more_turns"),
        updated_at=sa.func.coalesce(sa.bindparam("at", type_=sa.BigInteger), sessions.c.updated_at),
        character=sa.func.coalesce(sa.bindparam("speaker", type_=sa.String), sessions.c.character),
        input_tokens=sessions.c.input_tokens + sa.bindparam("read_tokens"),
        output_tokens=sessions.c.output_tokens + sa.bindparam("written_tokens"),
        cost_nano=sessions.c.cost_nano + sa.bindparam("cost", type_=sa.BigInteger),
        unknown_costs=sessions.c.unknown_costs + sa.bindparam("unknown"),
    )
    .returning(sessions.c.turns, sessions.c.interrupted_request, sessions.c.heard_characters)
)
FORGET_EMPTY = Statement(
    sessions.delete().where(
        sessions.c.id == sa.bindparam("of_session"), sessions.c.turns == sa.literal_column("0"), IS_FREE
    )
)
"""Takes away a session that has had no turn."""
_COLUMNS = {column.name: column.type for column in turns.columns}
_INSERT = RowsStatement(
    lambda given: turns.insert().from_select([*_COLUMNS], sa.select(*(given.c[name] for name in _COLUMNS))), _COLUMNS
)

CUT = frozenset({"client_closed_request", "upstream_timeout", "server_shutting_down", "turn_interrupted"})
"""How a turn ends that was cut: what was said and what was delivered until then is remembered."""


@dataclass(eq=False)
class OpenTurn:
    """A turn from its admission to its settlement. `before`: past turns that are taken in with it.

    `model` is the one that is asked for it, and `room` how many (estimated) tokens past turns may have in its prompt.
    `memories` are what the memory server knows that belongs to it. `delivered` says what of an answer reached the
    caller when the turn is cut; `kept` is what was remembered of it, once it has ended.
    """

    seal: Seal
    request_id: str
    conversation: Conversation
    user_text: str
    before: Sequence[Turn] = ()
    memories: Sequence[str] = ()
    character: str | None = None
    model: str = ""
    room: int = 0
    answer: str | None = None
    kept: Turn | None = None
    delivered: Callable[[], str] = lambda: ""
    clock: Callable[[], float] = field(default=time.time)
    is_kept: bool = False
    """Whether it was written; it is not where its session was deleted meanwhile."""

    @property
    def key(self) -> int:
        """What two turns of one session have in common."""
        return self.conversation.id

    @property
    def number(self) -> int:
        """Of this turn."""
        return self.conversation.turns + len(self.before) + 1

    @property
    def past(self) -> tuple[Turn, ...]:
        """The turns before this one, as many as are known and no summary covers."""
        return (*self.conversation.recent, *self.before)

    @property
    def uncovered(self) -> int:
        """How many turns before this one no summary covers."""
        return self.conversation.turns - self.conversation.summary_turns + len(self.before)

    @staticmethod
    def hold(connection: sa.Connection, keys: Collection[int]) -> None:
        """Keep other transactions away from these sessions until this one ends.

        PostgreSQL locks their rows, in one order. SQLite's transaction excludes others anyway.
        """
        if keys and connection.dialect.name == "postgresql":
            _HOLD.rows(connection, ids=sorted(keys))

    def claim(self, connection: sa.Connection) -> None:
        """Make the session this turn's. Raises ChatServiceException 409 `session_busy` where another turn has it, or
        it is not any more what it was when it was read."""
        session = self.conversation
        if not _CLAIM.rows(connection, of_session=session.id, as_read=session.revision, request=self.request_id):
            raise session_busy()

    def after(self, max_tokens: int) -> Conversation:
        """The session once this turn is kept, with as many turns as `max_tokens` may let through, and one more."""
        session = self.conversation
        past = (*self.past, Turn(self.user_text, self.answer, character=self.character))
        most = len(newest(past, max_tokens)) + 1
        return Conversation(
            id=session.id,
            revision=session.revision + len(self.before) + 1,
            turns=self.number,
            recent=past[-most:],
            summary=session.summary,
            summary_turns=session.summary_turns,
            character=self.character or session.character,
        )

    def settled(self, ending: Ending) -> Callable[[sa.Connection], None]:
        """What the transaction that settles the request has to write."""
        is_cut = ending.code in CUT
        if ending.code is None or is_cut:
            answer = self.delivered() if is_cut else self.answer
            self.kept = Turn(self.user_text, answer, is_cut, self.character)
        now = int(self.clock() * MICROSECONDS)
        counted = {
            "of_session": self.key,
            "request": self.request_id,
            "more_turns": len(self.before) + 1 if self.kept else 0,
            "at": now if self.kept else None,
            "speaker": self.character if self.kept else None,
            "read_tokens": ending.input_tokens,
            "written_tokens": ending.output_tokens,
            "cost": ending.cost_nano or 0,
            "unknown": int(ending.cost_nano is None),
        }

        def write(connection: sa.Connection) -> None:
            found = _COUNT.rows(connection, **counted)
            if self.kept is None:
                FORGET_EMPTY.run(connection, of_session=self.key)
            elif found:
                (session,) = found
                if session["interrupted_request"] == self.request_id:
                    self.kept = self.kept.heard(session["heard_characters"])
                rows = [self._row(turn, now) for turn in self.before]
                rows.append(self._row(self.kept, now) | {"request_id": self.request_id, "model": ending.model})
                write_turns(connection, self.key, session["turns"] - len(rows) + 1, rows)
                self.is_kept = True
            else:
                self.kept = None

        return write

    def _row(self, turn: Turn, now: int) -> dict[str, Any]:
        return row_of(turn, self.seal, now)


def row_of(turn: Turn, seal: Seal, at: int) -> dict[str, Any]:
    """A turn as it is stored; `at` in microseconds since 1970."""
    user_text, answer_text = seal.close_all(turn.user_text, turn.answer_text or None)
    return {
        "request_id": None,
        "created_at": at,
        "user_text": user_text,
        "answer_text": answer_text,
        "interrupted": turn.interrupted,
        "model": None,
        "character": turn.character,
    }


def write_turns(connection: sa.Connection, session: int, first: int, rows: Sequence[dict[str, Any]]) -> None:
    """Write turns of a session in order, numbered from `first`."""
    _INSERT.run(connection, [{**row, "session": session, "number": first + place} for place, row in enumerate(rows)])


def session_busy() -> ChatServiceException:
    """The answer while another turn of the session goes on."""
    return ChatServiceException("Another turn of this session goes on", "session_busy", retry_after=1)
