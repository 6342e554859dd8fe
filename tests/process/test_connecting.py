"""An upstream to which no connection can be made holds nothing: neither the caller, nor its slot once it left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from tests.process.test_cancellation import NATIVE, send
from tests.prometheus import samples, value
from tests.server import Server
from tests.unit.test_connect import silent_listener


@pytest.fixture(params=["gevent", "gthread"])
def worker_class(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=["http", "https"], ids=["address", "handshake"])
def dead_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """An upstream whose packets get lost, and one that takes connections and says nothing."""
    with silent_listener(full=request.param == "http") as port:
        yield f"{request.param}://127.0.0.1:{port}/v1"


def test_the_slot_is_free_while_connecting(
    start_server: Callable[..., Server], worker_class: str, dead_url: str
) -> None:
    """The caller leaves while its connection is made: its slot is free within a second. One that stays is answered at
    its deadline.
    """
    server = start_server(WORKER_CLASS=worker_class, OPENAI_BASE_URL=dead_url, REQUEST_TIMEOUT=3)

    def in_use() -> float:
        return value(samples(server.request("GET", "/metrics").body.decode()), "slots_in_use")

    caller = send(server, *NATIVE[:2])
    server.wait_for(lambda: in_use() == 1, 5)
    caller.close()
    left = time.monotonic()
    server.wait_for(lambda: in_use() == 0, 10)
    assert time.monotonic() - left <= 1
    began = time.monotonic()
    assert server.chat("hi").status == 504
    assert time.monotonic() - began <= 3.5
    assert in_use() == 0
