"""Prints the server's address and an example request, once the server is ready."""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import shlex
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from app.config import Config
from app.process.address import host_and_port
from app.upstreams.local_model import DEMO

logger = logging.getLogger(__name__)

PROBE_SECONDS = 2.0

EXAMPLE = """
LLM Server is ready at {place}{pages}
{notes}
Try it:

curl -s {url}/api/v1/chat{token} -H 'Content-Type: application/json' -d '{body}'
"""
DEMO_NOTE = """
The demo model is very small: it knows English only, and what it says is often wrong. OPENAI_API_KEY, OPENAI_BASE_URL
or LOCAL_MODEL give the server a better one.
"""
TOKEN_NOTE = """
Every caller needs a token. This command prints one, to be put in the place of TOKEN:

.venv/bin/flask --app wsgi clients add NAME
"""
TOKEN = " -H 'Authorization: Bearer TOKEN'"
BODY = '{"user_message": "What is the capital of France?", "temperature": 0, "free_mode": true}'
"""What the terminal and the front page offer to send: the demo model answers it at once."""


@dataclass(frozen=True)
class Place:
    """Where the server listens, as a caller on this machine reaches it: a host and a port, or the path of a socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def of(cls, listening: Any) -> Self:
        """The place of a listening socket, by its `getsockname()`."""
        if not isinstance(listening, tuple):
            return cls(path=os.fsdecode(listening))
        host, port = str(listening[0]), int(listening[1])
        return cls({"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host), port)

    @property
    def name(self) -> str:
        """What the banner says."""
        return f"unix:{self.path}" if self.path else f"http://{host_and_port(self.host, self.port)}"

    @property
    def curl_url(self) -> str:
        """How curl is told of it, up to the path of a route."""
        return f"--unix-socket {shlex.quote(self.path)} http://localhost" if self.path else self.name

    def connect(self) -> http.client.HTTPConnection:
        """A connection to it. Raises OSError."""
        if not self.path:
            return http.client.HTTPConnection(self.host, self.port, timeout=PROBE_SECONDS)
        connection = http.client.HTTPConnection("localhost", timeout=PROBE_SECONDS)
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(PROBE_SECONDS)
        connection.sock.connect(self.path)
        return connection


def announce(config: Config, listening: Sequence[Any], *, timeout_seconds: float = 120.0) -> None:
    """Wait until readiness answers 200, then print the address and one curl line; a JSON log gets the address.

    `listening` has what `getsockname()` says of each listening socket; the first that has a port is told.
    """
    place = Place.of(next((address for address in listening if isinstance(address, tuple)), listening[0]))
    give_up = time.monotonic() + timeout_seconds
    while not _is_ready(place):
        if time.monotonic() > give_up:
            logger.warning("still not ready after %d s; /readyz at %s says why", timeout_seconds, place.name)
            return
        time.sleep(0.2)
    if config.log_format == "json":
        logger.info("ready at %s", place.name)
    else:
        print(_example(config, place), flush=True)


def _example(config: Config, place: Place) -> str:
    notes = (DEMO_NOTE if config.local_model == DEMO else "") + (TOKEN_NOTE if config.token_required else "")
    pages = "" if place.path else f"   (in a browser: {place.name}/console, documentation: {place.name}/docs)"
    token = TOKEN if config.token_required else ""
    told = {"place": place.name, "pages": pages, "notes": notes}
    return EXAMPLE.format(**told, url=place.curl_url, token=token, body=BODY)


def _is_ready(place: Place) -> bool:
    try:
        with contextlib.closing(place.connect()) as connection:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
