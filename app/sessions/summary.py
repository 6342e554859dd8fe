"""A summary of a session's oldest turns in the transactions that open and settle the request that makes it.

As with a turn (turns.py) the pending row of the ledger is the lock, and it ends with its worker. So one summary of a
session is made at a time, in whatever worker or machine, and no turns are summarised and paid for twice. The turns go
on meanwhile. What was made of a summary that is not there any more, as its caller has put another one in its place, is
thrown away: whoever changes a summary clears `summary_request`.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import sqlalchemy as sa

from app.ledger.beside import Ending
from app.sessions.conversation import Conversation
from app.sessions.seal import Seal
from app.sessions.turns import OpenTurn, is_pending, session_busy
from app.store.fitting import fit_for
from app.store.statement import Statement
from app.store.tables import sessions
from app.units import MICROSECONDS

_THIS = sessions.c.id == sa.bindparam("of_session")
_IS_FREE = ~is_pending(sessions.c.summary_request)
_CLAIM = Statement(
    sessions.update()
    .where(_THIS, sessions.c.revision == sa.bindparam("as_read"), _IS_FREE)
    .values(summary_request=sa.bindparam("request"))
    .returning(sessions.c.id)
)
_COUNT = Statement(
    sessions.update()
    .where(_THIS)
    .values(
        input_tokens=sessions.c.input_tokens + sa.bindparam("read_tokens"),
        output_tokens=sessions.c.output_tokens + sa.bindparam("written_tokens"),
        cost_nano=sessions.c.cost_nano + sa.bindparam("cost", type_=sa.BigInteger),
        unknown_costs=sessions.c.unknown_costs + sa.bindparam("unknown"),
    )
)
_KEEP = Statement(
    sessions.update()
    .where(_THIS, sessions.c.summary_request == sa.bindparam("request"))
    .values(
        summary=sa.bindparam("text"),
        summary_turns=sa.bindparam("covers"),
        summary_by=sa.literal_column("'model'"),
        summary_model=sa.bindparam("model"),
        summary_at=sa.bindparam("at"),
        # A turn that is made of the old one is refused its claim, and made anew.
        revision=sessions.c.revision + sa.literal_column("1"),
    )
    .returning(sessions.c.id)
)
_fit_text, _fit_model = fit_for(sessions.c.summary.type), fit_for(sessions.c.summary_model.type)


@dataclass(eq=False)
class OpenSummary:
    """A summary from its admission to its settlement: of the first `covers` turns, as the conversation was read.

    `text` is put there once a model has written it; `is_kept`: it has become the session's.
    """

    seal: Seal
    request_id: str
    conversation: Conversation
    covers: int
    text: str = ""
    is_kept: bool = False
    clock: Callable[[], float] = field(default=time.time)

    @property
    def key(self) -> int:
        """What it has in common with the turns of its session."""
        return self.conversation.id

    hold = staticmethod(OpenTurn.hold)

    def claim(self, connection: sa.Connection) -> None:
        """Raises ChatServiceException `session_busy` where another summary of the session is being made, or the session
        is not what it was when it was read."""
        session = self.conversation
        if not _CLAIM.rows(connection, of_session=session.id, as_read=session.revision, request=self.request_id):
            raise session_busy()

    def settled(self, ending: Ending) -> Callable[[sa.Connection], None]:
        """What the transaction that settles the request has to write."""
        counted = {
            "of_session": self.key,
            "read_tokens": ending.input_tokens,
            "written_tokens": ending.output_tokens,
            "cost": ending.cost_nano or 0,
            "unknown": int(ending.cost_nano is None),
        }
        text = _fit_text(self.text) if _fit_text and ending.code is None else ""
        kept = {
            "of_session": self.key,
            "request": self.request_id,
            "covers": self.covers,
            "text": text and self.seal.close(text),
            "model": ending.model and (_fit_model(ending.model) if _fit_model else ending.model),
            "at": int(self.clock() * MICROSECONDS),
        }

        def write(connection: sa.Connection) -> None:
            _COUNT.run(connection, **counted)
            if text:
                self.is_kept = bool(_KEEP.rows(connection, **kept))

        return write
