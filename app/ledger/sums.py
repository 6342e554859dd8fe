"""Sums of the ledger by group or by time, with percentiles of its times, in one query for SQLite and PostgreSQL alike.

Percentiles come from a histogram: the database counts rows by group and class of milliseconds, and then looks in these
few counts for the class that holds the median. To order all rows of a group by their time instead (`row_number()`)
took more than twice as long. A class is at most a tenth as wide as it is large, so its middle is right to 5 % and a
millisecond (test_usage_series.py).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from app.store.tables import attempts, requests
from app.units import MICROSECONDS, MICROSECONDS_PER_DAY, dollars

LONGEST_MS = 10_000_000
"""Longer ones are one class."""
TOKENS = ("input_tokens", "cached_tokens", "output_tokens")
COUNTS = ("requests", "ok", "failed", *TOKENS, "cost_nano", "requests_of_unknown_cost")
FAILED = ("error", "timeout", "abandoned")
LEFT = ("cancelled", "client_closed_request", "turn_interrupted")
"""What an attempt came to whose caller had left: it was not answered, and did not fail."""
ORDERS: Mapping[str, str] = {"cost_usd": "cost_nano", "p50_ms": "p50", "p95_ms": "p95"}
"""The columns of the query by which these of USAGE_SORTS sort."""


def _classes() -> Iterable[tuple[int, int]]:
    """From 20 ms on: below which bound a class is how wide, in milliseconds."""
    yield from ((50, 2), (100, 5))
    decade = 100
    while decade < LONGEST_MS:
        yield from ((2 * decade, decade // 10), (5 * decade, decade // 5), (10 * decade, decade // 2))
        decade *= 10


CLASSES = ((20, 1), *_classes())


def _class_of(measure: sa.ColumnElement[Any], outcome: sa.ColumnElement[Any]) -> sa.ColumnElement[Any]:
    """The lower end of the class of a time; NULL where nothing was answered, or no time was taken."""
    # Text, not parameters: PostgreSQL must see the same expression in SELECT and GROUP BY.
    whole = f"CAST({measure} AS BIGINT)"
    cases = " ".join(f"WHEN {measure} < {below} THEN {whole} / {width} * {width}" for below, width in CLASSES)
    return sa.literal_column(
        f"CASE WHEN {outcome} <> 'ok' OR {measure} IS NULL THEN NULL {cases} ELSE {LONGEST_MS} END"
    )


def middle_ms(lower: int | None) -> float | None:
    """The middle of the class that begins there."""
    if lower is None or lower >= LONGEST_MS:
        return lower
    return lower + next(width for below, width in CLASSES if lower < below) / 2


def group_of(by: str, step_seconds: int = 0) -> sa.ColumnElement[Any]:
    """What rows are grouped by: a name of USAGE_GROUPS, or `time` in steps of so many seconds."""
    # Literals, not parameters: PostgreSQL must see the same expression in SELECT and GROUP BY.
    if by in {"day", "time"}:
        step = MICROSECONDS_PER_DAY if by == "day" else step_seconds * MICROSECONDS
        return requests.c.created_at - requests.c.created_at % sa.literal_column(str(step))
    names = {"model": "model", "client": "client_name", "user": "end_user", "api_key_source": "api_key_source"}
    names["session"] = "session_id"
    return sa.func.coalesce(requests.c[names[by]], sa.literal_column("''"))


@dataclass(frozen=True)
class _Source:
    """Rows that are summed: from where, and what of them is grouped by, came out, and is measured."""

    rows: sa.FromClause
    table: sa.Table
    group: sa.ColumnElement[Any]
    outcome: sa.ColumnElement[Any]
    failed: sa.ColumnElement[bool]
    measure: sa.ColumnElement[Any]
    conditions: Sequence[sa.ColumnElement[bool]] = ()

    def counted(self) -> dict[str, sa.ColumnElement[Any]]:
        """What each of COUNTS is counted by; and the newest row."""
        cost = self.table.c.cost_nano
        flags = {"ok": self.outcome == "ok", "failed": self.failed, "requests_of_unknown_cost": cost.is_(None)}
        return {
            "requests": sa.func.count(),
            "cost_nano": sa.func.sum(cost),
            "newest": sa.func.max(requests.c.id),
            **{name: sa.func.sum(self.table.c[name]) for name in TOKENS},
            **{name: sa.func.sum(sa.case((flag, 1), else_=0)) for name, flag in flags.items()},
        }


class Sums:
    """The sums of the rows that fulfil `conditions`, by group; by upstream the rows are attempts, of all or of one
    `upstream`.

    `names`: which of COUNTS. `measure`: the time whose percentiles are told, `total_ms` or `first_token_ms`; of an
    attempt it is always how long it took until the answer began.
    """

    def __init__(
        self,
        by: str,
        conditions: Sequence[sa.ColumnElement[bool]],
        *,
        names: Sequence[str] = COUNTS,
        measure: str = "total_ms",
        step_seconds: int = 0,
        upstream: str | None = None,
    ) -> None:
        self._conditions = conditions
        own = [_of_requests(group_of(by, step_seconds), requests.c[measure])] if by != "upstream" else []
        self._sources = own or _by_upstream(upstream)
        self._merged = dict.fromkeys(names, sa.func.sum) | ({"newest": sa.func.max} if by == "session" else {})

    def plain(self) -> sa.Select[Any]:
        """A row for each group: its `key` and what is counted, by session also the `newest` id. Not by upstream."""
        (source,) = self._sources
        return self._summed(source).group_by(sa.text("1"))

    def by_key(self, keys: Collection[Any] | None = None) -> sa.Select[Any]:
        """The same, of these keys or of all, and the classes `p50` and `p95`."""
        return self._with_percentiles(self._classes(keys))

    def with_all(self) -> sa.CompoundSelect[Any]:
        """The same, and one row more, whose key is NULL: of all groups together."""
        classes = self._classes(None)
        counted = classes.c
        everything = (
            sa.select(
                sa.cast(sa.null(), counted.key.type).label("key"),
                counted["class"],
                *(merge(counted[name]).label(name) for name, merge in self._merged.items()),
            )
            .group_by(counted["class"])
            .cte("everything")
        )
        return sa.union_all(self._with_percentiles(classes), self._with_percentiles(everything))

    def _classes(self, keys: Collection[Any] | None) -> sa.CTE:
        """The histogram: what is counted, by group and class."""
        chosen = [
            self._summed(source, _class_of(source.measure, source.outcome).label("class"))
            .where(*([] if keys is None else [source.group.in_(keys)]))
            .group_by(sa.text("1"), sa.text("2"))
            for source in self._sources
        ]
        return (chosen[0] if len(chosen) == 1 else sa.union_all(*chosen)).cte("classes")

    def _summed(self, source: _Source, *more: sa.ColumnElement[Any]) -> sa.Select[Any]:
        counted = source.counted()
        columns = [source.group.label("key"), *more, *(counted[name].label(name) for name in self._merged)]
        return sa.select(*columns).select_from(source.rows).where(*self._conditions, *source.conditions)

    def _with_percentiles(self, source: sa.CTE) -> sa.Select[Any]:
        counted = source.c
        timed = sa.case((counted["class"].is_(None), 0), else_=counted.requests)
        ranked = sa.select(
            source,
            sa.func.sum(timed).over(partition_by=counted.key, order_by=counted["class"]).label("up_to_here"),
            sa.func.sum(timed).over(partition_by=counted.key).label("timed"),
        ).subquery()

        def percentile(share: int) -> sa.ColumnElement[Any]:
            reached = ranked.c.up_to_here * 100 >= ranked.c.timed * share
            return sa.func.min(sa.case((reached, ranked.c["class"]))).label(f"p{share}")

        sums = (merge(ranked.c[name]).label(name) for name, merge in self._merged.items())
        return sa.select(ranked.c.key, *sums, percentile(50), percentile(95)).group_by(ranked.c.key)


def _of_requests(
    group: sa.ColumnElement[Any], measure: sa.ColumnElement[Any], *conditions: sa.ColumnElement[bool]
) -> _Source:
    status = requests.c.status
    return _Source(requests, requests, group, status, status.in_(FAILED), measure, conditions)


def _by_upstream(name: str | None) -> list[_Source]:
    """The attempts of all upstreams or of one: a request's only one is in its own row (app/ledger/attempts.py)."""
    alone, among, outcome = requests.c.upstream, attempts.c.upstream, attempts.c.outcome
    failed, rows = outcome.not_in(("ok", *LEFT)), requests.join(attempts)
    return [
        _of_requests(alone, requests.c.answer_ms, alone.is_not(None) if name is None else alone == name),
        _Source(rows, attempts, among, outcome, failed, attempts.c.ms, [] if name is None else [among == name]),
    ]


def order(sort: str) -> Sequence[sa.ColumnElement[Any]]:
    """By one of USAGE_SORTS: names from A to Z, all else the largest first."""
    if sort == "key":
        return (sa.literal_column("key"),)
    return (sa.literal_column(ORDERS.get(sort, sort)).desc().nulls_last(), sa.literal_column("key"))


def told(row: Mapping[str, Any] | None) -> dict[str, Any]:
    """The sums of a row as they are told; None: of no requests at all."""
    counts = {name: 0 if row is None else int(row[name] or 0) for name in COUNTS if name != "cost_nano"}
    nano = 0 if row is None else row["cost_nano"]
    times = {f"{name}_ms": None if row is None else middle_ms(row[name]) for name in ("p50", "p95")}
    return counts | {"cost_usd": dollars(None if nano is None else int(nano))} | times
