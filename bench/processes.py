"""Processes of the benchmark: each in a group of its own, measured from outside, and gone when its block is left."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

import psutil

ROOT = Path(__file__).parent.parent
WORK = ROOT / ".bench"
RUN = WORK / "run"
POLL_SECONDS = 0.005
STOP_SECONDS = 5.0
READY_SECONDS = 90.0


class DidNotStart(Exception):
    """A program ended, or said nothing, instead of becoming ready; the text is one line."""


def environment(**settings: object) -> dict[str, str]:
    """What a measured program sees: its settings, and nothing of the machine's proxies, keys and `.env`."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    home = {"HOME": str(RUN), "TMPDIR": str(RUN), "PYTHON_DOTENV_DISABLED": "1"}
    return kept | home | {name: str(value) for name, value in settings.items()}


def free_port() -> int:
    """A loopback port nobody listens on at this moment."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Program:
    """Use as a context manager: started and ready inside the block, stopped with all its children after it."""

    def __init__(
        self, name: str, command: Sequence[str], *, port: int, ready: str, env: Mapping[str, str], cwd: Path
    ) -> None:
        self.name = name
        self.port = port
        self.start_seconds = 0.0
        self._command = list(command)
        self._ready = ready
        self._env = dict(env)
        self._cwd = cwd
        self._output = RUN / f"{name}.out"

    def __enter__(self) -> Self:
        started = time.monotonic()
        self._process = self._popen()
        try:
            self._wait_ready(started + READY_SECONDS)
        except BaseException:
            self._kill()
            raise
        self.start_seconds = time.monotonic() - started
        return self

    def __exit__(self, *_: object) -> None:
        try:
            self._signal(signal.SIGTERM)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(STOP_SECONDS)
        finally:
            self._kill()

    @property
    def pids(self) -> list[int]:
        """The program's own process and all below it."""
        return [process.pid for process in self._tree()]

    @property
    def cpu_seconds(self) -> float:
        """User and system time of all its processes so far."""
        total = 0.0
        for process in self._tree():
            with contextlib.suppress(psutil.Error):
                times = process.cpu_times()
                total += times.user + times.system
        return total

    def resident_mb(self) -> list[float]:
        """Resident memory of each of its processes in MB of 1,000,000 bytes, the largest first: that is a worker."""
        sizes = []
        for process in self._tree():
            with contextlib.suppress(psutil.Error):
                sizes.append(round(process.memory_info().rss / 1e6, 1))
        return sorted(sizes, reverse=True)

    def settle(self, seconds: float) -> None:
        """Wait until it does next to nothing, for what a load left behind must not slow down the next one."""
        give_up = time.monotonic() + seconds
        while time.monotonic() < give_up:
            before = self.cpu_seconds
            time.sleep(0.3)
            if self.cpu_seconds - before < 0.03:
                return

    def _popen(self) -> subprocess.Popen[bytes]:
        with self._output.open("wb") as output:
            try:
                return subprocess.Popen(
                    self._command,
                    cwd=self._cwd,
                    env=self._env,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
            except OSError as exc:
                raise DidNotStart(f"it is not there: {exc.strerror}") from exc

    def _wait_ready(self, give_up: float) -> None:
        while self._status() != 200:
            if self._process.poll() is not None:
                raise DidNotStart(f"it ended with status {self._process.returncode}: {self._last_line()}")
            if time.monotonic() > give_up:
                raise DidNotStart(f"it was not ready within {READY_SECONDS:g} s: {self._last_line()}")
            time.sleep(POLL_SECONDS)

    def _status(self) -> int | None:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", self._ready)
            return connection.getresponse().status
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()

    def _last_line(self) -> str:
        lines = [line for line in self._output.read_text(errors="replace").splitlines() if line.strip()]
        return lines[-1].strip()[:200] if lines else "it said nothing"

    def _tree(self) -> list[psutil.Process]:
        try:
            root = psutil.Process(self._process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.Error:
            return []

    def _signal(self, number: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _kill(self) -> None:
        self._signal(signal.SIGKILL)
        self._process.wait(STOP_SECONDS)
