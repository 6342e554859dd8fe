"""Whether an HTTP server answers: asked with the standard library alone, before and beside all other connections."""

from __future__ import annotations

import http.client


def answers(host: str, port: int, path: str, *, timeout_seconds: float) -> bool:
    """Tell whether a GET of `path` is answered 200 in time."""
    connection = http.client.HTTPConnection(host, port, timeout=timeout_seconds)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
