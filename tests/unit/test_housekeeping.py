"""Housekeeping: what dead workers left is settled, old rows go, and a database that is away is no reason to stop."""

from __future__ import annotations

import time
from typing import Any

import pytest

from app.process.housekeeping import Housekeeping
from app.sessions.sessions import EMPTY_SECONDS
from app.store.database import unavailable

DAY = 86_400


class FakeLedger:
    """Remembers what it was asked; has `lost` rows to sweep and `old` batches to forget."""

    def __init__(self, lost: int = 0, old: int = 0, *, away: bool = False) -> None:
        self.lost, self.old, self.away = lost, old, away
        self.swept = self.checkpoints = 0
        self.before: list[int] = []

    def sweep(self) -> int:
        self.swept += 1
        if self.away:
            raise unavailable()
        return self.lost

    def forget(self, before: int) -> int:
        self.before.append(before)
        self.old -= 1
        return max(0, self.old)

    def checkpoint(self) -> None:
        self.checkpoints += 1


class FakeSessions:
    """Remembers what it was asked; has `old` batches of sessions whose last turn is long ago."""

    def __init__(self, old: int = 0) -> None:
        self.old = old
        self.before: list[int] = []
        self.empty_before: list[int] = []

    def forget(self, before: int) -> int:
        self.before.append(before)
        self.old -= 1
        return max(0, self.old)

    def forget_empty(self, before: int) -> int:
        self.empty_before.append(before)
        return 0


def tidied(ledger: Any, retention_days: int) -> Any:
    Housekeeping(ledger, retention_days, clock=lambda: 100.0 * DAY).tidy()
    return ledger


def test_old_rows_go_in_batches() -> None:
    """Until none is left, all by the same moment; without a retention nothing is deleted."""
    assert tidied(FakeLedger(old=3), 30).before == [70 * DAY * 1_000_000] * 3
    assert tidied(FakeLedger(old=3), 0).before == []


def test_old_sessions_go_in_batches() -> None:
    """By a retention of their own, and never without one; those that never had a turn go by themselves."""
    for days, before in ((30, [70 * DAY * 1_000_000] * 3), (0, [])):
        kept: Any = FakeSessions(old=3)
        ledger: Any = FakeLedger()
        Housekeeping(ledger, 0, kept, days, clock=lambda: 100.0 * DAY).tidy()
        assert kept.before == before
        assert kept.empty_before == [(100 * DAY - EMPTY_SECONDS) * 1_000_000]


def test_what_was_lost_is_told(caplog: pytest.LogCaptureFixture) -> None:
    """An operator wants to know that a worker died with calls in flight."""
    tidied(FakeLedger(lost=2), 0)
    assert "2 requests" in caplog.text


def test_a_database_that_is_away(caplog: pytest.LogCaptureFixture) -> None:
    """It is put off, not given up."""
    assert tidied(FakeLedger(away=True), 30).before == []
    assert "store_unavailable" in caplog.text


def test_it_goes_on() -> None:
    """Again and again, in the background; the database's own files are tidied there, too."""
    ledger: Any = FakeLedger()
    Housekeeping(ledger, 0, interval_seconds=0.01).start()
    give_up = time.monotonic() + 5
    while (ledger.swept < 3 or ledger.checkpoints < 3) and time.monotonic() < give_up:
        time.sleep(0.01)
    assert ledger.swept >= 3
    assert ledger.checkpoints >= 3
