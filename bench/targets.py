"""The targets that this server has set itself, each as a figure of the run and how far it is from its limit."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass

from bench import wire
from bench.gateways import PEERS
from bench.phases import CACHE_CALLERS, STORES_CALLERS, WORKERS_CALLERS
from bench.plan import CALLERS, IN_FLIGHT, STREAMS
from bench.rows import DIRECT, Key, Rows
from bench.stage import AT_ONCE, CACHE, FLIGHT, START, STORES, STREAM, WORKERS
from bench.upstream import EVENTS_PER_SECOND

PORTKEY_ADDS_MS = 1.1
OURS_ADDS_MS = 1.3
EVENTS = STREAMS * EVENTS_PER_SECOND
"""Events in a second, of all streams."""


@dataclass(frozen=True)
class Target:
    title: str
    limit: float
    at_least: bool
    shown: str
    """How value and limit are written, as a format."""
    values: Callable[[Rows], list[float]]
    """One value per round; none when something was not measured."""


@dataclass(frozen=True)
class Verdict:
    title: str
    limit: str
    value: str
    outcome: str
    measured: bool = True


def verdicts(rows: Rows, *, cores: int) -> list[Verdict]:
    """Every target with what the run says about it."""
    return [_verdict(target, target.values(rows)) for target in _targets(cores)]


def _verdict(target: Target, values: list[float]) -> Verdict:
    limit = f"at {'least' if target.at_least else 'most'} {target.shown.format(target.limit)}"
    if not values:
        return Verdict(target.title, limit, "–", "not measured", measured=False)
    value = statistics.median(values)
    shown = target.shown.format(value)
    if len(values) > 1:
        shown += f" ({target.shown.format(min(values))}–{target.shown.format(max(values))})"
    return Verdict(target.title, limit, shown, _outcome(target, value))


def _outcome(target: Target, value: float) -> str:
    met = value >= target.limit if target.at_least else value <= target.limit
    if not target.limit:
        return "met" if met else f"not met, by {target.shown.format(value)}"
    margin = abs(value / target.limit - 1)
    if met:
        return f"met, {margin:.0%} to spare"
    return f"**not met**, {margin:.0%} {'short' if target.at_least else 'over'}"


def _targets(cores: int) -> list[Target]:
    ours = Key("ours", AT_ONCE, "per_second", wire.NATIVE, 16)
    adds = Key("ours", AT_ONCE, "added_p50_us", wire.NATIVE, 1)
    cpu = Key("ours", AT_ONCE, "cpu_us", wire.NATIVE, 16)
    flight = Key("ours", FLIGHT, "per_second", wire.NATIVE, IN_FLIGHT)
    stream = Key("ours", STREAM, "lost", wire.NATIVE, STREAMS)
    two_workers = Key("workers-2", WORKERS, "per_second", wire.NATIVE, WORKERS_CALLERS)
    postgresql = Key("postgresql", STORES, "per_second", wire.NATIVE, STORES_CALLERS)
    start = Key("ours", START, "start_seconds")
    return [
        Target("native chat, 16 callers, to LiteLLM", 15, True, "{:.1f} ×", _to("litellm", ours)),
        Target("native chat, 16 callers, to Portkey", 1.6, True, "{:.2f} ×", _to("portkey", ours)),
        Target("the same, to Portkey on the better Node", 1.05, True, "{:.2f} ×", _to_better_portkey(ours)),
        Target("`/v1/responses`, 16 callers, to Portkey", 1.8, True, "{:.2f} ×", _to("portkey", ours, wire.RESPONSES)),
        Target(
            "`/v1/chat/completions`, 16 callers, to Portkey",
            1.8,
            True,
            "{:.2f} ×",
            _to("portkey", ours, wire.COMPLETIONS),
        ),
        Target("native chat, CPU of a request", 500, False, "{:.0f} µs", _each(cpu)),
        Target("`/v1/chat/completions`, CPU of a request", 430, False, "{:.0f} µs", _each(_on(cpu, wire.COMPLETIONS))),
        Target("added latency, one caller, p50, to Portkey's", 1, False, "{:.2f} ×", _to("portkey", adds)),
        Target("the same where Portkey adds 1.1 ms", OURS_ADDS_MS, False, "{:.2f} ms", _scaled(_to("portkey", adds))),
        Target("added latency, one caller, p99 to p50", 5, False, "{:.1f} ×", _tail(adds)),
        Target("1,000 one-second calls in flight, of 1,000/s", 0.9, True, "{:.1%}", _each(flight, 1 / IN_FLIGHT)),
        Target("resident memory meanwhile", 160, False, "{:.0f} MB", _each(_named(flight, "resident_mb"))),
        Target("300 streams × 20 events/s, events lost", 0, False, "{:.0f}", _each(stream)),
        Target("added per event, p99", 15, False, "{:.1f} ms", _each(_named(stream, "added_event_p99_us"), 1e-3)),
        Target("CPU of an event", 36, False, "{:.0f} µs", _each(_named(stream, "steady_cores"), 1e6 / EVENTS)),
        Target("cache hit, of a bare Flask route", 0.6, True, "{:.0%}", _cache),
        Target("two workers, requests/s", 3100, True, "{:,.0f}", _each(two_workers)),
        Target("two workers, to one", 1.8, True, "{:.2f} ×", lambda rows: _workers(rows, cores)),
        Target("on PostgreSQL, to SQLite, with a budget", 0.6, True, "{:.2f} ×", _to_sqlite(postgresql)),
        Target("deadlocks meanwhile, also with two workers", 0, False, "{:.0f}", _deadlocks),
        Target("start to ready", 0.7, False, "{:.2f} s", _each(start)),
        Target("idle memory of a worker", 81, False, "{:.0f} MB", _each(_named(start, "idle_mb"))),
        Target("upstream alone, to the fastest gateway", 20, True, "{:.0f} ×", _upstream),
    ]


def _named(key: Key, figure: str) -> Key:
    return Key(key.gateway, key.phase, figure, key.route, key.callers)


def _on(key: Key, route: str) -> Key:
    return Key(key.gateway, key.phase, key.figure, route, key.callers)


def _to_better_portkey(ours: Key) -> Callable[[Rows], list[float]]:
    """Ours over Portkey on whichever of its two Nodes is faster in that round."""
    one, other = _to("portkey", ours), _to("portkey-24", ours)
    return lambda rows: [min(pair) for pair in zip(one(rows), other(rows), strict=False)]


def _to(peer: str, ours: Key, route: str | None = None) -> Callable[[Rows], list[float]]:
    """Ours over a peer's on its equivalent route: for the native one, chat completions."""
    above = Key(ours.gateway, ours.phase, ours.figure, route or ours.route, ours.callers)
    below = Key(peer, ours.phase, ours.figure, route or wire.COMPLETIONS, ours.callers)
    return lambda rows: rows.ratios(above, below)


def _scaled(ratios: Callable[[Rows], list[float]]) -> Callable[[Rows], list[float]]:
    return lambda rows: [PORTKEY_ADDS_MS * ratio for ratio in ratios(rows)]


def _tail(adds: Key) -> Callable[[Rows], list[float]]:
    return lambda rows: rows.ratios(_named(adds, "added_p99_us"), adds)


def _each(key: Key, factor: float = 1.0) -> Callable[[Rows], list[float]]:
    return lambda rows: [factor * value for values in rows.by_round(key).values() for value in values]


def _cache(rows: Rows) -> list[float]:
    hit = Key("cache", CACHE, "per_second", wire.NATIVE, CACHE_CALLERS)
    return rows.ratios(hit, Key("bare-gunicorn", CACHE, "per_second", wire.NATIVE, CACHE_CALLERS))


def _to_sqlite(postgresql: Key) -> Callable[[Rows], list[float]]:
    sqlite = Key("sqlite", STORES, postgresql.figure, postgresql.route, postgresql.callers)
    return lambda rows: rows.ratios(postgresql, sqlite)


def _deadlocks(rows: Rows) -> list[float]:
    """What PostgreSQL saw in each round by the time that its last server had stopped."""
    seen: dict[int, list[float]] = {}
    for name in ("postgresql", "postgresql-2"):
        key = Key(name, STORES, "deadlocks", wire.NATIVE, STORES_CALLERS)
        for number, values in rows.by_round(key).items():
            seen.setdefault(number, []).extend(values)
    return [max(values) for values in seen.values()]


def _workers(rows: Rows, cores: int) -> list[float]:
    """What two workers would give, had each as much of a core as the single one used.

    Load generator and upstream run on the same cores. What they leave is what the workers could have had; if the
    workers wait for each other instead of using it, that is not made up for.
    """
    one, two = (Key(f"workers-{count}", WORKERS, "per_second", wire.NATIVE, WORKERS_CALLERS) for count in (1, 2))
    ratios = rows.ratios(two, one)
    used = [values[0] for values in rows.by_round(_named(one, "gateway_cores")).values()]
    others = [rows.by_round(_named(two, name)).values() for name in ("client_cores", "upstream_cores")]
    left = [cores - client[0] - upstream[0] for client, upstream in zip(*others, strict=True)]
    return [ratio * max(1.0, 2 * own / rest) for ratio, own, rest in zip(ratios, used, left, strict=True)]


def _upstream(rows: Rows) -> list[float]:
    """Each route of upstream over the fastest gateway there, at the callers where both are fastest."""
    found = []
    for route in (wire.COMPLETIONS, wire.RESPONSES):
        alone = max((_median(rows, DIRECT, route, callers) for callers in CALLERS), default=0.0)
        best = max(_median(rows, gateway, each, callers) for gateway, each, callers in _gateway_places(route))
        if alone and best:
            found.append(alone / best)
    return [min(found)] if found else []


def _gateway_places(route: str) -> list[tuple[str, str, int]]:
    places = [(gateway, route, callers) for gateway in ("ours", *PEERS) for callers in CALLERS]
    native = [("ours", wire.NATIVE, callers) for callers in CALLERS] if route == wire.RESPONSES else []
    return places + native


def _median(rows: Rows, gateway: str, route: str, callers: int) -> float:
    figure = rows.figure(Key(gateway, AT_ONCE, "per_second", route, callers))
    return figure.median if figure else 0.0
