"""The attempts of a request: which upstream was asked with which key, how it ended, and what it cost.

Most requests make one. What there is to say of that stands in the request's own row: one more INSERT for each request
was most of what several upstreams cost. Where there were more, each has a row. Before revision 0010 a single one had a
row, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import sqlalchemy as sa

from app.calls.receipt import Receipt, Tried
from app.ledger.entry import Entry
from app.models import ApiKey, Usage
from app.store.statement import RowsStatement
from app.store.tables import attempts
from app.units import dollars, milliseconds

_COLUMNS = {column.name: column.type for column in attempts.columns}
_INSERT = RowsStatement(
    lambda given: attempts.insert().from_select(
        [*_COLUMNS], sa.select(*(given.c[name] for name in _COLUMNS)), include_defaults=False
    ),
    _COLUMNS,
)
Row = Mapping[str, Any]
_NOT_IN_ROW: Row = {"upstream": None, "upstream_model": None, "answer_ms": None}


def in_row(receipt: Receipt, rows: Sequence[Row]) -> Row:
    """What a request's row says of its only attempt. Nothing where its attempts have `rows` of their own, or where the
    server has one upstream."""
    tried = receipt.last
    if rows or tried is None or not tried.upstream:
        return _NOT_IN_ROW
    return {"upstream": tried.upstream, "upstream_model": tried.model, "answer_ms": milliseconds(tried.seconds)}


def of_row(row: Row) -> list[dict[str, Any]]:
    """The attempt that a request's row has in it, as it is told."""
    if row["upstream"] is None:
        return []
    attempt = {name: row[name] for name in _COLUMNS if name in row}
    own = {"model": row["upstream_model"], "ms": row["answer_ms"], "outcome": row["code"] or row["status"]}
    return [told(attempt | own)]


def told(attempt: Row) -> dict[str, Any]:
    """An attempt as it is told."""
    hidden = {"request", "number", "cost_nano"}
    values = {name: value for name, value in attempt.items() if name not in hidden}
    return values | {"cost_usd": dollars(attempt["cost_nano"])}


def rows_of(entry: Entry, status: str, code: str | None, fingerprint: Callable[[ApiKey], str]) -> Iterator[Row]:
    """The rows of a request's attempts where there were several, the last of which is what the request came to. None
    where the server has one upstream.

    A list of all models is several attempts that answer. Where the only one of them fails, the list is answered all the
    same: then this attempt has a row, since the request's own says `ok`.
    """
    last = entry.receipt.last
    if last is None or not last.upstream or (len(entry.receipt.tried) == 1 and (status != "ok" or last.code is None)):
        return
    for tried, usage, is_estimated, cost_nano in entry.absorbed():
        yield _row(tried, tried.code or "ok", usage, is_estimated, cost_nano, tried.answered_by, fingerprint)
    usage, is_estimated = entry.usage()
    outcome = code or last.code or status
    yield _row(last, outcome, usage, is_estimated, entry.charge_of_the_last(), entry.receipt.model, fingerprint)


def _row(
    tried: Tried,
    outcome: str,
    usage: Usage,
    is_estimated: bool,
    cost_nano: int | None,
    model_answered: str | None,
    fingerprint: Callable[[ApiKey], str],
) -> Row:
    return {
        "upstream": tried.upstream,
        "model": tried.model,
        "model_answered": model_answered,
        "api_key_fingerprint": fingerprint(tried.key) if tried.key.secret else None,
        "outcome": outcome,
        "ms": milliseconds(tried.seconds),
        "input_tokens": usage.input_tokens,
        "cached_tokens": usage.cached_tokens,
        "output_tokens": usage.output_tokens,
        "cost_nano": cost_nano,
        "estimated": is_estimated,
    }


def write(connection: sa.Connection, tried: Iterable[tuple[int, Iterable[Row]]]) -> None:
    """Write the attempts of requests, each with the id of its request's row."""
    rows = [
        {**row, "request": row_id, "number": number}
        for row_id, made in tried
        for number, row in enumerate(made, start=1)
    ]
    if rows:
        _INSERT.run(connection, rows)
