"""Settlement: how open rows are closed, many at once, and what was reserved becomes what was spent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from app.ledger import attempts
from app.ledger.admission import Admitted
from app.ledger.allowances import CLIENTS, USERS
from app.ledger.beside import Beside
from app.ledger.client_rows import hold
from app.store.statement import RowsStatement
from app.store.tables import requests, user_spending

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
    "response_id",
    "settled_at",
    "upstream",
    "upstream_model",
    "answer_ms",
)
"""What a settlement says of a request; all of it, each time."""

_KINDS = {name: requests.c[name].type for name in COLUMNS}
_STILL_OPEN = requests.c.status == sa.literal_column("'pending'")
_SETTLE = RowsStatement(
    lambda given: (
        requests.update()
        .where(requests.c.id == given.c.row_id, _STILL_OPEN)
        .values({name: given.c[name] for name in COLUMNS})
        .returning(requests.c.id)
    ),
    {"row_id": requests.c.id.type, **_KINDS},
)
_RENEW = RowsStatement(
    lambda given: (
        requests.update().where(requests.c.id == given.c.row_id, _STILL_OPEN).values(lease_until=given.c.until)
    ),
    {"row_id": requests.c.id.type, "until": requests.c.lease_until.type},
)


@dataclass(frozen=True)
class Settlement:
    """How one request ended. `charged_nano`: what its client's budget pays for it; `row`: `row_id`, which says which
    row it is, and the values of COLUMNS; `attempts`: the rows below it; `beside`: what is settled with it, by
    `write`."""

    admitted: Admitted
    charged_nano: int
    row: Mapping[str, Any]
    attempts: Sequence[Mapping[str, Any]] = ()
    beside: Beside | None = None
    write: Callable[[sa.Connection], None] | None = None


@dataclass(frozen=True)
class Spent:
    """What one request's client and end user have spent (nano-dollars) in place of what was reserved for it."""

    client_id: int | None
    period_start: int | None
    reserved_nano: int
    spent_nano: int
    end_user: str | None = None
    user_period_start: int | None = None

    def periods(self) -> Iterator[tuple[int, str, int]]:
        """Whose budgets pay, and of which periods: client, end user (empty for the client's own) and beginning."""
        if self.client_id is not None and self.period_start is not None:
            yield self.client_id, "", self.period_start
        if self.client_id is not None and self.end_user is not None and self.user_period_start is not None:
            yield self.client_id, self.end_user, self.user_period_start


def settle_all(connection: sa.Connection, settlements: Sequence[Settlement]) -> None:
    """Close the rows that are open; a row that a sweep has closed stays as it is."""
    if not settlements:
        return
    closed = {row["id"] for row in _SETTLE.rows(connection, [item.row for item in settlements])}
    ours = [item for item in settlements if item.admitted.row_id in closed]
    attempts.write(connection, ((item.admitted.row_id, item.attempts) for item in ours if item.attempts))
    spend(connection, (_spent(item.admitted, item.charged_nano) for item in ours))
    for item in ours:
        if item.write is not None:
            item.write(connection)


def take_back(connection: sa.Connection, admitted: Admitted) -> None:
    """Remove the row of a request that was refused because its admission took too long."""
    hold(connection, [admitted.client_id])
    connection.execute(requests.delete().where(requests.c.id == admitted.row_id))
    spend(connection, [_spent(admitted, 0)])


def abandon(connection: sa.Connection, ids: Collection[int], now: int) -> int:
    """Close rows whose worker is gone, those that are still open; give their number.

    What their calls have cost is not known; the reservations are charged, so no budget is exceeded.
    """
    of_these = requests.c.id.in_(ids)
    hold(connection, connection.execute(sa.select(requests.c.client_id).where(of_these)).scalars())
    open_rows = requests.select().where(of_these, requests.c.status == "pending").with_for_update(skip_locked=True)
    rows = connection.execute(open_rows).all()
    values = {"status": "abandoned", "code": "worker_lost", "estimated": True, "settled_at": now}
    connection.execute(requests.update().where(requests.c.id.in_([row.id for row in rows])).values(values))
    spend(connection, (_all_of(row) for row in rows))
    return len(rows)


def owners(connection: sa.Connection) -> Sequence[str]:
    """The names of the workers that hold open rows."""
    query = sa.select(requests.c.owner).where(requests.c.status == "pending").distinct()
    return connection.execute(query).scalars().all()


def held_by(connection: sa.Connection, names: Collection[str], *, ended_before: int | None = None) -> Sequence[int]:
    """The ids of some open rows of these workers, the oldest lease first; `ended_before`: whose lease has ended."""
    query = sa.select(requests.c.id).where(requests.c.status == "pending", requests.c.owner.in_(names))
    if ended_before is not None:
        query = query.where(requests.c.lease_until < ended_before)
    return connection.execute(query.order_by(requests.c.lease_until).limit(SWEEP_MAX)).scalars().all()


def renew(connection: sa.Connection, ids: Sequence[int], until: int) -> None:
    """Prolong the leases of rows whose calls go on."""
    if ids:
        _RENEW.run(connection, [{"row_id": row_id, "until": until} for row_id in ids])


def forget(connection: sa.Connection, before: int) -> int:
    """Delete some settled rows older than the moment `before`; give their number."""
    old = sa.select(requests.c.id).where((requests.c.created_at < before) & (requests.c.status != "pending"))
    return connection.execute(requests.delete().where(requests.c.id.in_(old.limit(SWEEP_MAX)))).rowcount


def forget_periods(connection: sa.Connection, before: int) -> int:
    """Delete some periods of end users' budgets that began before the moment `before`; give their number. What a
    budget that never renews has spent stays."""
    key = user_spending.primary_key.columns
    is_over = (user_spending.c.period_start > 0) & (user_spending.c.period_start < before)
    # Several workers tidy at once, and in PostgreSQL they would wait for each other's rows, or for ever.
    over = sa.select(*key).where(is_over).limit(SWEEP_MAX).with_for_update(skip_locked=True)
    found = [{f"of_{name}": value for name, value in row._mapping.items()} for row in connection.execute(over)]
    if found:
        # One by one: SQLite would look at every row of the client for a set of keys.
        this = (column == sa.bindparam(f"of_{column.name}") for column in key)
        connection.execute(user_spending.delete().where(*this), found)
    return len(found)


def spend(connection: sa.Connection, items: Iterable[Spent]) -> None:
    """Turn reservations into spending, once per budget and period, always in the same order."""
    sums: defaultdict[tuple[int, str, int], list[int]] = defaultdict(lambda: [0, 0])
    for item in items:
        for period in item.periods():
            sums[period][0] += item.spent_nano
            sums[period][1] += item.reserved_nano
    for (client_id, end_user, period_start), (spent, reserved) in sorted(sums.items()):
        if end_user:
            owner = {"of_client_id": client_id, "of_end_user": end_user}
            USERS.spending.settle(connection, owner, period_start, spent, reserved)
        else:
            CLIENTS.spending.settle(connection, {"of_client_id": client_id}, period_start, spent, reserved)


def _spent(admitted: Admitted, charged_nano: int) -> Spent:
    return Spent(
        admitted.client_id,
        admitted.period_start,
        admitted.reserved_nano,
        charged_nano,
        admitted.end_user,
        admitted.user_period_start,
    )


def _all_of(row: Any) -> Spent:
    """What was reserved for a row, as spent."""
    reserved = row.reserved_nano
    return Spent(row.client_id, row.period_start, reserved, reserved, row.end_user, row.user_period_start)
