"""Server: real gunicorn on a free loopback port, in a process group of its own, that must leave nothing behind."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

import psutil

ROOT = Path(__file__).parent.parent
GUNICORN = (sys.executable, "-m", "gunicorn", "wsgi:app")
KEPT_VARIABLES = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR")


class Answer(NamedTuple):
    """One HTTP answer; `headers` are looked up in any case."""

    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """Use as a context manager; keyword arguments are settings (upper-case environment names).

    A fresh server has one worker, no drain before a stop, and log and store in `directory`; `ready=None` waits for
    nothing; `root` is where the program lies. Leaving the block stops the server, quickly as Ctrl-C does it, which
    saves each test a second, and fails if a process of its group is still there.
    """

    def __init__(
        self,
        directory: Path,
        *,
        ready: str | None = "/readyz",
        command: Sequence[str] = GUNICORN,
        patience_seconds: float = 30.0,
        root: Path = ROOT,
        **settings: object,
    ) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.directory = directory
        self._ready = ready
        self._root = root
        self._command = list(command)
        self._patience_seconds = patience_seconds
        defaults = {
            "SERVER_PORT": self.port,
            "WEB_CONCURRENCY": 1,
            "DRAIN_SECONDS": 0,
            # Other tests have the other cores.
            "LOCAL_MODEL_THREADS": 1,
            "LOG_FILE": directory / "app.log",
            "DATABASE_URL": f"sqlite:///{directory}/store/llm_server.db",
        }
        self._settings = {name: str(value) for name, value in (defaults | settings).items() if value is not None}

    def configure(self, settings: Mapping[str, str | None]) -> None:
        """Change settings before the start; None takes one away."""
        self._settings |= {name: value for name, value in settings.items() if value is not None}

    @property
    def environ(self) -> dict[str, str]:
        """What the server sees: its settings, and nothing of the machine's proxies, keys and `.env`."""
        kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}
        return kept | {"PYTHON_DOTENV_DISABLED": "1", "PYTHONUNBUFFERED": "1"} | self._settings

    def __enter__(self) -> Self:
        self.directory.mkdir(parents=True, exist_ok=True)
        with open(self.directory / "stdout", "wb") as out, open(self.directory / "stderr", "wb") as err:
            self.process = subprocess.Popen(
                self._command,
                cwd=self._root,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                start_new_session=True,
            )
        try:
            if self._ready:
                self.wait_ready(self._ready)
        except BaseException:
            self._kill_all()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self.process.poll() is None:
                self.stop(signal.SIGINT)
            left = self.leftovers()
            assert not left, f"processes left behind: {left}\n{self.output()}"
        finally:
            self._kill_all()

    @property
    def pid(self) -> int:
        """The master's."""
        return self.process.pid

    @property
    def worker_pids(self) -> list[int]:
        """Of the gunicorn workers, oldest first; the local model's supervisor is not one of them."""
        children = sorted(psutil.Process(self.pid).children(), key=lambda child: (child.create_time(), child.pid))
        pids = []
        for child in children:
            with contextlib.suppress(psutil.Error):
                if child.status() != psutil.STATUS_ZOMBIE and "app.upstreams.local_model" not in child.cmdline():
                    pids.append(child.pid)
        return pids

    def request(
        self,
        method: str,
        path: str,
        json: object = None,
        headers: Mapping[str, str] | None = None,
        *,
        timeout: float = 60.0,
    ) -> Answer:
        """Send one request on a connection of its own. Raises OSError or HTTPException when no answer comes."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        body, content_type = (None, {}) if json is None else (_dumped(json), {"Content-Type": "application/json"})
        try:
            connection.request(method, path, body, {**content_type, **(headers or {})})
            response = connection.getresponse()
            return Answer(response.status, response.headers, response.read())
        finally:
            connection.close()

    def chat(self, message: str, *, headers: Mapping[str, str] | None = None, **fields: object) -> Answer:
        """Send one chat turn; the server's key pays unless `fields` say otherwise."""
        return self.request("POST", "/api/v1/chat", {"user_message": message, "free_mode": True} | fields, headers)

    def wait_ready(self, path: str = "/readyz") -> None:
        """Wait until `path` answers 200; raises when the server ends or takes too long instead."""
        self.wait_for(lambda: self.process.poll() is not None or self.status(path) == 200, self._patience_seconds)
        if self.process.poll() is not None:
            raise AssertionError(f"the server ended with status {self.process.returncode}\n{self.output()}")

    def status(self, path: str) -> int | None:
        """The status that `path` answers, None when it does not."""
        try:
            return self.request("GET", path, timeout=5).status
        except (OSError, http.client.HTTPException):
            return None

    def wait_for(self, condition: Callable[[], object], seconds: float = 30.0) -> None:
        """Poll until `condition` holds; raises AssertionError with the server's output when it does not in time."""
        give_up = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < give_up, f"it did not happen within {seconds} s\n{self.output()}"
            time.sleep(0.02)

    def send_signal(self, number: signal.Signals, *, group: bool = False) -> None:
        """Send a signal to the master, or to all processes as a terminal's Ctrl-C does."""
        (os.killpg if group else os.kill)(self.pid, number)

    def stop(self, number: signal.Signals = signal.SIGTERM, *, group: bool = False, seconds: float = 30.0) -> int:
        """Send a signal and wait for the end; gives the exit code."""
        self.send_signal(number, group=group)
        return self.process.wait(seconds)

    def output(self) -> str:
        """Everything written to standard output and standard error so far."""
        return self.stdout() + self.stderr()

    def stdout(self) -> str:
        return (self.directory / "stdout").read_text(errors="replace")

    def stderr(self) -> str:
        return (self.directory / "stderr").read_text(errors="replace")

    def log(self) -> str:
        """The log file's text; empty while there is none."""
        path = Path(self._settings.get("LOG_FILE", ""))
        return path.read_text(errors="replace") if path.is_file() else ""

    def leftovers(self, seconds: float = 10.0) -> list[str]:
        """Command lines of the group's processes that are still there after `seconds`."""
        give_up = time.monotonic() + seconds
        while (left := self._group()) and time.monotonic() < give_up:
            time.sleep(0.05)
        return [" ".join(cmdline) for _, cmdline in left]

    def _group(self) -> list[tuple[int, list[str]]]:
        """Pid and command line of every live process of our group; zombies hold nothing and are not counted."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if os.getpgid(process.pid) == self.pid and process.status() != psutil.STATUS_ZOMBIE:
                    found.append((process.pid, process.cmdline()))
        return found

    def _kill_all(self) -> None:
        for pid, _ in self._group():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(10)


def free_port() -> int:
    """A loopback port nobody listens on at this moment, and none that the system gives a connection meanwhile."""
    while True:
        port = random.randrange(20_000, 32_768)
        with contextlib.suppress(OSError), socket.socket() as listener:
            listener.bind(("127.0.0.1", port))
            return port


def _dumped(value: object) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()
