"""A worker that waits three seconds for slow callers, so that a test need not wait for thirty."""

from __future__ import annotations

from app.process.workers import GeventWorker


class HastyWorker(GeventWorker):
    slow_seconds = 3.0
