"""What was measured, one row per load on one route of one gateway in one round, and how the rounds are summed up."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from bench import wire

DIRECT = "direct"
UPSTREAM_ROUTE = {wire.NATIVE: wire.RESPONSES, wire.RESPONSES: wire.RESPONSES, wire.COMPLETIONS: wire.COMPLETIONS}
"""The route of upstream that each route of a gateway calls."""


@dataclass(frozen=True)
class Row:
    round: int
    gateway: str
    phase: str
    route: str = ""
    callers: int = 0
    figures: Mapping[str, float] = field(default_factory=dict)
    problem: str = ""
    """Why the figures are not to be believed, or that there are none; one line."""


@dataclass(frozen=True)
class Figure:
    """The median over the rounds, and the least and the most."""

    median: float
    least: float
    most: float


@dataclass(frozen=True)
class Key:
    """Names one figure of all rounds."""

    gateway: str
    phase: str
    figure: str
    route: str = ""
    callers: int = 0


class Rows:
    """All rows of a run."""

    def __init__(self, rows: Iterable[Row]) -> None:
        measured = list(rows)
        self._rows = [_with_added(row, measured) for row in measured]

    def dump(self) -> list[dict[str, Any]]:
        """As plain values, for JSON."""
        return [asdict(row) for row in self._rows]

    def by_round(self, key: Key) -> dict[int, list[float]]:
        """The valid values of each round; the phases that start a gateway give more than one."""
        values: dict[int, list[float]] = {}
        for row in self._of(key):
            if not row.problem and key.figure in row.figures:
                values.setdefault(row.round, []).append(row.figures[key.figure])
        return values

    def figure(self, key: Key) -> Figure | None:
        """None when no round has a valid value."""
        return summed_up([value for values in self.by_round(key).values() for value in values])

    def problem(self, key: Key) -> str:
        """What is wrong with these rows, or with all of their route or phase; nothing when all is well."""
        rows = (row for row in self._rows if row.problem and (row.gateway, row.phase) == (key.gateway, key.phase))
        fits = (row for row in rows if row.route in ("", key.route) and row.callers in (0, key.callers))
        return next((row.problem for row in fits), "")

    def ratios(self, above: Key, below: Key) -> list[float]:
        """One quotient per round that has both."""
        tops, bottoms = self.by_round(above), self.by_round(below)
        pairs = ((statistics.median(tops[each]), statistics.median(bottoms[each])) for each in tops if each in bottoms)
        return [top / bottom for top, bottom in pairs if bottom]

    def most(self, phase: str, figure: str, *, without: str = "") -> float:
        """The greatest valid value of any gateway but one."""
        values = (row.figures.get(figure, 0.0) for row in self._rows if row.phase == phase and row.gateway != without)
        return max(values, default=0.0)

    def _of(self, key: Key) -> list[Row]:
        wanted = (key.gateway, key.phase, key.route, key.callers)
        return [row for row in self._rows if (row.gateway, row.phase, row.route, row.callers) == wanted]


def summed_up(values: list[float]) -> Figure | None:
    """Median and range; None for nothing."""
    return Figure(statistics.median(values), min(values), max(values)) if values else None


def _with_added(row: Row, rows: list[Row]) -> Row:
    """The row, and for each latency how much of it the gateway added to what upstream alone took in that round."""
    if row.gateway == DIRECT or row.route not in UPSTREAM_ROUTE:
        return row
    place = (row.round, DIRECT, row.phase, UPSTREAM_ROUTE[row.route], row.callers)
    alone = next((each for each in rows if _place(each) == place and not each.problem), None)
    if alone is None:
        return row
    latencies = [name for name in row.figures if name.endswith("_us") and name in alone.figures]
    added = {f"added_{name}": row.figures[name] - alone.figures[name] for name in latencies}
    return replace(row, figures={**row.figures, **added})


def _place(row: Row) -> tuple[int, str, str, str, int]:
    return (row.round, row.gateway, row.phase, row.route, row.callers)
