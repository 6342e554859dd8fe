"""A worker that waits two seconds for slow callers, so that a test need not wait for thirty."""

from __future__ import annotations

from app.process.workers import GeventWorker


class HastyWorker(GeventWorker):
    slow_seconds = 2.0
