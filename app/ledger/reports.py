"""Usage reports: what the ledger says about a time, by day, model, client, end user, key source or session, over time,
and row by row."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from app.json_bytes import is_writable
from app.ledger import attempts as tries
from app.ledger.end_users import known_as
from app.ledger.sums import Sums, middle_ms, order, told
from app.models import USAGE_POINTS_MAX, USAGE_STEPS_SECONDS
from app.store.database import Database
from app.store.tables import attempts, requests
from app.units import MICROSECONDS, dollars, iso

MANY = {"session", "user"}
"""Of these groups there may be as many as rows."""


@dataclass(frozen=True, kw_only=True)
class Period:
    """From the moment `since`, before the moment `until` (microseconds since 1970, UTC); None is open. `user`: the
    requests for one end user, by the name that they gave; `session`: those with this session id; `model`: those that
    asked for it; `upstream`: those for which it was asked."""

    since: int | None = None
    until: int | None = None
    user: str | None = None
    session: str | None = None
    model: str | None = None
    upstream: str | None = None


class UsageReports:
    """Reads the ledger; `client_id` restricts everything to one client's rows. `clock`: seconds since 1970."""

    def __init__(self, database: Database, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    def totals(
        self,
        by: str,
        period: Period,
        client_id: int | None = None,
        *,
        users_max: int | None = None,
        sort: str | None = None,
    ) -> list[dict[str, Any]]:
        """Sums per group; a cost is None when a row of the group has an unknown one and none a known.

        By upstream the rows are attempts, so a request that two of them were asked for counts for both. `sort`: one of
        SORTS, of which `users_max` are told. Without it they come by key, and all of them; but by user those come first
        who cost most, and of these `users_max`: a client may have a million.
        """
        sort = sort or ("cost_usd" if by == "user" else None)
        sums = Sums(by, _restrictions(period, client_id, by=by), upstream=period.upstream)
        limit = users_max if sort else None
        if by in MANY and limit and sort not in {"p50_ms", "p95_ms"}:
            found = self._some(sums, sums.plain().order_by(*order(sort or "key")).limit(limit))
        else:
            found = self._found(sums.by_key().order_by(*order(sort or "key")).limit(limit))
        return [_totals(by, row) for row in found]

    def sessions(
        self, period: Period, client_id: int | None = None, *, cursor: int | None = None, limit: int = 100
    ) -> tuple[list[dict[str, Any]], int | None]:
        """Sums per session, of which there may be many: that of the newest row first, and the cursor of the next page
        (None on the last)."""
        sums = Sums("session", _restrictions(period, client_id))
        plain = sums.plain().subquery()
        query = sa.select(plain).order_by(plain.c.newest.desc()).limit(limit + 1)
        if cursor is not None:
            query = query.where(plain.c.newest < cursor)
        found = self._some(sums, query)
        more = found[limit - 1]["newest"] if len(found) > limit else None
        return [_totals("session", row) for row in found[:limit]], more

    def _some(self, sums: Sums, query: sa.Select[Any]) -> list[dict[str, Any]]:
        """The groups that `query` finds, with percentiles for these alone: a histogram of all would be too large."""
        found = self._found(query)
        if not found:
            return []
        times = {row["key"]: row for row in self._found(sums.by_key([row["key"] for row in found]))}
        return [{"p50": None, "p95": None} | times.get(row["key"], {}) | row for row in found]

    def _found(self, query: sa.Select[Any] | sa.CompoundSelect[Any]) -> list[dict[str, Any]]:
        return self._database.read(lambda connection: [dict(row) for row in connection.execute(query).mappings()])

    def series(
        self, period: Period, client_id: int | None = None, *, step_seconds: int | None = None
    ) -> dict[str, Any]:
        """Sums over time, with no gaps: `points` that are `step_seconds` apart, and the `sums` of them all.

        Without a step, and where one would give more than USAGE_POINTS_MAX points, it is the least of
        USAGE_STEPS_SECONDS that does not. A period that is open begins with the oldest row of the ledger and ends now.
        """
        first, last = self._extent(period)
        step = _step(first, last, step_seconds or 0)
        rows, begun = _restrictions(period, client_id), requests.c.first_token_ms.is_not(None)
        found = self._by_time(Sums("time", rows, step_seconds=step))
        sums = Sums("time", [*rows, begun], names=["requests"], step_seconds=step, measure="first_token_ms")
        first_tokens = self._by_time(sums)

        def told_at(key: int | None) -> dict[str, Any]:
            return told(found.get(key)) | {"first_token_p50_ms": middle_ms(first_tokens.get(key, {}).get("p50"))}

        width, keys = step * MICROSECONDS, [key for key in found if key is not None]
        moments = range(min([first - first % width, *keys]), max([last, *keys]) + 1, width)
        points = [{"at": iso(moment)} | told_at(moment) for moment in moments]
        return {"step_seconds": step, "since": iso(first), "until": iso(last), "points": points, "sums": told_at(None)}

    def _by_time(self, sums: Sums) -> dict[int | None, dict[str, Any]]:
        return {row["key"]: row for row in self._found(sums.with_all())}

    def _extent(self, period: Period) -> tuple[int, int]:
        """From when to when a series tells. Years without a ledger are left out: there would be too many points."""
        created, now = requests.c.created_at, int(self._clock() * MICROSECONDS)
        query = sa.select(
            sa.select(sa.func.min(created)).scalar_subquery(), sa.select(sa.func.max(created)).scalar_subquery()
        )
        oldest, newest = self._database.read(lambda connection: connection.execute(query).one())
        oldest, newest = oldest or now, max(newest or now, now)
        first = oldest if period.since is None else period.since
        last = newest if period.until is None else min(period.until - 1, newest)
        if _points(first, last, USAGE_STEPS_SECONDS[-1]) > USAGE_POINTS_MAX:
            first = max(first, oldest)
        return first, max(first, last)

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
        if not is_writable(request_id):
            return None
        conditions = [*_restrictions(Period(), client_id), requests.c.request_id == request_id]
        query = requests.select().where(*conditions).order_by(requests.c.id.desc()).limit(1)
        row = self._database.read(lambda connection: connection.execute(query).first())
        if row is None:
            return None
        tried = attempts.select().where(attempts.c.request == row.id).order_by(attempts.c.number)
        found = self._database.read(lambda connection: connection.execute(tried).all())
        made = [tries.told(dict(attempt._mapping)) for attempt in found] or tries.of_row(dict(row._mapping))
        return _row(row._mapping) | {"attempts": made}


def _step(first: int, last: int, least: int) -> int:
    """Of USAGE_STEPS_SECONDS the first from `least` on that gives no more than USAGE_POINTS_MAX points."""
    enough = (step for step in USAGE_STEPS_SECONDS if step >= least and _points(first, last, step) <= USAGE_POINTS_MAX)
    return next(enough, USAGE_STEPS_SECONDS[-1])


def _points(first: int, last: int, step_seconds: int) -> int:
    """How many points there are from the moment `first` to the moment `last`."""
    width = step_seconds * MICROSECONDS
    return last // width - first // width + 1


def _restrictions(period: Period, client_id: int | None, *, by: str = "") -> list[sa.ColumnElement[bool]]:
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
    if period.model is not None:
        conditions.append(requests.c.model == period.model)
    if period.upstream is not None and by != "upstream":
        among = sa.exists().where(attempts.c.request == requests.c.id, attempts.c.upstream == period.upstream)
        conditions.append((requests.c.upstream == period.upstream) | among)
    return conditions


def _totals(by: str, row: Any) -> dict[str, Any]:
    return {"key": iso(row["key"])[:10] if by == "day" else row["key"]} | told(row)


def _row(row: Any) -> dict[str, Any]:
    hidden = {"id", "client_id", "owner", "lease_until", "reserved_nano", "period_start", "cost_nano", "response_id"}
    hidden |= {"client_name", "end_user", "user_period_start", "upstream", "upstream_model", "answer_ms"}
    values = {name: value for name, value in row.items() if name not in hidden}
    moments = {name: iso(values[name]) for name in ("created_at", "settled_at") if values[name] is not None}
    names = {"client": row["client_name"], "user": row["end_user"]}
    return values | moments | names | {"cost_usd": dollars(row["cost_nano"])}
