"""Stored responses: which client made one that an upstream has kept, which upstream that is, and how large its
conversation is.

With the server's key all clients are one account to the upstream. Without this, a client could go on with another
client's conversation by its id, and read what is in it (test_stored.py).
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import sqlalchemy as sa

from app.store.database import Database
from app.store.tables import attempts, requests

WRITTEN_SECONDS = 0.2
"""After which the row of a response that was answered a moment ago is written for certain."""


@dataclass(frozen=True)
class Stored:
    """A stored response. `tokens`: of the conversation up to it. Which upstream has it, and by which key; empty where
    that is not known, as when there was but one."""

    tokens: int = 0
    upstream: str = ""
    key_fingerprint: str = ""


class StoredResponses:
    """Looks responses up in the ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, response_id: str, client_id: int | None) -> Stored | None:
        """What is known of a response; None when the client did not make it. In open mode nobody has an id."""
        found = self._look_up(response_id, client_id)
        if found is None:
            time.sleep(WRITTEN_SECONDS)
            found = self._look_up(response_id, client_id)
        return found

    def _look_up(self, response_id: str, client_id: int | None) -> Stored | None:
        query = (
            sa.select(
                (requests.c.input_tokens + requests.c.output_tokens).label("tokens"),
                sa.func.coalesce(attempts.c.upstream, requests.c.upstream).label("upstream"),
                requests.c.api_key_fingerprint,
            )
            .join_from(requests, attempts, attempts.c.request == requests.c.id, isouter=True)
            .where(requests.c.response_id == response_id, requests.c.client_id.is_not_distinct_from(client_id))
            .order_by(requests.c.id.desc(), attempts.c.number.desc())
        )
        found = self._database.read(lambda connection: connection.execute(query).first())
        if found is None:
            return None
        place = (found.upstream, found.api_key_fingerprint or "") if found.upstream else ()
        return Stored(int(found.tokens), *place)
