"""Settlement: how open rows are closed, many at once, and what was reserved becomes what was spent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from app.ledger.admission import Admitted
from app.store.statement import Statement
from app.store.tables import requests, spending

SWEEP_MAX = 500
COLUMNS = (
    "model_answered",
    "api_key_source",
    "api_key_fingerprint",
    "status",
    "code",
    "cached",
    "estimated",
    "input_tokens",
    "cached_tokens",
    "output_tokens",
    "reasoning_tokens",
    "cost_nano",
    "price_version",
    "queue_ms",
    "upstream_ms",
    "first_token_ms",
    "total_ms",
    "upstream_request_id",
    "settled_at",
)
"""What a settlement says of a request; all of it, each time."""

_SETTLE = Statement(
    requests.update()
    .where(requests.c.id == sa.bindparam("row_id"), requests.c.status == sa.literal_column("'pending'"))
    # An update's own parameters must not have the names of its columns.
    .values({name: sa.bindparam(f"new_{name}") for name in COLUMNS})
)
_STILL_PENDING = (
    sa.select(requests.c.id)
    .where(requests.c.id.in_(sa.bindparam("ids", expanding=True)), requests.c.status == "pending")
    .with_for_update()
)
_SPEND = (
    spending.update()
    .where(spending.c.client_id == sa.bindparam("of_client"), spending.c.period_start == sa.bindparam("of_period"))
    .values(
        spent_nano=spending.c.spent_nano + sa.bindparam("spent"),
        reserved_nano=spending.c.reserved_nano - sa.bindparam("reserved"),
    )
)


@dataclass(frozen=True)
class Settlement:
    """How one request ended. `charged_nano`: what its client's budget pays for it; `row`: the values of COLUMNS."""

    admitted: Admitted
    charged_nano: int
    row: Mapping[str, Any]

    def values(self) -> dict[str, Any]:
        """What the statement that closes the row is given."""
        return {f"new_{name}": self.row[name] for name in COLUMNS} | {"row_id": self.admitted.row_id}


@dataclass(frozen=True)
class Spent:
    """What one request's client has spent (nano-dollars) in place of what was reserved for it."""

    client_id: int | None
    period_start: int | None
    reserved_nano: int
    spent_nano: int


def settle_all(connection: sa.Connection, settlements: Sequence[Settlement]) -> list[None]:
    """Close the rows that are open; a row that a sweep has closed stays as it is. A batch for Writer."""
    reserved = [item for item in settlements if item.admitted.period_start is not None]
    if reserved:
        # Asked before the rows are closed: a row that is not open has been spent for already.
        ids = [item.admitted.row_id for item in reserved]
        still = set(connection.execute(_STILL_PENDING, {"ids": ids}).scalars())
        reserved = [item for item in reserved if item.admitted.row_id in still]
    _SETTLE.many(connection, [item.values() for item in settlements])
    spend(connection, (_spent(item.admitted, item.charged_nano) for item in reserved))
    return [None] * len(settlements)


def take_back(connection: sa.Connection, admitted: Admitted) -> None:
    """Remove the row of a request that was refused because its admission took too long."""
    connection.execute(requests.delete().where(requests.c.id == admitted.row_id))
    spend(connection, [_spent(admitted, 0)])


def abandon(connection: sa.Connection, rows: Sequence[Any], now: int) -> None:
    """Close rows whose worker is gone.

    What their calls have cost is not known; the reservations are charged, so no budget is exceeded.
    """
    values = {"status": "abandoned", "code": "worker_lost", "estimated": True, "settled_at": now}
    connection.execute(requests.update().where(requests.c.id.in_([row.id for row in rows])).values(values))
    spend(connection, (Spent(row.client_id, row.period_start, row.reserved_nano, row.reserved_nano) for row in rows))


def pending(connection: sa.Connection) -> Sequence[Any]:
    """Some of the rows that are open; no other transaction closes them meanwhile."""
    query = requests.select().where(requests.c.status == "pending").limit(SWEEP_MAX)
    return connection.execute(query.with_for_update(skip_locked=True)).all()


def forget(connection: sa.Connection, before: int) -> int:
    """Delete some settled rows older than the moment `before`; give their number."""
    old = sa.select(requests.c.id).where((requests.c.created_at < before) & (requests.c.status != "pending"))
    return connection.execute(requests.delete().where(requests.c.id.in_(old.limit(SWEEP_MAX)))).rowcount


def spend(connection: sa.Connection, items: Iterable[Spent]) -> None:
    """Turn reservations into spending, once per client and period, always in the same order."""
    sums: defaultdict[tuple[int, int], list[int]] = defaultdict(lambda: [0, 0])
    for item in items:
        if item.client_id is not None and item.period_start is not None:
            total = sums[item.client_id, item.period_start]
            total[0] += item.spent_nano
            total[1] += item.reserved_nano
    for (client_id, period_start), (spent, reserved) in sorted(sums.items()):
        values = {"of_client": client_id, "of_period": period_start, "spent": spent, "reserved": reserved}
        connection.execute(_SPEND, values)


def _spent(admitted: Admitted, charged_nano: int) -> Spent:
    return Spent(admitted.client_id, admitted.period_start, admitted.reserved_nano, charged_nano)
