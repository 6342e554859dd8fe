"""Usage reports: what the ledger says about a time, by day, model, client, end user, key source or session, and row by
row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from app.ledger.end_users import known_as
from app.store.database import Database
from app.store.tables import attempts, requests
from app.units import MICROSECONDS_PER_DAY, dollars, iso


@dataclass(frozen=True, kw_only=True)
class Period:
    """From the moment `since`, before the moment `until` (microseconds since 1970, UTC); None is open. `user`: the
    requests for one end user, by the name that they gave; `session`: those with this session id."""

    since: int | None = None
    until: int | None = None
    user: str | None = None
    session: str | None = None


class UsageReports:
    """Reads the ledger; `client_id` restricts everything to one client's rows."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def totals(
        self, by: str, period: Period, client_id: int | None = None, *, users_max: int | None = None
    ) -> list[dict[str, Any]]:
        """Sums per group; a cost is None when a row of the group has an unknown one and none a known.

        By upstream the rows are attempts, so a request that two of them were asked for counts for both. By user those
        come first who cost most, and of these `users_max`: a client may have a million.
        """
        by_cost = (sa.func.sum(requests.c.cost_nano).desc().nulls_last(),) if by == "user" else ()
        query = _sums(by, _restrictions(period, client_id)).order_by(*by_cost, _group(by))
        query = query.limit(users_max if by == "user" else None)
        rows = self._database.read(lambda connection: connection.execute(query).all())
        return [_totals(by, row._mapping) for row in rows]

    def sessions(
        self, period: Period, client_id: int | None = None, *, cursor: int | None = None, limit: int = 100
    ) -> tuple[list[dict[str, Any]], int | None]:
        """Sums per session, of which there may be many: that of the newest row first, and the cursor of the next page
        (None on the last)."""
        newest = sa.func.max(requests.c.id)
        query = _sums("session", _restrictions(period, client_id)).add_columns(newest.label("newest"))
        if cursor is not None:
            query = query.having(newest < cursor)
        query = query.order_by(newest.desc()).limit(limit + 1)
        found = self._database.read(lambda connection: connection.execute(query).all())
        more = found[limit - 1].newest if len(found) > limit else None
        return [_totals("session", row._mapping) for row in found[:limit]], more

    def rows(
        self, period: Period, client_id: int | None = None, *, cursor: int | None = None, limit: int = 100
    ) -> tuple[list[dict[str, Any]], int | None]:
        """Ledger rows, newest first, and the cursor of the next page (None on the last)."""
        conditions = _restrictions(period, client_id)
        if cursor is not None:
            conditions.append(requests.c.id < cursor)
        query = requests.select().where(*conditions).order_by(requests.c.id.desc()).limit(limit + 1)
        found = self._database.read(lambda connection: connection.execute(query).all())
        more = found[limit - 1].id if len(found) > limit else None
        return [_row(row._mapping) for row in found[:limit]], more

    def one(self, request_id: str, client_id: int | None = None) -> dict[str, Any] | None:
        """The newest row of a request id; None when there is none, or it is another client's."""
        conditions = [*_restrictions(Period(), client_id), requests.c.request_id == request_id]
        query = requests.select().where(*conditions).order_by(requests.c.id.desc()).limit(1)
        row = self._database.read(lambda connection: connection.execute(query).first())
        if row is None:
            return None
        tried = attempts.select().where(attempts.c.request == row.id).order_by(attempts.c.number)
        found = self._database.read(lambda connection: connection.execute(tried).all())
        return _row(row._mapping) | {"attempts": [_attempt(attempt._mapping) for attempt in found]}


def _sums(by: str, conditions: list[sa.ColumnElement[bool]]) -> sa.Select[Any]:
    table, ok = (attempts, attempts.c.outcome) if by == "upstream" else (requests, requests.c.status)
    group, total = _group(by), sa.func.sum
    return (
        sa.select(
            group.label("key"),
            sa.func.count().label("requests"),
            total(sa.case((ok == "ok", 1), else_=0)).label("ok"),
            *(total(table.c[name]).label(name) for name in ("input_tokens", "cached_tokens", "output_tokens")),
            total(table.c.cost_nano).label("cost_nano"),
            total(sa.case((table.c.cost_nano.is_(None), 1), else_=0)).label("requests_of_unknown_cost"),
        )
        .select_from(requests.join(attempts) if by == "upstream" else requests)
        .where(*conditions)
        .group_by(group)
    )


def _group(by: str) -> sa.ColumnElement[Any]:
    # Literals, not parameters: PostgreSQL must see the same expression in SELECT and GROUP BY.
    if by == "day":
        return requests.c.created_at - requests.c.created_at % sa.literal_column(str(MICROSECONDS_PER_DAY))
    if by == "upstream":
        return attempts.c.upstream
    names = {"model": "model", "client": "client_name", "user": "end_user", "api_key_source": "api_key_source"}
    names["session"] = "session_id"
    return sa.func.coalesce(requests.c[names[by]], sa.literal_column("''"))


def _restrictions(period: Period, client_id: int | None, session_id: str | None = None) -> list[sa.ColumnElement[bool]]:
    conditions: list[sa.ColumnElement[bool]] = []
    if period.since is not None:
        conditions.append(requests.c.created_at >= period.since)
    if period.until is not None:
        conditions.append(requests.c.created_at < period.until)
    if client_id is not None:
        conditions.append(requests.c.client_id == client_id)
    if period.user is not None:
        conditions.append(requests.c.end_user == known_as(period.user))
    if period.session is not None:
        conditions.append(requests.c.session_id == period.session)
    return conditions


def _totals(by: str, row: Any) -> dict[str, Any]:
    values = {name: int(value or 0) for name, value in row.items() if name not in {"key", "cost_nano", "newest"}}
    key = iso(row["key"])[:10] if by == "day" else row["key"]
    nano = row["cost_nano"]
    return {"key": key, **values, "cost_usd": dollars(None if nano is None else int(nano))}


def _attempt(row: Any) -> dict[str, Any]:
    hidden = {"id", "request", "number", "cost_nano"}
    return {name: value for name, value in row.items() if name not in hidden} | {"cost_usd": dollars(row["cost_nano"])}


def _row(row: Any) -> dict[str, Any]:
    hidden = {"id", "client_id", "owner", "lease_until", "reserved_nano", "period_start", "cost_nano", "response_id"}
    hidden |= {"client_name", "end_user", "user_period_start"}
    values = {name: value for name, value in row.items() if name not in hidden}
    moments = {name: iso(values[name]) for name in ("created_at", "settled_at") if values[name] is not None}
    names = {"client": row["client_name"], "user": row["end_user"]}
    return values | moments | names | {"cost_usd": dollars(row["cost_nano"])}
