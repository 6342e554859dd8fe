"""The tables: every figure side by side, and every target with what came out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench import wire
from bench.phases import CACHE_CALLERS, STORES_CALLERS, WORKERS_CALLERS
from bench.plan import CALLERS, IN_FLIGHT, STREAMS
from bench.rows import DIRECT, Figure, Key, Rows, summed_up
from bench.stage import AT_ONCE, CACHE, FLIGHT, START, STORES, STREAM, WORKERS
from bench.targets import Verdict

EMPTY = "–"
COLUMNS = {
    "ours": "this server",
    "before": "before",
    "litellm": "LiteLLM",
    "portkey": "Portkey",
    "portkey-24": "Portkey, Node 24",
    DIRECT: "upstream alone",
}
CHAT = dict.fromkeys(COLUMNS, wire.COMPLETIONS) | dict.fromkeys(("ours", "before"), wire.NATIVE)
COMPLETIONS = dict.fromkeys(COLUMNS, wire.COMPLETIONS)
RESPONSES = dict.fromkeys(COLUMNS, wire.RESPONSES)
NONE = {gateway: "" for gateway in COLUMNS if gateway != DIRECT}


@dataclass(frozen=True)
class Line:
    """One line of the table of figures: which figure, of which route of each gateway."""

    title: str
    phase: str
    figure: str
    routes: Mapping[str, str]
    callers: int = 0
    shown: str = "{:,.0f}"
    factor: float = 1.0


def tables(rows: Rows, verdicts: Sequence[Verdict], about: Mapping[str, Any]) -> str:
    """All of it as Markdown."""
    judged = [[verdict.title, verdict.limit, verdict.value, verdict.outcome] for verdict in verdicts]
    parts = [
        _about(about),
        _figures(rows),
        _to_before(rows),
        _own(rows),
        _table([["target", "limit", "measured", "outcome"], *judged]) if judged else "",
        " ".join(filter(None, (_store(rows), _shares(rows)))),
    ]
    return "\n\n".join(part for part in parts if part)


def dumped(results: Mapping[str, Any], rows: Rows) -> str:
    """The raw figures as JSON, one row a line."""
    head = json.dumps(results, indent=1, ensure_ascii=False).removesuffix("\n}")
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows.dump())
    return f'{head},\n "rows": [\n{lines}\n ]\n}}\n'


def costs(rows: Rows) -> list[dict[str, str | float]]:
    """What a request costs everywhere in CPU µs, for the plot: its name, whose it is, median and range."""
    places = [(DIRECT, "the floor: a bare Flask route", Key("bare", CACHE, "cpu_us", wire.NATIVE, CACHE_CALLERS))]
    for name, title in COLUMNS.items():
        routes = (wire.NATIVE, wire.RESPONSES, wire.COMPLETIONS) if name == "ours" else (wire.COMPLETIONS,)
        for route in routes if name not in (DIRECT, "before") else ():
            places.append((name, f"{title}, {route}", Key(name, AT_ONCE, "cpu_us", route, 16)))
    figures = [(whose, title, rows.figure(key)) for whose, title, key in places]
    return [{"whose": whose, "title": title, **asdict(figure)} for whose, title, figure in figures if figure]


def write(document: Path, text: str, section: str = "bench") -> None:
    """Replace what is between the markers of a section."""
    begin, end = f"<!-- {section}: begin -->", f"<!-- {section}: end -->"
    before, _, rest = document.read_text().partition(begin)
    _, _, after = rest.partition(end)
    document.write_text(f"{before}{begin}\n\n{text.strip()}\n\n{end}{after}")


def _figures(rows: Rows) -> str:
    """The lines and columns that have something in them."""
    cells = {line.title: {gateway: _cell(rows, gateway, line) for gateway in COLUMNS} for line in _lines()}
    seen = [gateway for gateway in COLUMNS if any(line[gateway] != EMPTY for line in cells.values())]
    lines = [[title, *(line[gateway] for gateway in seen)] for title, line in cells.items()]
    full = [line for line in lines if set(line[1:]) - {EMPTY}]
    return _table([["", *(COLUMNS[gateway] for gateway in seen)], *full]) if full else ""


def _to_before(rows: Rows) -> str:
    """Ours over the one before in each round: what drifts with the machine drifts for both."""
    cells = []
    for line in _lines():
        names = ("ours", "before")
        ours, before = (Key(each, line.phase, line.figure, line.routes.get(each, ""), line.callers) for each in names)
        if ratio := summed_up(rows.ratios(ours, before)):
            cells.append([line.title.replace(", ms", ""), _shown(ratio, "{:.3f}")])
    return _table([["this server, to the one before", "×"], *cells]) if cells else ""


def _lines() -> Iterable[Line]:
    groups = {"chat": CHAT, "`/v1/responses`": RESPONSES, "`/v1/chat/completions`": COMPLETIONS}
    for name, routes in groups.items():
        for callers in CALLERS:
            yield Line(f"{name}, {_callers(callers)}, requests/s", AT_ONCE, "per_second", routes, callers)
        yield Line(f"{name}, 16 callers, CPU µs a request", AT_ONCE, "cpu_us", routes | {DIRECT: ""}, 16)
        for share in ("p50", "p99"):
            title = f"{name}, one caller, added {share}, ms"
            yield Line(title, AT_ONCE, f"added_{share}_us", routes, 1, "{:,.2f}", 1e-3)
    flight = "1,000 one-second calls in flight"
    yield Line(f"{flight}, calls/s", FLIGHT, "per_second", CHAT, IN_FLIGHT)
    yield Line(f"{flight}, resident MB", FLIGHT, "resident_mb", CHAT, IN_FLIGHT)
    streams = "300 streams × 20 events/s"
    for kind in ("first", "event"):
        for share in ("p50", "p99"):
            title = f"{streams}, {'first event' if kind == 'first' else 'per event'}, added {share}, ms"
            yield Line(title, STREAM, f"added_{kind}_{share}_us", CHAT, STREAMS, "{:,.1f}", 1e-3)
    yield Line(f"{streams}, events lost or late", STREAM, "lost", CHAT, STREAMS)
    yield Line(f"{streams}, % of one core", STREAM, "steady_cores", CHAT, STREAMS, "{:,.0f}", 100)
    yield Line("resident MB, idle", START, "idle_mb", NONE)
    yield Line("resident MB, after the load", START, "after_mb", NONE)
    yield Line("start to ready, s", START, "start_seconds", NONE, 0, "{:,.2f}")


def _callers(callers: int) -> str:
    return "one caller" if callers == 1 else f"{callers:,} callers"


def _cell(rows: Rows, gateway: str, line: Line) -> str:
    if gateway not in line.routes:
        return EMPTY
    key = Key(gateway, line.phase, line.figure, line.routes[gateway], line.callers)
    if figure := rows.figure(key):
        return _shown(figure, line.shown, line.factor)
    # What did not start has no row that says how long it took to.
    problem = rows.problem(key) or rows.problem(Key(gateway, AT_ONCE, line.figure))
    return problem.partition(":")[0] or EMPTY


def _shown(figure: Figure, shown: str, factor: float = 1.0) -> str:
    median, least, most = (shown.format(factor * value) for value in (figure.median, figure.least, figure.most))
    return median if least == most else f"{median} ({least}–{most})"


def _own(rows: Rows) -> str:
    """What is measured of this server alone."""
    places = {
        f"cache hit, {CACHE_CALLERS} callers": ("cache", CACHE, CACHE_CALLERS),
        f"bare Flask route, {CACHE_CALLERS} callers": ("bare", CACHE, CACHE_CALLERS),
        f"one worker, {WORKERS_CALLERS} callers": ("workers-1", WORKERS, WORKERS_CALLERS),
        f"two workers, {WORKERS_CALLERS} callers": ("workers-2", WORKERS, WORKERS_CALLERS),
        f"SQLite, a client with a budget, {STORES_CALLERS} callers": ("sqlite", STORES, STORES_CALLERS),
        f"PostgreSQL, the same client, {STORES_CALLERS} callers": ("postgresql", STORES, STORES_CALLERS),
        f"PostgreSQL, two workers, {STORES_CALLERS} callers": ("postgresql-2", STORES, STORES_CALLERS),
    }
    cells = []
    for title, (name, phase, callers) in places.items():
        figures = [rows.figure(Key(name, phase, each, wire.NATIVE, callers)) for each in ("per_second", "cpu_us")]
        if any(figures):
            cells.append([title, *(_shown(figure, "{:,.0f}") if figure else EMPTY for figure in figures)])
    return _table([["this server alone", "requests/s", "CPU µs a request"], *cells]) if cells else ""


def _store(rows: Rows) -> str:
    used, version = (
        rows.figure(Key("postgresql", STORES, name, wire.NATIVE, STORES_CALLERS))
        for name in ("postgresql_cpu_us", "postgresql_version")
    )
    if not used or not version:
        return ""
    major, minor = divmod(int(version.most), 10_000)
    return f"PostgreSQL {major}.{minor} itself used {used.median:,.0f} µs of CPU a request."


def _shares(rows: Rows) -> str:
    client, upstream = (rows.most(AT_ONCE, f"{name}_cores", without=DIRECT) for name in ("client", "upstream"))
    two = [
        rows.figure(Key(f"workers-{count}", WORKERS, f"{name}_cores", wire.NATIVE, WORKERS_CALLERS))
        for count in (1, 2)
        for name in ("gateway", "client", "upstream")
    ]
    if not client:
        return ""
    text = (
        f"While a gateway was measured, the load generator used at most {client:.0%} of a core"
        f" and upstream {upstream:.0%}."
    )
    if all(two):
        one, other = ([f"{figure.median:.2f}" for figure in part if figure] for part in (two[:3], two[3:]))
        text += (
            f" Cores with one worker: {one[0]} by the server, {one[1]} by the load generator and {one[2]} by upstream;"
            f" with two: {other[0]}, {other[1]} and {other[2]}."
        )
    return text


def _about(about: Mapping[str, Any]) -> str:
    machine, versions = about["machine"], about["versions"]
    where = f"{machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']:.0f} GB, Linux {machine['kernel']}"
    named = ", ".join(f"{name} {version}" for name, version in versions.items())
    rounds = about["rounds"]
    how = f"{rounds} rounds, medians and in brackets the ranges" if rounds > 1 else "one round"
    chat = f"“chat” is this server's `{wire.NATIVE}` beside the others' `{wire.COMPLETIONS}`"
    return f"{about['date']}, {where}; {how}; {chat}.\nVersions: {named}."


def _table(cells: Sequence[Sequence[str]]) -> str:
    head, *body = cells
    lines = [head, ["---", *("---:" for _ in head[1:])], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
