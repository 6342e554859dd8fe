"""Metrics: what the server counts and measures, in Prometheus' text format, summed over all workers of the machine.

Under gunicorn each worker keeps its values in files of its own below PROMETHEUS_MULTIPROC_DIR, and whichever answers
reads them all; what a dead worker counted stays there. Elsewhere the values are in memory. Labels take their values
from the code, never from a request, so the number of series is bounded.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import prometheus_client as prometheus
from prometheus_client import multiprocess, values
from prometheus_client.mmap_dict import MmapedDict

from app.calls.call import Call
from app.calls.receipt import Receipt
from app.failures import FAILURES
from app.models import Usage
from app.process import metrics_files
from app.process.tally import Seconds, Tally
from app.services.memory_hook import FAILURES as MEMORY_FAILURES
from app.units import NANO

MEDIA_TYPE = prometheus.CONTENT_TYPE_PLAIN_0_0_4
LIMITS = (
    *("rate_limited", "concurrency_limited", "budget_exceeded", "server_busy"),
    *("user_rate_limited", "user_budget_exceeded"),
    *("model_not_allowed", "model_price_unknown", "free_mode_not_allowed"),
)
NONE = "-"
SHORT_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5)
LONG_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 20, 40, 80, 160)
REFRESH_SECONDS = 1.0

# The moments at which series began are not needed, and they double what is sent.
prometheus.disable_created_metrics()  # type: ignore[no-untyped-call]


class Metrics:
    """Counts requests and what they cost; `gauges` are read for each answer, and every second under gunicorn."""

    def __init__(self, gauges: Mapping[str, Callable[[], float]] | None = None) -> None:
        self._registry = registry = prometheus.CollectorRegistry()
        self._gauges = dict(gauges or {})
        self._lock = threading.Lock()
        self._told: dict[str, float] = {}
        self._open = 0
        self._tally = Tally()

        def counter(name: str, text: str, *labels: str) -> prometheus.Counter:
            return prometheus.Counter(f"llm_server_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str) -> prometheus.Gauge:
            # `livesum`: over the workers that are alive.
            return prometheus.Gauge(f"llm_server_{name}", text, registry=registry, multiprocess_mode="livesum")

        def seconds(name: str, text: str, bounds: tuple[float, ...]) -> Seconds:
            return Seconds(f"llm_server_{name}", text, bounds, registry)

        self._requests = counter("requests", "Requests answered.", "route", "status", "code", "origin")
        self._refusals = counter("refusals", "Requests refused, by the limit.", "limit")
        self._cache = counter("cache_requests", "Requests that asked the response cache.", "result")
        self._tokens = counter("tokens", "Tokens as the ledger has them, without cached answers.", "direction")
        self._cost = counter("cost_usd", "US dollars as the ledger has them, by whose key paid.", "api_key_source")
        self._attempts = counter(
            "upstream_attempts", "Attempts to have a request answered, by upstream.", "upstream", "outcome"
        )
        self._unpriced = counter("unpriced_requests", "Requests whose cost is not known.")
        self._unrecorded = counter("ledger_unrecorded", "Requests answered without a ledger row (LEDGER_FAIL_OPEN).")
        self._set_aside = counter(
            "ledger_set_aside", "Settlements that could not be written; a sweep closes their rows."
        )
        self._memory = counter("memory_hook_failures", "Failures of the memory hook.", "step", "reason")
        self._queue = seconds("queue_seconds", "In front of the handler and waiting for a slot.", SHORT_SECONDS)
        self._overhead = seconds("overhead_seconds", "In this server, without waiting and upstream.", SHORT_SECONDS)
        self._upstream = seconds("upstream_seconds", "In upstream.", LONG_SECONDS)
        self._first_token = seconds("first_token_seconds", "Until the first text of a stream.", LONG_SECONDS)
        self._in_flight = gauge("requests_in_flight", "Requests being answered, this one included.")
        self._levels = {
            "ledger_queue": gauge("ledger_queue", "Writes that wait to be committed."),
            "slots_in_use": gauge("slots_in_use", "Upstream calls in flight."),
            "slots": gauge("slots", "Upstream calls that may be in flight."),
        }
        self._start_from_zero()

    def opened(self) -> None:
        """A request has come."""
        with self._lock:
            self._open += 1

    def answered(self, call: Call, *, route: str, status: int, code: str | None, timed: bool) -> None:
        """A request is over. `route` is a rule of ours, or "-"; `timed`: it is of the kind that upstream answers."""
        with self._lock:
            self._open -= 1
        receipt, code = call.receipt or Receipt(), code if code in FAILURES else None
        origin = FAILURES[code].origin if code else NONE
        count = self._tally.count
        count(self._requests, (route, str(status), code or NONE, origin))
        if code in LIMITS:
            count(self._refusals, (code,))
        if receipt.cache_hit is not None:
            count(self._cache, ("hit" if receipt.cache_hit else "miss",))
        for tried in receipt.tried:
            if tried.upstream:
                count(self._attempts, (tried.upstream, tried.code or "ok"))
        if timed:
            self._observe(call, receipt, route)

    def booked(self, usage: Usage, cost_nano: int | None, api_key_source: str | None) -> None:
        """The ledger has settled a request that upstream was asked for."""
        count = self._tally.count
        count(self._tokens, ("input",), usage.input_tokens)
        count(self._tokens, ("output",), usage.output_tokens)
        if cost_nano is None:
            count(self._unpriced)
        else:
            count(self._cost, (api_key_source or NONE,), cost_nano / NANO)

    def memory_failed(self, step: str, reason: str) -> None:
        """The memory hook was of no use."""
        self._tally.count(self._memory, (step, reason))

    def refresh(self) -> None:
        """Tell what this worker has counted, and read its gauges."""
        self._tally.tell()
        self._in_flight.set(self._open)
        for name, level in self._levels.items():
            if name in self._gauges:
                level.set(self._gauges[name]())
        if "unrecorded" in self._gauges:
            self._count_up("unrecorded", self._unrecorded)
        if "set_aside" in self._gauges:
            self._count_up("set_aside", self._set_aside)

    def _count_up(self, name: str, counter: prometheus.Counter) -> None:
        """Add to a counter what a total of this worker has grown by."""
        with self._lock:
            told, self._told[name] = self._told.get(name, 0.0), self._gauges[name]()
            counter.inc(self._told[name] - told)

    def keep_fresh(self, interval_seconds: float = REFRESH_SECONDS) -> None:
        """Refresh in the background, so that the other workers of the machine can tell how this one does."""

        def run() -> None:
            while True:
                self.refresh()
                time.sleep(interval_seconds)

        threading.Thread(target=run, name="metrics", daemon=True).start()

    def render(self) -> bytes:
        """Everything, over all workers, in the text format 0.0.4."""
        self.refresh()
        directory = _shared_directory()
        if directory is None:
            return prometheus.generate_latest(self._registry)
        everybody = prometheus.CollectorRegistry()
        multiprocess.MultiProcessCollector(everybody, str(directory))  # type: ignore[no-untyped-call]
        with metrics_files.locked(directory, shared=True):
            return prometheus.generate_latest(everybody)

    def fold(self) -> None:
        """Add up the files of workers that have ended into one file of each kind.

        Each of them would be read for every answer otherwise, for as long as the server lives.
        """
        if (directory := _shared_directory()) is None:
            return
        with metrics_files.locked(directory, shared=False):
            for file in metrics_files.dead_files(directory):
                kind = file.name.partition("_")[0]
                if kind != "gauge":
                    _add_up(file, directory / f"{kind}_folded.db")
                file.unlink(missing_ok=True)

    def _observe(self, call: Call, receipt: Receipt, route: str) -> None:
        spent, observe = call.spent(), self._tally.observe
        observe(self._queue, route, spent.queue)
        observe(self._overhead, route, spent.overhead)
        if receipt.upstream_seconds:
            observe(self._upstream, route, spent.upstream)
        if receipt.first_token_seconds is not None:
            observe(self._first_token, route, receipt.first_token_seconds)

    def _start_from_zero(self) -> None:
        """A series that begins with its first event hides that event from `rate()`."""
        for limit in LIMITS:
            self._refusals.labels(limit)
        for result in ("hit", "miss"):
            self._cache.labels(result)
        for direction in ("input", "output"):
            self._tokens.labels(direction)
        for failure in MEMORY_FAILURES:
            self._memory.labels(*failure)
        for source in ("default", "user_provided"):
            self._cost.labels(source)


def _shared_directory() -> Path | None:
    """Where the values are in files that all workers read; None when they are not, and when it was taken away."""
    if not _is_shared():
        return None
    try:
        return Path(multiprocess.MultiProcessCollector(None)._path)  # type: ignore[no-untyped-call]
    except ValueError:
        return None


def _is_shared() -> bool:
    """Whether the values are in files that all workers read.

    prometheus-client decides so once, when it is imported, and has no public way to ask.
    """
    return values.ValueClass is not values.MutexValue


def _add_up(file: Path, total: Path) -> None:
    """Add the values of one file to those of another, and let a reader see both or neither.

    prometheus-client has no public way to do this; `tests/unit/test_private_parts.py` notices when it changes.
    """
    draft = total.with_suffix(".draft")
    draft.write_bytes(total.read_bytes() if total.exists() else b"")
    sums = MmapedDict(str(draft))  # type: ignore[no-untyped-call]
    for key, value, _, _ in MmapedDict.read_all_values_from_file(str(file)):  # type: ignore[no-untyped-call]
        sums.write_value(key, sums.read_value(key)[0] + value, 0.0)  # type: ignore[no-untyped-call]
    sums.close()  # type: ignore[no-untyped-call]
    draft.replace(total)
