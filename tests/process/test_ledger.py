"""The row of a caller that leaves a real server."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Callable, Iterator
from typing import Any

from tests.api.test_ledger import (
    CHAT,
    COMPLETIONS,
    PASSED,
    TURN,
)
from tests.conftest import EVERY_STORE
from tests.records import rows, settled
from tests.server import Server
from tests.streams import chunk, delta, stream
from tests.upstream import Upstream, silence

pytestmark = EVERY_STORE


@contextlib.contextmanager
def calling(server: Server, path: str, body: dict[str, Any]) -> Iterator[socket.socket]:
    """A caller that has sent its request and leaves at the end of the block."""
    content = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nX-Free-Mode: true\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as caller:
        caller.sendall(f"{head}Content-Length: {len(content)}\r\n\r\n".encode() + content)
        yield caller


def test_a_caller_that_leaves(start_server: Callable[..., Server], upstream: Upstream, database_url: str) -> None:
    """After 0 and 2 chunks, on both routes, in a real worker: cancelled, and estimated."""
    server = start_server()
    want = []
    for path, body, piece in ((CHAT, TURN, delta("12345678")), (COMPLETIONS, PASSED, chunk("12345678"))):
        for streamed, pieces in ((False, 0), (True, 0), (True, 2)):
            upstream.default = stream([piece] * pieces, pause=0.05, close=False) if pieces else silence()
            asked = len(upstream.received)
            with calling(server, path, body | {"stream": streamed}) as caller:
                server.wait_for(lambda asked=asked: len(upstream.received) > asked, 10)
                seen = b""
                while seen.count(b"12345678") < pieces:
                    seen += caller.recv(65536)
            want.append(("cancelled", "client_closed_request", True, "default", 4 if pieces else 0))
            server.wait_for(lambda: all(row["status"] != "pending" for row in rows(database_url)), 10)
    found = settled(database_url)
    names = ("status", "code", "estimated", "api_key_source", "output_tokens")
    assert [tuple(row[name] for name in names) for row in found] == want
    assert all(row["input_tokens"] > 0 and row["cost_nano"] > 0 for row in found)
