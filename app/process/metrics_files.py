"""Where prometheus-client keeps what each worker counts, for gunicorn's master, which must not import it.

prometheus-client makes locks when it is imported. In a gevent worker that is forked later they would stay unpatched.

Its files are mapped into memory. A mapped file without room on its disk ends the process with SIGBUS at a write, and a
directory that a cleaner of /tmp has removed would end each new worker. So a worker's files are made with all their room
before the worker maps them, in a directory that is made again. Where that fails the worker counts in its own memory:
`test_the_metrics_directory_vanishes`, `test_no_room_for_metrics`.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

DIRECTORY_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""prometheus-client reads it when it is imported. Source: its documentation, "Multiprocess Mode"."""
LIVE_GAUGES = "gauge_live*_{pid}.db"
"""The files of the gauges that count for living workers only. Source: mark_process_dead() of prometheus-client, which
removes the same files."""
KINDS = ("counter", "histogram", "gauge_livesum")
"""How prometheus-client names the files of one worker, before `_PID.db`. Source: its `values.py`."""
FILE_BYTES = 256 * 1024
PREFIX = "llm-server-metrics-"
IN_USE = "in-use.lock"
"""Locked by the master and, as a lock is inherited, by its workers, as long as one of them lives."""
FOLDING = "folding.lock"


class Directory:
    """The directory of one server; what earlier servers left, which could not remove theirs, is removed."""

    def __init__(self) -> None:
        for left in Path(tempfile.gettempdir()).glob(PREFIX + "*"):
            _remove_if_unused(left)
        self.path, self._lock = _made()
        while not (self.path / IN_USE).exists():
            # Another server that starts at this moment took it for a left one before it was locked.
            self._lock.close()
            self.path, self._lock = _made()

    def ensure(self) -> None:
        """Make it again if something has removed it."""
        with contextlib.suppress(OSError):
            self.path.mkdir(mode=0o700, exist_ok=True)

    def remove(self) -> None:
        """Remove it with all that was counted."""
        self._lock.close()
        shutil.rmtree(self.path, ignore_errors=True)


def prepare(directory: Path, pid: int) -> bool:
    """Make the files of a worker, with room on the disk for all of them; False when there is none."""
    files = [directory / f"{kind}_{pid}.db" for kind in KINDS]
    try:
        for file in files:
            with file.open("ab") as made:
                os.posix_fallocate(made.fileno(), 0, FILE_BYTES)
    except OSError:
        for file in files:
            with contextlib.suppress(OSError):
                file.unlink()
        return False
    return True


def forget_gauges(directory: Path, pid: int) -> None:
    """Remove the gauges of a worker that is gone; its counters stay, since what it counted did happen."""
    for file in directory.glob(LIVE_GAUGES.format(pid=pid)):
        file.unlink(missing_ok=True)


def dead_files(directory: Path) -> list[Path]:
    """The files of workers that have ended."""
    numbered = [(file, file.stem.rpartition("_")[2]) for file in directory.glob("*_*.db")]
    return [file for file, pid in numbered if pid.isdecimal() and not _is_alive(int(pid))]


@contextlib.contextmanager
def locked(directory: Path, *, shared: bool) -> Iterator[None]:
    """Exclude those who fold files (`shared`), or everybody else, while they are read or folded."""
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):
            lock: IO[bytes] = stack.enter_context((directory / FOLDING).open("wb"))
            fcntl.flock(lock, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield


def _made() -> tuple[Path, IO[bytes]]:
    """A new directory, and its lock, which is held from here on."""
    path = Path(tempfile.mkdtemp(prefix=PREFIX))
    lock = (path / IN_USE).open("wb")
    fcntl.flock(lock, fcntl.LOCK_SH)
    return path, lock


def _remove_if_unused(directory: Path) -> None:
    try:
        with (directory / IN_USE).open("r+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(directory, ignore_errors=True)
    except OSError:
        # In use, of another user, or made this moment.
        return


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
