"""Idle connections by themselves: how old one may be, and how many there are."""

from __future__ import annotations

from typing import Any

import pytest

from app.upstreams.idle import IDLE_SECONDS, IdleConnections
from tests.unit.test_keys import FakeClock


class FakeConnection:
    """A connection that upstream holds open and that can be used again, unless it is said otherwise."""

    def __init__(self, *, is_open: bool = True, is_reusable: bool = True) -> None:
        self.is_open = is_open
        self.is_reusable = is_reusable
        self.is_closed = False

    def close(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize(("seconds", "is_used"), [(IDLE_SECONDS - 0.1, True), (IDLE_SECONDS, False), (60, False)])
def test_one_that_is_too_old_is_not_used(seconds: float, is_used: bool) -> None:
    """Whether or not the sweep has come by: common servers close theirs after 5 s."""
    clock, kept = FakeClock(), FakeConnection()
    idle = IdleConnections(10, clock=clock)
    idle.put(_as_kept(kept))
    clock.now += seconds
    assert IDLE_SECONDS < 5
    assert (idle.take() is kept, kept.is_closed) == (is_used, not is_used)
    idle.close()


def test_the_last_one_that_can_be_used() -> None:
    """One that upstream has closed is passed over, one that cannot be used again is never kept; no more than `size`."""
    good, gone, spent, extra = (
        FakeConnection(),
        FakeConnection(is_open=False),
        FakeConnection(is_reusable=False),
        FakeConnection(),
    )
    idle = IdleConnections(2, clock=FakeClock())
    for connection in (spent, good, gone, extra):
        idle.put(_as_kept(connection))
    assert (len(idle), spent.is_closed, extra.is_closed) == (2, True, True)
    assert idle.take() is _as_kept(good)
    assert gone.is_closed
    assert idle.take() is None
    idle.close()


def _as_kept(connection: FakeConnection) -> Any:
    return connection
