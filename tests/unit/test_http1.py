"""What one connection to upstream does where its socket takes little at once."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any

from app.upstreams.http1 import UpstreamConnection

REQUEST = b"POST / HTTP/1.1\r\nContent-Length: 300000\r\n\r\n" + bytes(range(250)) * 1200
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


class SlowSocket(socket.socket):
    """Takes 1,000 bytes at once, as a socket under gevent does whose buffer is nearly full."""

    def send(self, data: Any, flags: int = 0) -> int:
        return super().send(memoryview(data)[:1000], flags)


def test_a_request_that_is_taken_in_parts_arrives_whole() -> None:
    """Each byte once, in order."""
    near, far = socket.socketpair()
    received = bytearray()

    def answer() -> None:
        far.settimeout(5)
        with contextlib.suppress(TimeoutError):
            while len(received) < len(REQUEST):
                received.extend(far.recv(65_536))
        far.sendall(ANSWER)

    with far:
        peer = threading.Thread(target=answer)
        peer.start()
        connection = UpstreamConnection(SlowSocket(fileno=near.detach()))
        assert connection.ask(REQUEST)[0] == 200
        assert connection.next_piece() == b"ok"
        peer.join()
        connection.close()
    assert received == REQUEST
