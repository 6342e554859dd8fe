"""Where prometheus-client keeps what each worker counts, for gunicorn's master, which must not import it.

prometheus-client makes locks when it is imported. In a gevent worker that is forked later they would stay unpatched.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

DIRECTORY_VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
"""prometheus-client reads it when it is imported. Source: its documentation, "Multiprocess Mode"."""
LIVE_GAUGES = "gauge_live*_{pid}.db"
"""The files of the gauges that count for living workers only. Source: mark_process_dead() of prometheus-client, which
removes the same files."""


def make_directory() -> Path:
    """A new directory for the files of all workers."""
    return Path(tempfile.mkdtemp(prefix="llm-server-metrics-"))


def remove_directory(directory: Path) -> None:
    """Remove it with all that was counted."""
    shutil.rmtree(directory, ignore_errors=True)


def forget_gauges(directory: Path, pid: int) -> None:
    """Remove the gauges of a worker that is gone; its counters stay, since what it counted did happen."""
    for file in directory.glob(LIVE_GAUGES.format(pid=pid)):
        file.unlink(missing_ok=True)
