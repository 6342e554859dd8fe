"""Stored responses: which client made one that the upstream has kept, and how large its conversation is.

With the server's key all clients are one account to the upstream. Without this, a client could go on with another
client's conversation by its id, and read what is in it (test_stored.py).
"""

from __future__ import annotations

import time

import sqlalchemy as sa

from app.store.database import Database
from app.store.tables import requests

WRITTEN_SECONDS = 0.2
"""After which the row of a response that was answered a moment ago is written for certain."""


class StoredResponses:
    """Looks responses up in the ledger."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def tokens(self, response_id: str, client_id: int) -> int | None:
        """How many tokens the conversation up to this response has; None when the client did not make it."""
        found = self._look_up(response_id, client_id)
        if found is None:
            time.sleep(WRITTEN_SECONDS)
            found = self._look_up(response_id, client_id)
        return found

    def _look_up(self, response_id: str, client_id: int) -> int | None:
        query = sa.select(requests.c.input_tokens + requests.c.output_tokens).where(
            requests.c.response_id == response_id, requests.c.client_id == client_id
        )
        found = self._database.read(lambda connection: connection.execute(query).first())
        return None if found is None else int(found[0])
