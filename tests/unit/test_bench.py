"""The benchmark: what a command line measures, how rows become tables and verdicts, and where they are written."""

from __future__ import annotations

from pathlib import Path

import pytest

from app.config import Config
from app.upstreams.catalog import Catalog
from bench import report, wire
from bench.__main__ import arguments, plan_of, steps
from bench.rows import Row, Rows
from bench.several import KEY_VARIABLE, LIMIT, Load, costs, file_of, told
from bench.targets import verdicts

ROOT = Path(__file__).parent.parent.parent
DOCUMENT = ROOT / "docs" / "performance.md"
ABOUT = {
    "date": "2026-01-01",
    "rounds": 1,
    "machine": {"cpu": "a processor", "cores": 2, "memory_gb": 8.0, "kernel": "6"},
    "versions": {"llm-server": "0"},
}


def row(gateway: str, phase: str = "stores", callers: int = 16, number: int = 1, **figures: float) -> Row:
    return Row(number, gateway, phase, wire.NATIVE, callers, figures)


def outcome(rows: Rows, title: str) -> str:
    """The verdict with this title."""
    return next(verdict.outcome for verdict in verdicts(rows, cores=2) if verdict.title == title)


def asked(*words: str) -> list[tuple[str, str]]:
    """The phases and gateways of one round."""
    chosen = arguments([*words, "--rounds", "1"])
    return [(step.phase, step.gateway.name) for step in steps(chosen, plan_of(chosen))]


@pytest.mark.parametrize(("per_second", "verdict"), [(60.0, "met, 0% to spare"), (54.0, "**not met**, 10% short")])
def test_postgresql_is_judged_by_sqlite(per_second: float, verdict: str) -> None:
    """Both were measured in the same round, by a client with a budget."""
    rows = Rows([row("sqlite", per_second=100.0), row("postgresql", per_second=per_second)])
    assert outcome(rows, "on PostgreSQL, to SQLite, with a budget") == verdict


@pytest.mark.parametrize(("deadlocks", "verdict"), [(0, "met"), (1, "not met, by 1")])
def test_one_deadlock_misses_the_target(deadlocks: int, verdict: str) -> None:
    """What PostgreSQL says of its own database counts, not what callers saw: it ends one of the two, and we repeat."""
    title = "deadlocks meanwhile, also with two workers"
    assert outcome(Rows([row("postgresql", deadlocks=0), row("postgresql-2", deadlocks=deadlocks)]), title) == verdict
    assert outcome(Rows([row("postgresql-2", deadlocks=0), row("postgresql", deadlocks=deadlocks)]), title) == verdict


def test_a_whole_run_measures_both_stores() -> None:
    """And nothing has to be asked for."""
    assert ("stores", "ours") in asked()


def test_only_postgresql_measures_the_stores_and_nothing_else() -> None:
    """Not even upstream alone, with which nothing of it is compared."""
    assert asked("--only", "postgresql") == [("stores", "ours")]


def test_only_a_peer_leaves_the_stores_out() -> None:
    """They are this server's."""
    assert "stores" not in dict(asked("--only", "portkey"))


def test_two_trees_take_turns() -> None:
    """Upstream first; then ours and the one before, in the next round the other way round; nothing else."""
    chosen = arguments(["--against", str(ROOT), "--phase", "at-once", "--rounds", "2"])
    names = [step.gateway.name for step in steps(chosen, plan_of(chosen))]
    assert names == ["direct", "ours", "before", "direct", "before", "ours"]
    assert {phase for phase, _ in asked("--against", str(ROOT))} == {"at-once", "in-flight", "streams"}


def test_a_directory_without_a_server_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Before anything is measured."""
    with pytest.raises(SystemExit):
        arguments(["--against", str(tmp_path)])
    assert "there is no wsgi.py" in capsys.readouterr().err


def test_two_trees_are_compared_round_by_round() -> None:
    """A machine that is half as fast in one round changes nothing."""
    slow = [row("ours", "at-once", cpu_us=450.0), row("before", "at-once", cpu_us=900.0)]
    fast = [row("ours", "at-once", number=2, cpu_us=225.0), row("before", "at-once", number=2, cpu_us=450.0)]
    text = report.tables(Rows([*slow, *fast]), [], ABOUT)
    assert "| chat, 16 callers, CPU µs a request | 0.500 |" in text.splitlines()


def test_the_tables_of_one_round_name_both_stores() -> None:
    """Requests per second and what one costs the worker; what it costs PostgreSQL stands below."""
    seen = {"postgresql_version": 180004}
    sqlite = row("sqlite", per_second=1000.0, cpu_us=500.0, postgresql_cpu_us=0.0, **seen)
    postgresql = row("postgresql", per_second=700.0, cpu_us=600.0, postgresql_cpu_us=150.0, **seen)
    lines = report.tables(Rows([sqlite, postgresql]), [], ABOUT).splitlines()
    assert "| SQLite, a client with a budget, 16 callers | 1,000 | 500 |" in lines
    assert "| PostgreSQL, the same client, 16 callers | 700 | 600 |" in lines
    assert "PostgreSQL 18.4 itself used 150 µs of CPU a request." in lines


def test_the_plot_shows_this_server_the_floor_and_every_peer() -> None:
    """What was not measured has no bar, and what was measured by the way has none either."""
    rows = [row("bare", "cache", cpu_us=125.0), row("ours", "at-once", cpu_us=480.0), row("cache", "cache", cpu_us=9.0)]
    rows.append(Row(1, "portkey", "at-once", wire.COMPLETIONS, 16, {"cpu_us": 1100.0}))
    bars = report.costs(Rows(rows))
    assert [(bar["title"], bar["median"]) for bar in bars] == [
        ("the floor: a bare Flask route", 125.0),
        ("this server, /api/v1/chat", 480.0),
        ("Portkey, /v1/chat/completions", 1100.0),
    ]


def test_the_cost_of_a_plan_is_that_of_the_median_round() -> None:
    """Both servers take turns, so a machine that is half as fast in one round changes nothing."""
    slow, odd = (Load(1000, 1000), Load(1020, 980)), (Load(500, 2000), Load(900, 1000))
    cost = costs([(Load(500, 2000), Load(510, 1960)), slow, odd])
    assert cost["CPU"] == pytest.approx(0.02)
    assert cost["requests/s"] == pytest.approx(0.0204, abs=1e-4)
    assert told(cost).splitlines()[-1] == "below 3% of both: met"
    for name in cost:
        assert "not met" in told(cost | {name: LIMIT})


def test_the_plan_that_is_measured_has_three_targets(tmp_path: Path) -> None:
    """Each at an upstream of its own."""
    file = tmp_path / "upstreams.toml"
    file.write_text(file_of("http://127.0.0.1:9/v1"))
    catalog = Catalog.from_config(Config(upstreams_file=str(file)), {KEY_VARIABLE: "sk-1"}.get)
    assert len({target.upstream for target in catalog.models[wire.MODEL].targets}) == len(catalog.upstreams) == 3


@pytest.mark.parametrize("section", ["bench", "layers", "growth"])
def test_a_run_writes_its_section_and_leaves_the_rest(section: str, tmp_path: Path) -> None:
    """The document has the markers of each, once."""
    document = tmp_path / "performance.md"
    document.write_text(DOCUMENT.read_text())
    report.write(document, "| a table |", section)
    begin, end = f"<!-- {section}: begin -->", f"<!-- {section}: end -->"
    before, _, rest = DOCUMENT.read_text().partition(begin)
    after = rest.partition(end)[2]
    assert document.read_text() == f"{before}{begin}\n\n| a table |\n\n{end}{after}"
