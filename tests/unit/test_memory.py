"""A worker's memory: when it is collected, and when a worker is replaced."""

from __future__ import annotations

import gc
import logging
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app.process.memory import MemoryWatch
from app.process.system import resident_mb

LIMIT_MB = 100


class FakeMemory:
    """Gives the sizes in order, then the last one for ever."""

    def __init__(self, *sizes_mb: float) -> None:
        self._sizes_mb = list(sizes_mb)

    def __call__(self) -> float:
        return self._sizes_mb.pop(0) if len(self._sizes_mb) > 1 else self._sizes_mb[0]


class Cycle:
    """Garbage that only a collection removes."""

    def __init__(self) -> None:
        self.itself = self


@pytest.fixture
def garbage() -> Iterator[Callable[[], bool]]:
    """Tell whether garbage that was there before the test is still there."""
    gc.disable()
    reference = weakref.ref(Cycle())
    yield lambda: reference() is not None
    gc.enable()


def watch(*sizes_mb: float, limit_mb: int = LIMIT_MB, interval: float = 60, replace: Any = None) -> MemoryWatch:
    return MemoryWatch(interval, limit_mb, replace or (lambda: None), measure=FakeMemory(*sizes_mb))


@pytest.mark.parametrize(
    ("sizes_mb", "limit_mb", "collects", "replaces", "level"),
    [
        ([99.0], LIMIT_MB, False, False, logging.INFO),
        ([100.0], LIMIT_MB, False, False, logging.INFO),
        ([5000.0], 0, False, False, logging.INFO),
        ([101.0, 99.0], LIMIT_MB, True, False, logging.WARNING),
        ([101.0, 100.5], LIMIT_MB, True, True, logging.WARNING),
    ],
    ids=["below", "at-the-limit", "no-limit", "collected", "stays-above"],
)
def test_check(
    garbage: Callable[[], bool],
    caplog: pytest.LogCaptureFixture,
    sizes_mb: list[float],
    limit_mb: int,
    collects: bool,
    replaces: bool,
    level: int,
) -> None:
    """Garbage is collected above the limit only, and only what stays above asks for a replacement."""
    caplog.set_level(logging.INFO)
    assert watch(*sizes_mb, limit_mb=limit_mb).check() is replaces
    assert garbage() is not collects
    assert caplog.messages[0] == f"memory resident_mb={sizes_mb[0]:.1f}"
    assert caplog.records[-1].levelno == level


def watching() -> bool:
    return any(thread.name == "memory-watch" for thread in threading.enumerate())


def wait_for(condition: Callable[[], object]) -> None:
    give_up = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < give_up
        time.sleep(0.005)


def test_a_replacement_is_asked_for_once() -> None:
    """Measured at the interval until the limit is passed; then the watch is over."""
    asked: list[bool] = []
    watch(1.0, 1.0, 101.0, interval=0.01, replace=lambda: asked.append(True)).start()
    wait_for(lambda: not watching())
    assert asked == [True]


def test_a_watch_can_be_stopped() -> None:
    """It ends without waiting for its interval."""
    memory = watch(1.0, interval=3600)
    memory.start()
    assert watching()
    memory.stop()
    wait_for(lambda: not watching())


def test_resident_size() -> None:
    """This process is larger than 10 MB and smaller than 10 GB: the unit is right."""
    assert 10 < resident_mb() < 10_000
