"""Whose turn it is: most tests share the machine with others, and some need it for themselves.

With pytest-xdist several tests run at once. A test that fills the machine, or that compares its own speed at two
moments, would spoil the others, or they would spoil it. Such a test is marked `alone`; it waits until no other test
runs, and no other starts before it has ended.
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent


@contextlib.contextmanager
def turn(*, alone: bool) -> Iterator[None]:
    """Wait for a turn and hold it until the end of the block, among all pytest processes of this checkout.

    The locks lie on files that are always there, so that nothing has to be made or cleaned up. A test that waits to be
    alone keeps the lock of the queue, so that no other begins before it; without it there would always be one running.
    """
    with open(HERE / "__init__.py") as queue, open(HERE / "conftest.py") as machine:
        fcntl.flock(queue, fcntl.LOCK_EX)
        fcntl.flock(machine, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(queue, fcntl.LOCK_UN)
        yield
