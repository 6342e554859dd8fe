"""The application with one route more, for the leak gate: how many greenlets are alive in this worker."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable
from typing import Any

from greenlet import getcurrent, greenlet

from wsgi import app

PATH = "/greenlets"


class Census:
    """Answers PATH itself, with garbage collected first, and passes everything else on."""

    def __init__(self, application: Callable[..., Iterable[bytes]]) -> None:
        self._application = application

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        if environ["PATH_INFO"] != PATH:
            return self._application(environ, start_response)
        body = str(alive()).encode()
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
        return [body]


def alive() -> int:
    """Greenlets of this thread that were made and have not ended, the caller's own among them.

    Those of other threads come and go with gevent's pool of threads.
    """
    gc.collect()
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
