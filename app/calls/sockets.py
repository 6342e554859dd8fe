"""Sockets that belong to a call: the caller's, at which we peek, and upstream's, which we cut."""

from __future__ import annotations

import _socket
import contextlib
import socket
import threading

PEEK = int(socket.MSG_PEEK | socket.MSG_DONTWAIT)


class HeldSocket:
    """An upstream socket as calls see it: one call at a time holds it, and it is cut only on that one's behalf."""

    def __init__(self, sock: socket.socket) -> None:
        self._holder: object | None = None
        self._socket = sock
        self._lock = threading.Lock()

    def bind(self, call: object) -> None:
        """From now on the socket works for `call`, and for no earlier one."""
        with self._lock:
            self._holder = call

    def cut(self, call: object) -> None:
        """Shut the socket down for both directions if it still works for `call`; a blocked read ends at once."""
        with self._lock:
            if self._holder is not call:
                return
            with contextlib.suppress(OSError, ValueError):
                handle = _handle(self._socket)
                try:
                    handle.shutdown(socket.SHUT_RDWR)
                finally:
                    handle.detach()


class Interrupt(HeldSocket):
    """A connection that is still being made, as calls see it: a cut makes `fileno()` readable for who polls it."""

    def __init__(self) -> None:
        self._near, self._far = socket.socketpair()
        super().__init__(self._far)

    def fileno(self) -> int:
        """What can be polled."""
        return self._near.fileno()

    def close(self) -> None:
        """From now on it is cut for nobody."""
        self.bind(None)
        self._near.close()
        self._far.close()


def peek(sock: socket.socket) -> bytes | None:
    """What can be read at once and stays unread: None when nothing, `b""` when the other end is closed or lost."""
    try:
        handle = _handle(sock)
        try:
            return handle.recv(1, PEEK)
        finally:
            handle.detach()
    except BlockingIOError:
        return None
    except (OSError, ValueError):
        return b""


def _handle(original: socket.socket) -> _socket.socket:
    """The plain system socket behind `original`, below TLS and below gevent, whose own recv would wait.

    It has to be detached. Its family and type are named, or Python would ask the system for each; what is done with it
    works with any.
    """
    return _socket.socket(_socket.AF_INET, _socket.SOCK_STREAM, 0, original.fileno())
