"""Callers' connections: read in turns with the others, written at once, closed without losing the answer.

Everything here waits as the standard library does, which gevent has patched in a gevent worker.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time
from typing import Any

LINGER_SECONDS = 1.0
LINGER_BYTES = 2 * 1024 * 1024
"""How long, and for how many bytes, a connection that is being closed is read: else the answer could be lost."""
LINGER_DECLARED_BYTES = 64 * 1024 * 1024
"""The same where the request said how long its body is: a caller that sends all of it first can read its 413."""
READ_PIECE = 64 * 1024
FAIR_BYTES = 16 * 1024
"""After so many bytes of one connection the others have a turn."""


class FairSocket:
    """Reads a connection as its socket does, but lets the other greenlets run in between.

    Without it a peer that sends as fast as we read would hold the worker for as long as it likes: gevent switches only
    where it has to wait, and no timeout can fire before. `test_a_flood_holds_nobody_up` shows it.

    `begun` are bytes that were read of the connection already; they come first. For all else it is `sock`.
    """

    def __init__(self, sock: socket.socket, begun: bytes = b"") -> None:
        self.sock = sock
        self._begun = begun
        self._bytes = 0

    def recv(self, size: int) -> bytes:
        """Some bytes; empty at the end."""
        if self._begun:
            received, self._begun = self._begun[:size], self._begun[size:]
            return received
        if self._bytes >= FAIR_BYTES:
            time.sleep(0)
            self._bytes = 0
        received = self.sock.recv(size)
        self._bytes += len(received)
        return received

    def __getattr__(self, name: str) -> Any:
        return getattr(self.sock, name)


def plain(client: Any) -> socket.socket:
    """The socket itself, where it is behind a FairSocket."""
    sock: socket.socket = client.sock if isinstance(client, FairSocket) else client
    return sock


def read_at_hand(client: socket.socket, size: int) -> bytes:
    """At most so many bytes, if there are any that need not be waited for; the socket waits for ever afterwards."""
    client.settimeout(0)
    try:
        return client.recv(size)
    except BlockingIOError:
        return b""
    finally:
        client.settimeout(None)


def send_all(client: socket.socket, data: bytes, seconds: float) -> None:
    """As `sendall` with a timeout, which raises TimeoutError; but where the kernel takes all of it no timer is made."""
    client.settimeout(0)
    try:
        sent = client.send(data)
    except BlockingIOError:
        sent = 0
    client.settimeout(seconds)
    if sent < len(data):
        client.sendall(memoryview(data)[sent:])


def close_gently(client: socket.socket, *, max_bytes: float = LINGER_BYTES) -> None:
    """Close without losing the answer: bytes left unread would turn the close into a reset, which can destroy it.

    As RFC 9112, section 9.6, but for a limited time and number of bytes, and the other greenlets run in between.
    """
    end, left = time.monotonic() + LINGER_SECONDS, max(max_bytes, LINGER_BYTES)
    with client, contextlib.suppress(OSError):
        client.shutdown(socket.SHUT_WR)
        while left > 0 and (seconds := end - time.monotonic()) > 0:
            client.settimeout(seconds)
            received = client.recv(READ_PIECE)
            if not received:
                break
            left -= len(received)
            time.sleep(0)


def reset(client: socket.socket) -> None:
    """Close with a reset: the kernel would keep what the peer has not taken, and try for minutes."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
