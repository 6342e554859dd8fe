"""Tally: what a worker has counted, in plain numbers, until prometheus-client is told.

prometheus-client writes each step into a file that the workers share, under a lock and after asking whether the process
has forked since. A request takes a dozen steps, which is as long as its JSON takes. So they are summed up here and told
once a second, and before each answer of `/metrics`: `test_what_was_counted_is_told`.

This is the one module that reaches into prometheus-client's histograms (`_sum`, `_buckets`), which take one value at a
time. `tests/unit/test_private_parts.py` notices when it changes them.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Sequence

import prometheus_client as prometheus

Labels = tuple[str, ...]


class Tally:
    """Sums by metric and labels; from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._amounts: defaultdict[tuple[prometheus.Counter, Labels], float] = defaultdict(float)
        self._seen: dict[tuple[Seconds, str], _Seen] = {}

    def count(self, counter: prometheus.Counter, labels: Labels = (), amount: float = 1) -> None:
        """Add to a counter."""
        with self._lock:
            self._amounts[counter, labels] += amount

    def observe(self, seconds: Seconds, route: str, value: float) -> None:
        """Add a value to a histogram."""
        with self._lock:
            seen = self._seen.get((seconds, route))
            if seen is None:
                seen = self._seen[seconds, route] = _Seen(seconds.bounds)
            seen.add(value)

    def tell(self) -> None:
        """Hand over what has been counted since the last time."""
        with self._lock:
            amounts, self._amounts = self._amounts, defaultdict(float)
            values, self._seen = self._seen, {}
        for (counter, labels), amount in amounts.items():
            (counter.labels(*labels) if labels else counter).inc(amount)
        for (seconds, route), seen in values.items():
            seen.tell(seconds.histogram.labels(route))


class Seconds:
    """A histogram of seconds by route; `bounds` are the upper bounds of its buckets."""

    def __init__(self, name: str, text: str, bounds: Sequence[float], registry: prometheus.CollectorRegistry) -> None:
        self.bounds = bounds
        self.histogram = prometheus.Histogram(name, text, ["route"], registry=registry, buckets=bounds)


class _Seen:
    """Values by bucket, and their sum."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = bounds
        self._numbers = [0] * (len(bounds) + 1)
        self._sum = 0.0

    def add(self, value: float) -> None:
        self._numbers[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def tell(self, child: prometheus.Histogram) -> None:
        child._sum.inc(self._sum)
        for bucket, number in zip(child._buckets, self._numbers, strict=True):
            if number:
                bucket.inc(number)
