"""Names: the addresses of a host, looked up in a system thread of its own.

The system's resolver cannot be interrupted: with a name server that does not answer it takes up to a minute. gevent
runs it in the ten threads of its hub, where the reads of the database wait as well. Here, whoever looks up the same
name waits for the same thread. So a silent name server occupies a handful of threads and holds up nobody else:
`test_a_silent_resolver_holds_up_nobody_else`.
"""

from __future__ import annotations

import _socket
import os
import socket
import time
from collections.abc import Callable
from typing import Any

from app.store.threads import start_thread

KEPT_SECONDS = 1.0
"""How long an answer serves those who ask next: connections that are made in a burst."""
SILENT_SECONDS = 5.0
"""After so long without an answer the next one asks anew. The system itself repeats its question after 5 s."""

Address = tuple[Any, ...]
AddressInfo = tuple[int, int, int, str, Address]


def resolve(host: str, port: int, flags: int = 0) -> list[AddressInfo]:
    """The system's getaddrinfo below gevent, which would send it to its own threads. Raises OSError, UnicodeError."""
    found = _socket.getaddrinfo(host.encode("ascii"), port, 0, socket.SOCK_STREAM, 0, flags)
    return [(family, kind, protocol, name, address) for family, kind, protocol, name, address in found]


def literal(host: str, port: int) -> list[AddressInfo]:
    """The address that `host` is itself; empty when it is a name. Asks nobody."""
    try:
        return resolve(host, port, _socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return []


Resolve = Callable[[str, int], list[AddressInfo]]


class Lookup:
    """One question to a resolver; `addresses` or `error` is there once `is_done`."""

    def __init__(self, host: str, port: int, ask: Resolve) -> None:
        self.began = time.monotonic()
        self.is_done = False
        self.addresses: list[AddressInfo] = []
        self.error: OSError | UnicodeError | None = None
        self._host, self._port, self._ask = host, port, ask
        self._done, self._running = os.pipe()
        start_thread(self._run)

    def fileno(self) -> int:
        """What can be polled: it is readable once the lookup is done."""
        return self._done

    def __del__(self) -> None:
        # The thread and everybody who waits hold the lookup, so nobody polls the descriptor any more.
        os.close(self._done)

    def _run(self) -> None:
        try:
            self.addresses = self._ask(self._host, self._port)
        except (OSError, UnicodeError) as exc:
            self.error = exc
        finally:
            self.is_done = True
            os.close(self._running)


class Resolver:
    """The lookups of one worker; `ask` blocks until it knows the addresses, or raises."""

    def __init__(self, ask: Resolve = resolve) -> None:
        self._ask = ask
        self._lookups: dict[tuple[str, int], Lookup] = {}

    def look_up(self, host: str, port: int) -> Lookup:
        """The lookup that is under way or was done just now, else a new one."""
        found = self._lookups.get((host, port))
        if found is None or time.monotonic() - found.began > (KEPT_SECONDS if found.is_done else SILENT_SECONDS):
            found = self._lookups[host, port] = Lookup(host, port, self._ask)
        return found
