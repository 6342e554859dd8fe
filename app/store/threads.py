"""System threads beside a worker's greenlets: to start one, to run work in one, to wake one, and to wait for one.

Under gevent the standard library is patched: what calls itself a thread is a greenlet, and all greenlets of a worker
share one system thread. A call that blocks that thread, as SQLite's and libpq's do, stops every request of the worker.
So what may block runs in a system thread of its own, which this module makes with gevent's unpatched originals, and
greenlets wait for it without blocking the others: `test_other_greenlets_go_on_while_the_database_is_slow`. Where gevent
has not patched, and under gthread, all threads are system threads, and the same functions use the standard library.

A lock of gevent's is for the greenlets of one system thread. Where two system threads want it at the same moment, a
release may wake nobody, and one of them waits for ever (seen with gevent 26.9: a new server on a busy machine was now
and then never ready). So whatever system threads share is locked with the interpreter's own locks: ours by
`make_lock()`, those of a library by `give_system_locks()`, logging's by `give_logging_system_locks()`.
`test_no_lock_of_gevents_is_shared` watches a whole server.

This is the one module that reaches into gevent (`get_original`, the hub's `Waiter`, `loop.async_` and `threadpool`),
but for its look for plugins, which app/process/workers.py spares a start.
`tests/unit/test_private_parts.py` notices when gevent changes them.
"""

from __future__ import annotations

import functools
import importlib.util
import logging
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any, Protocol, TypeVar, cast

from gevent import Timeout, get_hub
from gevent.hub import Waiter
from gevent.monkey import get_original, is_module_patched

Result = TypeVar("Result")

WAKEUPS = "llm_server_wakeups"
LOOK_SECONDS = 0.002


class Done(Protocol):
    """Something that one thread or greenlet waits for and another thread does; made by the one that waits."""

    def wait(self, seconds: float) -> bool:
        """Wait for at most so many seconds; tell whether it is done. Once only."""

    def set(self) -> None:
        """It is done; from any thread."""


def make_done() -> Done:
    """A Done for a greenlet under gevent, else for a thread."""
    return _GreenletDone() if _has_greenlets() else _ThreadDone()


def make_lock() -> AbstractContextManager[object]:
    """A lock for what system threads share. Held for a moment only: meanwhile no greenlet goes on that wants it."""
    lock: AbstractContextManager[object] = get_original("_thread", "allocate_lock")()
    return lock


def give_system_locks(library: str) -> None:
    """Have a library that is used in system threads make the interpreter's own locks; those it has stay what they are.

    In its modules a `threading` takes the place of the patched one that gevent has not patched, and so does its `Lock`.
    """
    if not _has_greenlets():
        return
    unpatched = _unpatched_threading()
    replaced: list[tuple[object, object]] = [(threading, unpatched), (threading.Lock, unpatched.Lock)]
    for name, module in tuple(sys.modules.items()):
        if name.partition(".")[0] == library:
            for patched, original in replaced:
                vars(module).update({name: original for name, value in vars(module).items() if value is patched})


def give_logging_system_locks() -> None:
    """Have logging use the interpreter's own locks again, in place of those that gevent gave it when it patched."""
    make: Callable[[], Any] = get_original("_thread", "RLock")
    logging._lock = make()  # type: ignore[attr-defined]
    for reference in logging._handlerList:  # type: ignore[attr-defined]
        if (handler := reference()) is not None:
            handler.lock = make()


@functools.cache
def _unpatched_threading() -> ModuleType:
    """The standard library's `threading`, loaded once more on top of the `_thread` that gevent has not patched."""
    names = vars(sys.modules["_thread"])
    originals = ModuleType("_thread")
    vars(originals).update({name: get_original("_thread", name) for name in names if not name.startswith("__")})
    spec = cast(ModuleSpec, importlib.util.find_spec("threading"))
    module = importlib.util.module_from_spec(spec)
    patched, sys.modules["_thread"] = sys.modules["_thread"], originals
    try:
        cast(Any, spec.loader).exec_module(module)
    finally:
        sys.modules["_thread"] = patched
    return module


def start_thread(run: Callable[[], None]) -> None:
    """Start a system thread that does not keep the process alive."""
    if not _has_greenlets():
        threading.Thread(target=run, daemon=True).start()
        return
    get_original("_thread", "start_new_thread")(run, ())


def pause(seconds: float) -> None:
    """Sleep in a system thread."""
    get_original("time", "sleep")(seconds)


def wait_until(is_so: Callable[[], bool], seconds: float) -> None:
    """Look again and again whether it is so, for at most so many seconds; other greenlets go on."""
    give_up = time.monotonic() + seconds
    while not is_so() and time.monotonic() < give_up:
        time.sleep(LOOK_SECONDS)


class Bell:
    """Wakes a system thread; rung before it is waited for, it is not lost."""

    def __init__(self) -> None:
        self._rings = get_original("queue", "SimpleQueue")()

    def ring(self) -> None:
        """Never blocks; from any thread or greenlet."""
        if self._rings.empty():
            self._rings.put(None)

    def wait(self, seconds: float | None = None) -> bool:
        """Wait for a ring, at most so many seconds; tell whether there was one."""
        try:
            self._rings.get(timeout=seconds)
        except queue.Empty:
            return False
        return True


def offload(work: Callable[[], Result], seconds: float | None = None) -> Result:
    """Run `work` in a system thread, where it may block; wait for it for at most so many seconds.

    Raises what `work` raises, and TimeoutError; what `work` does after that is lost.
    """
    outcome: list[tuple[Result | None, Exception | None]] = []

    def guarded() -> None:
        # What leaves a pool's thread as an exception is printed by gevent, and lost where that cannot be written.
        try:
            outcome.append((work(), None))
        except Exception as exc:
            outcome.append((None, exc))

    if _has_greenlets():
        # A full pool is waited for as well.
        with Timeout(seconds, TimeoutError):
            get_hub().threadpool.spawn(guarded).get()
    else:
        _run_in_thread(guarded, seconds)
    result, error = outcome[0]
    if error is not None:
        raise error
    return cast(Result, result)


def _run_in_thread(run: Callable[[], None], seconds: float | None) -> None:
    if seconds is None:
        return run()
    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(seconds)
    if thread.is_alive():
        raise TimeoutError


def _has_greenlets() -> bool:
    return bool(is_module_patched("threading"))


class _ThreadDone:
    """Wakes a thread."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def wait(self, seconds: float) -> bool:
        return self._event.wait(seconds)

    def set(self) -> None:
        self._event.set()


class _GreenletDone:
    """Wakes a greenlet from another thread, before any request that has not begun.

    gevent's own Event would put the greenlet at the end of the queue of those that may run. When many requests come at
    once, all of them are in that queue: each would be parsed before the first one goes on after its commit, and
    everybody waits as long as the slowest. Here the event loop itself switches to the greenlet, as soon as it looks for
    events: `test_a_greenlet_goes_on_before_new_requests_begin`.
    """

    def __init__(self) -> None:
        self._is_done = False
        self._waiter = Waiter()
        # Before anybody can tell that it is done.
        self._wakeups = _Wakeups.of_this_thread()

    def wait(self, seconds: float) -> bool:
        with Timeout(seconds, False):
            self._waiter.get()
        return self._is_done

    def set(self) -> None:
        self._is_done = True
        self._wakeups.add(self._waiter)


class _Wakeups:
    """The greenlets of a system thread that can go on, switched to by one watcher of its event loop.

    To make a watcher for each wait takes longer than the wait of a cache hit, and the loop looks at each of them.
    """

    def __init__(self, hub: Any) -> None:
        self._ready: deque[Any] = deque()
        self._watcher = hub.loop.async_()
        self._watcher.start(self._switch)

    @classmethod
    def of_this_thread(cls) -> _Wakeups:
        """Kept by the thread's hub, and made with the first wait."""
        hub: Any = get_hub()
        found: _Wakeups | None = getattr(hub, WAKEUPS, None)
        if found is None:
            found = cls(hub)
            setattr(hub, WAKEUPS, found)
        return found

    def add(self, waiter: Any) -> None:
        """From any thread."""
        self._ready.append(waiter)
        self._watcher.send()

    def _switch(self) -> None:
        while self._ready:
            self._ready.popleft().switch(None)
