"""Gevent workers, made as gunicorn's master makes them but never started, and one that leaves all to gunicorn."""

from __future__ import annotations

import contextlib
import runpy
from collections.abc import Iterator
from typing import Any

import gunicorn.config

from app.process.workers import GeventWorker
from tests.server import ROOT

OURS = ("limit_request_line", "limit_request_fields", "limit_request_field_size", "forwarder_headers")
"""The settings of gunicorn.conf.py that decide how a request is read."""


class GunicornsWay(GeventWorker):
    """gunicorn reads and answers every request."""

    def _base_environ(self, listener: Any) -> None:
        return None


class FakeLog:
    """Keeps what is logged: level and message."""

    def access(self, *_: object) -> None:
        """As NoAccessLog."""

    def __init__(self, *_: object) -> None:
        self.lines: list[tuple[str, str]] = []

    def __getattr__(self, level: str) -> Any:
        def keep(message: str, *arguments: object, **_: object) -> None:
            self.lines.append((level, message % arguments))

        return keep


class FakeListener:
    """Where the worker listens; nobody connects, as each test brings its own connections."""

    def getsockname(self) -> tuple[str, int]:
        return ("127.0.0.1", 5601)


@contextlib.contextmanager
def make_worker(kind: type[GeventWorker] = GeventWorker, **settings: object) -> Iterator[GeventWorker]:
    """A worker of this kind."""
    cfg, file = gunicorn.config.Config(), runpy.run_path(str(ROOT / "gunicorn.conf.py"))
    for name, value in ({name: file[name] for name in OURS} | {"keepalive": 75} | settings).items():
        cfg.set(name, value)
    worker = kind(7, 4711, [FakeListener()], None, 30, cfg, FakeLog())
    try:
        yield worker
    finally:
        worker.tmp.close()
