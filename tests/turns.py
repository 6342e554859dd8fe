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

    The locks lie on files that are always there, so that nothing has to be made or cleaned up. Who waits for the
    machine keeps the door closed: without it there would always be another test inside.
    """
    with open(HERE / "__init__.py") as door, open(HERE / "conftest.py") as room:
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        yield
