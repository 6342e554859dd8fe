"""The writer: who shares a commit, who pays for one, and who goes on meanwhile."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import sqlalchemy as sa

from app.errors import ChatServiceException
from app.store.database import Database
from app.store.engine import make_engine
from app.store.threads import wait_until
from app.store.writer import HELD_SECONDS, TURN_SECONDS, Writer
from tests.server import ROOT


class Numbers:
    """A table of numbers that a writer fills; counts the commits and can be held up in the middle of one."""

    def __init__(self, path: Path) -> None:
        path.touch()
        self.engine = make_engine(sa.make_url(f"sqlite:///{path}"), 5)
        self.may_write = threading.Event()
        self.may_write.set()
        self.is_writing = threading.Event()
        with self.engine.begin() as connection:
            connection.exec_driver_sql("CREATE TABLE numbers (number INTEGER)")
        self.commits = 0
        sa.event.listen(self.engine, "commit", self._count)
        self.writer = Writer(self.engine.connect, lambda: True)

    def add_all(self, connection: sa.Connection, numbers: Sequence[int]) -> list[int]:
        self.is_writing.set()
        assert self.may_write.wait(5)
        connection.execute(sa.text("INSERT INTO numbers VALUES (:number)"), [{"number": one} for one in numbers])
        return list(numbers)

    def found(self) -> set[int]:
        """What another connection sees: what is committed."""
        with self.engine.connect() as connection:
            found = set(connection.execute(sa.text("SELECT number FROM numbers")).scalars())
            connection.rollback()
        return found

    def _count(self, connection: sa.Connection) -> None:
        self.commits += 1


@pytest.fixture
def numbers(tmp_path: Path) -> Iterator[Numbers]:
    table = Numbers(tmp_path / "numbers.db")
    yield table
    table.writer.close(5)
    table.engine.dispose()


def test_many_writes_share_a_commit(numbers: Numbers) -> None:
    """Those that come while one commit is under way make the next one; each is durable when its caller goes on."""
    numbers.may_write.clear()
    with ThreadPoolExecutor(50) as pool:
        first = pool.submit(numbers.writer.write, numbers.add_all, 0, 5)
        assert numbers.is_writing.wait(5)
        others = [pool.submit(numbers.writer.write, numbers.add_all, number, 5) for number in range(1, 50)]
        wait_until(lambda: numbers.writer.waiting == 50, 5)
        numbers.may_write.set()
        assert first.result(5) == 0
        assert [other.result(5) for other in others] == list(range(1, 50))
    assert numbers.commits == 2
    assert numbers.found() == set(range(50))


def test_a_write_that_nobody_waits_for_costs_no_commit(numbers: Numbers) -> None:
    """It is committed with the next one that somebody waits for."""
    for number in range(20):
        numbers.writer.write_later(numbers.add_all, 2 * number)
        time.sleep(0.01)
        numbers.writer.write(numbers.add_all, 2 * number + 1, 5)
    assert numbers.found() == set(range(40))
    # 20, unless the machine is so busy that a wait of 10 ms takes longer than 50.
    assert numbers.commits < 25


def test_a_write_that_nobody_waits_for_wakes_nobody(numbers: Numbers, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that has just written looks by itself; one that has had nothing to do for a while is woken."""
    rings, ring = list[int](), numbers.writer._bell.ring
    monkeypatch.setattr(numbers.writer._bell, "ring", lambda: (rings.append(1), ring()))
    for number in range(20):
        numbers.writer.write(numbers.add_all, 2 * number, 5)
        numbers.writer.write_later(numbers.add_all, 2 * number + 1)
    # 20, unless the machine is so busy that 50 ms pass between the two.
    assert len(rings) < 25
    wait_until(lambda: len(numbers.found()) == 40 and numbers.writer._idle, 5)
    rings.clear()
    numbers.writer.write_later(numbers.add_all, 40)
    assert len(rings) == 1
    wait_until(lambda: 40 in numbers.found(), 2)
    assert numbers.found() == set(range(41))


def test_a_write_that_nobody_waits_for_is_not_kept_for_long(numbers: Numbers) -> None:
    """When nobody writes, it is committed by itself."""
    numbers.writer.write_later(numbers.add_all, 1)
    wait_until(lambda: numbers.found() == {1}, 2)
    assert numbers.found() == {1}


GREENLETS = """
from gevent import monkey
monkey.patch_all()
import time, gevent
from app.store.threads import pause
from app.store.writer import Writer

class FakeConnection:
    dialect = type("FakeDialect", (), {"name": "sqlite"})
    def begin(self): return self
    def __enter__(self): return self
    def __exit__(self, *_): pass
    def invalidate(self): pass
    def close(self): pass

def write_slowly(connection, items):
    pause(0.5)
    return items

ticks = 0
def tick():
    global ticks
    while True:
        gevent.sleep(0.01)
        ticks += 1

gevent.spawn(tick)
assert Writer(FakeConnection, lambda: True).write(write_slowly, 1, 5) == 1
print(ticks)
"""


def test_other_greenlets_go_on_while_the_database_is_slow() -> None:
    """Half a second in the database is half a second for one request only."""
    command = [sys.executable, "-c", GREENLETS]
    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True, timeout=20)
    assert int(done.stdout) > 10


def test_who_has_given_up_has_written_nothing(numbers: Numbers) -> None:
    """A write that was too late for its caller is not done at all, or undone when it was under way already."""
    numbers.may_write.clear()
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(numbers.writer.write, numbers.add_all, one, 0.2, undo=remove) for one in (1, 2)]
        for write in waiting:
            with pytest.raises(Exception, match="records are not available"):
                write.result(5)
    numbers.may_write.set()
    wait_until(lambda: not numbers.writer.waiting, 5)
    time.sleep(0.1)
    wait_until(lambda: not numbers.writer.waiting, 5)
    assert numbers.found() == set()


def remove(connection: sa.Connection, number: int) -> None:
    connection.execute(sa.text("DELETE FROM numbers WHERE number = :number"), {"number": number})


FAULTS = {
    "too large": lambda: 2**70,
    "of an unknown type": lambda: {"a": 1},
    "half a surrogate": lambda: "\ud800",
    "a bug": lambda: 1 // 0,
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("others", [0, 1, 7])
@pytest.mark.parametrize("awaited", [True, False])
def test_a_write_that_fails_by_its_own_fault_fails_alone(
    numbers: Numbers, fault: str, others: int, awaited: bool
) -> None:
    """Whoever shares its batch is committed at once; it is told a bug, or counted when nobody waits for it."""

    def add_each(connection: sa.Connection, makes: Sequence[Callable[[], object]]) -> list[None]:
        numbers.add_all(connection, [make() for make in makes])  # type: ignore[misc]
        return [None for _ in makes]

    numbers.may_write.clear()
    began = time.monotonic()
    with ThreadPoolExecutor(20) as pool:
        first = pool.submit(numbers.writer.write, numbers.add_all, 0, 5)
        assert numbers.is_writing.wait(5)
        waiting = [pool.submit(numbers.writer.write, add_each, lambda n=n: n, 5) for n in range(1, others + 1)]
        if awaited:
            faulty = pool.submit(numbers.writer.write, add_each, FAULTS[fault], 5)
        else:
            numbers.writer.write_later(add_each, FAULTS[fault])
        wait_until(lambda: numbers.writer.waiting == others + 2, 5)
        numbers.may_write.set()
        first.result(5)
        for good in waiting:
            assert good.result(5) is None
        if awaited:
            with pytest.raises(ChatServiceException) as told:
                faulty.result(5)
            assert told.value.error_code == "internal_error"
    wait_until(lambda: not numbers.writer.waiting, 5)
    # Nobody has waited for a database that is thought to be away (RETRY_SECONDS).
    assert time.monotonic() - began < 0.45
    assert numbers.found() == set(range(others + 1))
    assert numbers.writer.set_aside == (0 if awaited else 1)
    assert numbers.writer.write(numbers.add_all, 99, 5) == 99


class LockNotAvailable(Exception):
    """As PostgreSQL says that another transaction holds a row."""

    sqlstate = "55P03"


def test_who_needs_no_locked_row_is_not_put_off_for_ever(numbers: Numbers) -> None:
    """In a batch of which so many need one that all its tries go to them."""

    def add_all(connection: sa.Connection, items: Sequence[int]) -> list[int]:
        if any(item < 0 for item in items):
            numbers.is_writing.set()
            assert numbers.may_write.wait(5)
            raise sa.exc.OperationalError("SELECT", {}, LockNotAvailable())
        return numbers.add_all(connection, items)

    numbers.may_write.clear()
    with ThreadPoolExecutor(50) as pool:
        pool.submit(numbers.writer.write, add_all, -50, 0.1)
        assert numbers.is_writing.wait(5)
        free = []
        for number in range(1, 21):
            pool.submit(numbers.writer.write, add_all, -number, 6)
            free.append(pool.submit(numbers.writer.write, add_all, number, 6))
        wait_until(lambda: numbers.writer.waiting == 41, 5)
        numbers.may_write.set()
        assert [one.result(7) for one in free] == list(range(1, 21))


def test_a_missing_table_is_no_fault_of_a_write(numbers: Numbers) -> None:
    """What nobody waits for is kept until the table is there again; whoever waits is told 503 at once."""
    with numbers.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE numbers RENAME TO elsewhere")
    numbers.writer.write_later(numbers.add_all, 1)
    with pytest.raises(ChatServiceException) as told:
        numbers.writer.write(numbers.add_all, 2, 5)
    assert told.value.error_code == "store_unavailable"
    with numbers.engine.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE elsewhere RENAME TO numbers")
    wait_until(lambda: numbers.found() == {1}, 5)
    assert numbers.found() == {1}
    assert numbers.writer.set_aside == 0


@pytest.mark.parametrize("seconds", [0.005, 0.05])
def test_two_workers_write_in_turn(sqlite_url: str, seconds: float) -> None:
    """However slow the disk is: else one of them would wait until its callers are told 503."""
    workers = [Database(sqlite_url, timeout_seconds=3) for _ in range(2)]
    written, end = [0, 0], time.monotonic() + 3

    def slow(connection: sa.Connection) -> None:
        time.sleep(seconds)

    def call(number: int) -> None:
        while time.monotonic() < end:
            workers[number].write(slow)
            written[number] += 1

    with ThreadPoolExecutor(8) as threads:
        for done in [threads.submit(call, number % 2) for number in range(8)]:
            done.result()
    for worker in workers:
        worker.close()
    assert min(written) > max(written) / 4


def test_a_worker_that_is_alone_leaves_no_turn(sqlite_url: str) -> None:
    """Nobody else waits for the lock that it would leave, and its own callers would wait."""
    database, seconds = Database(sqlite_url, alone=True), []
    for _ in range(20):
        began = time.monotonic()
        database.write(lambda _: time.sleep(HELD_SECONDS))
        seconds.append(time.monotonic() - began - HELD_SECONDS)
    database.close()
    assert min(seconds[1:]) < TURN_SECONDS * 0.8
