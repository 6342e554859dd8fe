"""Addresses: a TCP connection to the first address of a host that takes one.

"Happy eyeballs" (RFC 8305): the address families take turns, and an address that has not answered in a moment goes on
trying beside the next one. So an address that swallows packets costs that moment, and not the whole deadline.
"""

from __future__ import annotations

import errno
import itertools
import os
import select
import socket
import time
from collections.abc import Sequence

from app.upstreams.connecting import Connecting
from app.upstreams.connection_errors import could_not_connect
from app.upstreams.names import Address, AddressInfo

NEXT_ADDRESS_SECONDS = 0.2
"""RFC 8305, section 5, recommends 0.25 s and allows 0.1."""
IN_PROGRESS = {0, errno.EINPROGRESS, errno.EWOULDBLOCK, errno.EINTR}
KEEPALIVE = {"TCP_KEEPIDLE": 15, "TCP_KEEPALIVE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 4, "TCP_USER_TIMEOUT": 30_000}
"""A peer that is gone without a word is noticed after 30 s to 35 s; what the system does not have is left out."""


def connected(found: Sequence[AddressInfo], connecting: Connecting, best: Address | None = None) -> socket.socket:
    """A socket, not blocking, on the address that answers first; `best` is tried first.

    Raises CouldNotConnect, or what ended the call.
    """
    race = _Race(connecting)
    try:
        return race.run(in_turns(found, best))
    finally:
        race.close()


def in_turns(found: Sequence[AddressInfo], best: Address | None = None) -> list[AddressInfo]:
    """The system's order, but the families take turns (RFC 8305, section 4), and `best` comes first."""
    families = list(dict.fromkeys(info[0] for info in found))
    columns = [[info for info in found if info[0] == family] for family in families]
    turns = [info for row in itertools.zip_longest(*columns) for info in row if info is not None]
    return sorted(turns, key=lambda info: info[4] != best)


class _Race:
    """The attempts of one connection; closing it closes all but the winner."""

    def __init__(self, connecting: Connecting) -> None:
        self._connecting = connecting
        self._running: dict[int, socket.socket] = {}
        self._error = OSError(errno.EHOSTUNREACH, os.strerror(errno.EHOSTUNREACH))

    def run(self, addresses: Sequence[AddressInfo]) -> socket.socket:
        for last, info in enumerate(addresses, 1 - len(addresses)):
            self._start(info)
            winner = self._winner(None if last == 0 else NEXT_ADDRESS_SECONDS)
            if winner is not None:
                return winner
        raise could_not_connect(self._error) from self._error

    def close(self) -> None:
        while self._running:
            self._running.popitem()[1].close()

    def _start(self, info: AddressInfo) -> None:
        family, kind, protocol, _, address = info
        try:
            sock = socket.socket(family, kind, protocol)
        except OSError as exc:
            self._error = exc
            return
        sock.setblocking(False)
        self._running[sock.fileno()] = sock
        if (code := sock.connect_ex(address)) not in IN_PROGRESS:
            self._failed(sock.fileno(), code)

    def _winner(self, seconds: float | None) -> socket.socket | None:
        """The first that is connected; None when all have failed or, with others to come, after so many seconds."""
        until = None if seconds is None else time.monotonic() + seconds
        while self._running:
            left = None if until is None else until - time.monotonic()
            if left is not None and left <= 0:
                return None
            for descriptor in self._connecting.wait(dict.fromkeys(self._running, select.POLLOUT), left):
                code = self._running[descriptor].getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
                if code == 0:
                    return self._running.pop(descriptor)
                # RFC 8305: a failure starts the next attempt at once.
                self._failed(descriptor, code)
                until = time.monotonic() if until is not None else None
        return None

    def _failed(self, descriptor: int, code: int) -> None:
        self._error = OSError(code, os.strerror(code))
        self._running.pop(descriptor).close()


def tune(sock: socket.socket) -> None:
    """Send small requests at once, and notice a peer that is gone (a NAT that has forgotten the connection)."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in KEEPALIVE.items():
        if hasattr(socket, name):
            sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
