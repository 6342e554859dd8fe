"""The life of a request as its row of the ledger tells it: what followed what, and how long each took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Step:
    """What happened, from `begin_ms` on after the request had come, for `ms`. `kind`: `queue`, `attempt` (of number
    `number`), `upstream` (where there is but one), `answer`, or a moment: `first_token`, `end`."""

    kind: str
    begin_ms: float
    ms: float = 0.0
    number: int = 0


def timeline(row: Mapping[str, Any]) -> list[Step]:
    """The steps of a request in order; none where it is not over yet.

    Attempts follow each other; the ledger has how long each took until it answered or failed, not the pauses between
    them. What the last one took longer is the answer, as it came.
    """
    total = row["total_ms"]
    if total is None:
        return []
    at = min(row["queue_ms"] or 0.0, total)
    steps = [Step("queue", 0.0, at)]
    for number, attempt in enumerate(row["attempts"], start=1):
        took = min(attempt["ms"] or 0.0, total - at)
        steps.append(Step("attempt", at, took, number))
        at += took
    if row["attempts"]:
        steps += [Step("answer", at, total - at)] if row["attempts"][-1]["outcome"] == "ok" else []
    elif row["upstream_ms"]:
        steps.append(Step("upstream", at, min(row["upstream_ms"], total - at)))
    if row["first_token_ms"] is not None:
        steps.append(Step("first_token", min(row["first_token_ms"], total)))
    return [*steps, Step("end", total)]
