"""The application with one route more, for the leak gate: what this worker holds, counted from within."""

from __future__ import annotations

import ctypes
import gc
import json
import sys
from collections.abc import Callable, Iterable
from typing import Any

from greenlet import getcurrent, greenlet

from wsgi import app

PATH = "/held"
LIBC = ctypes.CDLL(None)


class MallocInfo(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = [
        *((name, ctypes.c_size_t) for name in ("arena", "ordblks", "smblks", "hblks", "hblkhd")),
        *((name, ctypes.c_size_t) for name in ("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")),
    ]


class Census:
    """Answers PATH itself, with garbage collected first, and passes everything else on."""

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self._application = application

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] != PATH:
            return self._application(environ, start_response)
        gc.collect()
        found = {"greenlets": alive(), "blocks": sys.getallocatedblocks(), "malloc_bytes": malloc_bytes()}
        body = json.dumps(found).encode()
        start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
        return [body]


def malloc_bytes() -> int:
    """What `malloc` has given and not got back; Python's small objects are in none of it. 0 without glibc 2.33."""
    if not hasattr(LIBC, "mallinfo2"):
        return 0
    LIBC.mallinfo2.restype = MallocInfo
    info = LIBC.mallinfo2()
    return int(info.uordblks + info.hblkhd)


def alive() -> int:
    """Greenlets of this thread that were made and have not ended, the caller's own among them.

    Those of other threads come and go with gevent's pool of threads.
    """
    ours = root(getcurrent())
    # `isinstance` would wake the lazy objects of some packages, and they would load what nobody needs.
    found = [thing for thing in gc.get_objects() if issubclass(type(thing), greenlet)]
    return sum(not one.dead and root(one) is ours for one in found)


def root(one: greenlet) -> greenlet:
    """The greenlet that a thread began as."""
    while one.parent is not None:
        one = one.parent
    return one


app.wsgi_app = Census(app.wsgi_app)
