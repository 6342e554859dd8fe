"""Who rests is known to all workers and after a restart, whatever clocks and databases do."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from app.models import ApiKey
from app.process.shared_health import KEPT_MICROSECONDS, LATEST_SECONDS, SharedHealth
from app.store.database import Database, unavailable
from app.store.tables import rests
from app.upstreams.health import FAILURES_IN_A_ROW, KEY_REST_SECONDS, Health
from app.upstreams.waits import LONGEST_SECONDS
from tests.conftest import EVERY_STORE, PATIENT
from tests.records import connected

KEY = ApiKey("sk-a-1", "default")
NOW = 1_800_000_000.0
URL = "http://a.test/v1"


class Clock:
    """Seconds that go on for all workers; each sees them by a monotonic clock of its own."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> float:
        return self.now


class Worker:
    """One worker with one upstream and one key. `ahead`: by how much its machine's clock is wrong."""

    def __init__(self, database: Any, clock: Clock, *, base_url: str = URL, number: int = 0, ahead: float = 0) -> None:
        def monotonic() -> float:
            return clock.now - NOW + 1000 * number

        self.health, self.key = Health(monotonic, lambda: 1.0), Health(monotonic, lambda: 1.0)
        upstream: Any = SimpleNamespace(
            settings=SimpleNamespace(base_url=base_url, keys=(KEY,)), health=self.health, key_health=lambda _: self.key
        )
        self.shared = SharedHealth(
            {"a": upstream}, database, fingerprint, clock=lambda: clock.now + ahead, monotonic=monotonic
        )

    def fail(self, times: int = FAILURES_IN_A_ROW) -> None:
        for _ in range(times):
            self.health.asked()
            self.health.failed("upstream_error")

    def answer(self) -> None:
        self.health.asked()
        self.health.succeeded()


Start = Callable[..., Worker]


def fingerprint(key: ApiKey) -> str:
    return f"print-of-{len(key.secret)}"


def exchange(*workers: Worker) -> None:
    for worker in workers:
        worker.shared.exchange()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def start(database_url: str, clock: Clock) -> Iterator[Start]:
    """Start a worker, with a connection of its own."""
    databases: list[Database] = []

    def start(**options: Any) -> Worker:
        databases.append(Database(database_url, timeout_seconds=PATIENT["database_timeout"]))
        worker = Worker(databases[-1], clock, number=len(databases), **options)
        worker.shared.exchange()
        return worker

    yield start
    for database in databases:
        database.close()


def stored(url: str) -> list[dict[str, Any]]:
    with connected(url) as connection:
        return [dict(row._mapping) for row in connection.execute(rests.select())]


def store(url: str, **changes: Any) -> None:
    with connected(url) as connection:
        connection.execute(rests.update().values(**changes))


@EVERY_STORE
def test_a_rest_is_everybodys(start: Start, clock: Clock) -> None:
    """For as long, and for the same reason."""
    one, other = start(), start()
    one.fail()
    clock.now += 4
    exchange(one, other)
    rest = other.health.rest
    assert rest is not None
    assert (rest.reason, round(other.health.due_in, 3), other.key.due_in) == ("upstream_error", 26, 0)


@EVERY_STORE
def test_an_operator_ends_a_rest_for_all(start: Start, clock: Clock, database_url: str) -> None:
    """Of the upstream and its keys, also one that another worker has prolonged; it does not come back from the
    database, and the failure of the next request is a new one."""
    one, other, third = start(), start(), start()
    one.fail()
    one.key.rest_for(KEY_REST_SECONDS, "insufficient_quota")
    exchange(one, other, third)
    one.shared.end_rests("b")
    assert one.health.due_in > 0
    other.health.rest_for(200, "upstream_rate_limited")
    other.shared.exchange()
    one.shared.end_rests("a")
    for _ in range(3):
        exchange(third, other, one)
        clock.now += 1
        assert [round(worker.due_in) for way in (one, other, third) for worker in (way.health, way.key)] == [0] * 6
    assert round(start().health.due_in) == 0
    third.fail(1)
    exchange(third, one)
    assert one.health.rest is not None


@EVERY_STORE
def test_the_answer_to_one_probe_ends_it_for_all(start: Start, clock: Clock) -> None:
    """During a rest, as when everybody rests, and after it; then all is forgotten, how often it has rested as well."""
    one, other, third = start(), start(), start()
    for seconds in (0, 30):
        one.fail()
        exchange(one, other, third)
        clock.now += seconds
        other.answer()
        exchange(other, one, third)
        assert [worker.health.last_rest for worker in (one, other, third)] == [None] * 3
    one.fail()
    assert one.health.due_in == 30


@EVERY_STORE
def test_a_restart_does_not_forget(start: Start, clock: Clock) -> None:
    """A worker that starts knows it before its first request. After the rest one failure is enough for the next."""
    one = start()
    one.fail()
    exchange(one)
    clock.now += 10
    assert round(start().health.due_in, 3) == 20
    clock.now += 25
    late = start()
    assert late.health.due_in == 0
    late.fail(1)
    assert late.health.due_in == 60


@EVERY_STORE
def test_keys_rest_apart_and_are_not_stored(start: Start, database_url: str) -> None:
    """By the fingerprint that the ledger has."""
    one, other = start(), start()
    one.key.rest_for(60, "server_quota_exhausted")
    exchange(one, other)
    assert (round(other.key.due_in, 3), other.health.due_in) == (60, 0)
    (row,) = stored(database_url)
    assert row["key_fingerprint"] == fingerprint(KEY)
    assert KEY.secret not in repr(row)


@EVERY_STORE
def test_two_that_learn_at_once(start: Start) -> None:
    """The longer rest is kept, whoever tells it first."""
    for first in (0, 1):
        workers = [start(), start()]
        workers[0].health.rest_for(20, "upstream_rate_limited")
        workers[1].health.rest_for(40, "upstream_rate_limited")
        exchange(workers[first], workers[1 - first], workers[first])
        assert [round(worker.health.due_in, 3) for worker in workers] == [40, 40]
        workers[0].answer()
        exchange(*workers)


@EVERY_STORE
def test_what_upstream_says_replaces_what_was_known(start: Start) -> None:
    """Asked during a rest since nobody was well, it may name a shorter one."""
    one, other = start(), start()
    one.fail()
    exchange(one, other)
    other.health.rest_for(2, "upstream_rate_limited")
    exchange(other, one)
    assert [round(worker.health.due_in, 3) for worker in (one, other)] == [2, 2]


@EVERY_STORE
def test_an_answer_ends_no_rest_that_its_worker_did_not_know(start: Start, clock: Clock) -> None:
    """The later one was learned from a later request."""
    one, other = start(), start()
    one.fail()
    exchange(one, other)
    clock.now += 30
    one.fail(1)
    exchange(one)
    other.answer()
    exchange(other, one)
    assert [round(worker.health.due_in, 3) for worker in (one, other)] == [60, 60]


@EVERY_STORE
def test_the_same_told_twice(start: Start, database_url: str) -> None:
    """Nothing is written where nothing was learned, and nothing is prolonged by going to and fro."""
    one, other = start(), start(ahead=3)
    one.fail()
    exchange(one, other)
    before = stored(database_url)
    exchange(one, other, one, other)
    assert stored(database_url) == before
    # By the clock of its machine it ends earlier there.
    assert [round(worker.health.due_in, 3) for worker in (one, other)] == [30, 27]


@EVERY_STORE
def test_a_moment_that_cannot_be_is_ignored(start: Start, clock: Clock, database_url: str) -> None:
    """It was written by a clock that was wrong. What is learned next takes its place."""
    one = start()
    one.fail()
    exchange(one)
    store(database_url, rests_until=int((clock.now + LATEST_SECONDS + 1) * 1_000_000))
    other = start()
    assert other.health.last_rest is None
    other.fail()
    exchange(other)
    (row,) = stored(database_url)
    assert row["rests_until"] == int((clock.now + 30) * 1_000_000)


def test_no_rest_is_so_long_that_it_would_be_ignored() -> None:
    """Whatever upstream says."""
    assert max(LONGEST_SECONDS, KEY_REST_SECONDS) < LATEST_SECONDS


@EVERY_STORE
def test_who_has_left_the_file(start: Start, clock: Clock, database_url: str) -> None:
    """Its rest is nobody's, and is deleted a day after its end; an upstream that has moved is another one."""
    one = start()
    one.fail()
    exchange(one)
    moved = start(base_url="http://b.test/v1")
    assert moved.health.last_rest is None
    clock.now += 31 + KEPT_MICROSECONDS / 1_000_000
    moved.fail()
    exchange(moved)
    assert len(stored(database_url)) == 1


@EVERY_STORE
def test_a_look_writes_nothing(start: Start, database_url: str) -> None:
    """What was learned here is told by the next exchange."""
    one, other = start(), start()
    one.fail()
    exchange(one)
    before = stored(database_url)
    other.key.rest_for(60, "server_quota_exhausted")
    other.shared.look()
    assert [round(health.due_in, 3) for health in (other.health, other.key)] == [30, 60]
    assert stored(database_url) == before
    exchange(other, one)
    assert round(one.key.due_in, 3) == 60


class Away:
    """A database that is away at first."""

    def __init__(self, database: Database) -> None:
        self.database, self.is_away = database, True

    def run_aside(self, work: Any, *, writes: bool) -> Any:
        if self.is_away:
            raise unavailable()
        return self.database.run_aside(work, writes=writes)

    def read_clock(self, connection: Any) -> None:
        self.database.read_clock(connection)


def test_a_database_that_is_away(
    start: Start, clock: Clock, database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Each worker goes by what it knows, says so once, and tells it afterwards."""
    database = Away(Database(database_url))
    one, other = Worker(database, clock), start()
    one.shared.exchange()
    one.fail()
    exchange(one, one, other)
    assert (one.health.due_in, other.health.due_in) == (30, 0)
    told = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(told) == 1
    database.is_away = False
    exchange(one, other)
    assert round(other.health.due_in, 3) == 30
    database.is_away = True
    exchange(one)
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 2
    database.database.close()


class Meanwhile(Away):
    """While it is asked something happens."""

    def __init__(self, database: Database, happens: Callable[[], None]) -> None:
        super().__init__(database)
        self.happens = happens

    def run_aside(self, work: Any, *, writes: bool) -> Any:
        found = self.database.run_aside(work, writes=writes)
        self.happens()
        return found


@pytest.mark.parametrize("is_known", [True, False])
def test_what_is_learned_meanwhile_stays(start: Start, clock: Clock, database_url: str, is_known: bool) -> None:
    """Until it is told: a worker that waits for the database goes on with its requests."""
    other = start()
    other.health.rest_for(10, "upstream_rate_limited")
    exchange(other)
    database = Meanwhile(Database(database_url), lambda: None)
    one = Worker(database, clock)
    if is_known:
        exchange(one)
    database.happens = lambda: one.health.rest_for(30, "upstream_rate_limited")
    exchange(one)
    assert one.health.due_in == 30
    database.happens = lambda: None
    exchange(one, other)
    assert [round(worker.health.due_in, 3) for worker in (one, other)] == [30, 30]
    database.happens = one.answer
    exchange(one)
    assert one.health.last_rest is None
    database.happens = lambda: None
    exchange(one, other)
    assert [worker.health.last_rest for worker in (one, other)] == [None, None]
    database.database.close()


def test_an_answer_meanwhile_ends_no_rest_that_was_not_known(start: Start, clock: Clock, database_url: str) -> None:
    """What was read while it came is taken over with the next exchange."""
    other, database = start(), Meanwhile(Database(database_url), lambda: None)
    one = Worker(database, clock)
    other.fail()
    exchange(other, one)
    clock.now += 30
    other.fail(1)
    exchange(other)
    database.happens = one.answer
    exchange(one)
    assert one.health.last_rest is None
    database.happens = lambda: None
    exchange(one, other)
    assert [round(worker.health.due_in, 3) for worker in (one, other)] == [60, 60]
    database.database.close()


def test_without_a_file_nothing_is_done() -> None:
    """No thread and no query."""
    before = threading.active_count()
    nothing: Any = None
    alone = SharedHealth({}, nothing, fingerprint, clock=lambda: NOW)
    alone.start()
    alone.look()
    assert threading.active_count() == before


def test_a_start_waits_for_what_is_known(start: Start, clock: Clock, database_url: str) -> None:
    """And then goes on to tell and to hear."""
    one = start()
    one.fail()
    exchange(one)
    database = Meanwhile(Database(database_url), lambda: None)
    other, heard = Worker(database, clock), threading.Event()
    other.shared.start(0.01)
    assert round(other.health.due_in, 3) == 30
    one.answer()
    exchange(one)
    database.happens = lambda: heard.set() if other.health.last_rest is None else None
    assert heard.wait(10)
    database.happens = threading.Event().wait  # type: ignore[assignment]


def test_a_start_does_not_wait_for_long(start: Start, clock: Clock) -> None:
    """For a database that says nothing; what it says later is taken over."""
    one, asked, says = start(), threading.Event(), threading.Event()
    one.fail()
    exchange(one)
    database: Any = one.shared._database

    class Silent(Away):
        def run_aside(self, work: Any, *, writes: bool) -> Any:
            asked.set()
            says.wait(10)
            if other.health.last_rest is not None:
                # The thread is not needed any more.
                threading.Event().wait()
            return self.database.run_aside(work, writes=writes)

    other = Worker(Silent(database), clock)
    other.shared.start(0.01, patience_seconds=0.05)
    assert asked.is_set()
    assert other.health.last_rest is None
    says.set()
    give_up = time.monotonic() + 10
    while other.health.last_rest is None:
        assert time.monotonic() < give_up
        time.sleep(0.01)
