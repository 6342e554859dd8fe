"""What of a session's last answer was never heard: it is cut off, from the turn that goes on or from the last one.

A turn that goes on is only marked here, in a transaction of its own; the transaction that settles its request cuts it
off (app/sessions/turns.py). So whichever of the two comes first, nothing is remembered that was not heard, and in
whatever worker or machine the turn goes on, its worker finds the mark.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from app.errors import ChatServiceException
from app.sessions.conversation import Turn
from app.sessions.sessions import Sessions
from app.sessions.turns import OF_SESSION, is_pending
from app.store.database import Database
from app.store.statement import RowsStatement, Statement
from app.store.tables import requests, sessions, turns

Running = tuple[int, str]
"""A session's id, and the id of the request that works on it."""

_ONE: sa.ColumnElement[int] = sa.literal_column("1")
_HELD = Statement(
    sa.select(sessions.c.id, sessions.c.turn_request, sessions.c.interrupted_request, sessions.c.heard_characters)
    .where(sessions.c.owner == sa.bindparam("of_owner"), sessions.c.name == sa.bindparam("named"))
    .with_for_update()
)
_PENDING = Statement(
    sa.select(sessions.c.id).where(
        sessions.c.id == sa.bindparam("of_session"), is_pending(sa.bindparam("request", type_=sa.String))
    )
)
_MARK = Statement(
    sessions.update()
    .where(sessions.c.id == sa.bindparam("of_session"))
    .values(
        interrupted_request=sa.bindparam("request"),
        heard_characters=sa.bindparam("heard", type_=sa.BigInteger),
        revision=sessions.c.revision + _ONE,
    )
)
_MARKED = RowsStatement(
    lambda given: sa.select(sessions.c.id, sessions.c.interrupted_request).where(
        sessions.c.id == given.c.session, sessions.c.interrupted_request == given.c.request
    ),
    {"session": sessions.c.id.type, "request": sessions.c.interrupted_request.type},
)
_USER = (
    sa.select(sa.func.max(requests.c.end_user))
    .where(requests.c.request_id == turns.c.request_id, sessions.c.id == turns.c.session, OF_SESSION)
    .correlate(turns)
)
_TURN = sa.select(turns, _USER.scalar_subquery().label("end_user")).where(turns.c.session == sa.bindparam("of_session"))
_LAST_NUMBER = sa.select(sa.func.max(turns.c.number)).where(turns.c.session == sa.bindparam("of_session"))
_LAST = Statement(_TURN.where(turns.c.number == _LAST_NUMBER.scalar_subquery()))
_OF_REQUEST = Statement(_TURN.where(turns.c.request_id == sa.bindparam("request")).order_by(turns.c.number))
_CUT_OFF = Statement(
    turns.update()
    .where(turns.c.session == sa.bindparam("of_session"), turns.c.number == sa.bindparam("numbered"))
    .values(answer_text=sa.bindparam("kept", type_=sa.Text), interrupted=sa.true())
)
_CHANGED = Statement(
    sessions.update().where(sessions.c.id == sa.bindparam("of_session")).values(revision=sessions.c.revision + _ONE)
)


@dataclass(frozen=True)
class KeptTurn:
    """A turn as it is remembered now. `is_trimmed`: something was cut off just now. `end_user`: who asked, if told."""

    number: int
    turn: Turn
    end_user: str = ""
    is_trimmed: bool = False


class Interruptions:
    """`database` is the one that holds `sessions`."""

    def __init__(self, database: Database, sessions: Sessions) -> None:
        self._database = database
        self._sessions = sessions

    def begin(
        self, owner: int, name: str, heard: int | None, request_id: str | None = None
    ) -> Running | KeptTurn | None:
        """Mark the turn that goes on, of which `heard` characters were heard (None: all that are delivered), or trim
        the last one; None where there is no such session. A turn never gets longer again.

        Raises ChatServiceException `store_unavailable`, and 404 `turn_not_found` where `request_id` is given and the
        turn is another one.
        """
        begun = self._database.erase(
            lambda connection: self._begin(connection, owner, name, heard, request_id), seconds=0
        )
        self._sessions.recent.drop((owner, name))
        return begun

    def is_over(self, running: Running) -> bool:
        """Whether the request is settled, and with it what is remembered of its turn. Raises as `begin` does."""
        return self._database.read(
            lambda connection: not _PENDING.rows(connection, of_session=running[0], request=running[1])
        )

    def kept(self, running: Running) -> KeptTurn | None:
        """What is remembered of a request that is over; None where it failed. Raises as `begin` does."""

        def read(connection: sa.Connection) -> KeptTurn | None:
            found = _OF_REQUEST.rows(connection, of_session=running[0], request=running[1])
            return self._kept(found[-1]) if found else None

        return self._database.read(read)

    def marked(self, running: Collection[Running]) -> list[Running]:
        """Which of these turns have been interrupted; one query for all, which disturbs no request. Raises as `begin`
        does."""
        asked = [{"session": session, "request": request} for session, request in running]
        found = self._database.run_aside(
            lambda connection: _MARKED.rows(connection, asked), writes=False, about="interruptions"
        )
        return [(row["id"], row["interrupted_request"]) for row in found]

    def _begin(
        self, connection: sa.Connection, owner: int, name: str, heard: int | None, request_id: str | None
    ) -> Running | KeptTurn | None:
        held = _HELD.rows(connection, of_owner=owner, named=name)
        if not held:
            return None
        (session,) = held
        request = session["turn_request"]
        # A statement of its own: it has to see what the transaction wrote that held the session until now.
        if request is not None and _PENDING.rows(connection, of_session=session["id"], request=request):
            _check_meant(request_id, request)
            if session["interrupted_request"] == request:
                heard = _least(heard, session["heard_characters"])
            _MARK.run(connection, of_session=session["id"], request=request, heard=heard)
            return session["id"], request
        last = _LAST.rows(connection, of_session=session["id"])
        if not last:
            return None
        _check_meant(request_id, last[0]["request_id"])
        return self._trimmed(connection, session["id"], last[0], heard)

    def _trimmed(self, connection: sa.Connection, session: int, row: dict[str, Any], heard: int | None) -> KeptTurn:
        kept = self._kept(row)
        trimmed = kept.turn.heard(heard)
        if trimmed.answer_text == kept.turn.answer_text:
            return kept
        (answer_text,) = self._sessions.seal.close_all(trimmed.answer_text)
        _CUT_OFF.run(connection, of_session=session, numbered=kept.number, kept=answer_text)
        _CHANGED.run(connection, of_session=session)
        return KeptTurn(kept.number, trimmed, kept.end_user, is_trimmed=True)

    def _kept(self, row: dict[str, Any]) -> KeptTurn:
        return KeptTurn(row["number"], self._sessions.turn(row), row["end_user"] or "")


def _check_meant(request_id: str | None, found: str | None) -> None:
    """An interruption that comes too early or too late must not cut another turn."""
    if request_id is not None and request_id != found:
        raise ChatServiceException("The turn neither goes on nor is the session's last one", "turn_not_found")


def _least(one: int | None, other: int | None) -> int | None:
    """The smaller of two numbers; None is no number."""
    return min((number for number in (one, other) if number is not None), default=None)
