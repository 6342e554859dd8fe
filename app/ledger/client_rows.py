"""The rows of clients: found by a token's digest, or held by id until a transaction ends."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from app.store.statement import Statement
from app.store.tables import clients

_BY_DIGEST = Statement(clients.select().where(clients.c.token_digest == sa.bindparam("digest")))
_BY_ID = Statement(clients.select().where(clients.c.id == sa.bindparam("of_client")))
_HOLD = Statement(
    clients.select()
    .where(clients.c.id == sa.func.any(sa.bindparam("ids", type_=sa.ARRAY(sa.Integer))))
    .order_by(clients.c.id)
    .with_for_update()
)


def by_digest(connection: sa.Connection, digest: str) -> list[dict[str, Any]]:
    """The client with this digest of its token, if there is one."""
    return _BY_DIGEST.rows(connection, digest=digest)


def hold(
    connection: sa.Connection, ids: Iterable[int | None], beside: Iterable[int | None] = ()
) -> list[dict[str, Any]]:
    """The rows of these clients; until the transaction ends, no other one admits or settles for them, or for those
    `beside` them.

    PostgreSQL locks them all, always in one order, so no two transactions wait for each other. SQLite's transaction
    excludes others anyway.
    """
    wanted = {client_id for client_id in ids if client_id is not None}
    if connection.dialect.name == "postgresql":
        held = sorted(wanted.union(client_id for client_id in beside if client_id is not None))
        return _HOLD.rows(connection, ids=held) if held else []
    return [row for client_id in sorted(wanted) for row in _BY_ID.rows(connection, of_client=client_id)]
