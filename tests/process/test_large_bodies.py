"""Many large bodies at once do not take the worker down."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import psutil

from tests.server import Answer, Server
from tests.upstream import Upstream, delayed, text

MB = 2**20
CALLERS = 40
BODY = json.dumps({"model": "m", "input": "x" * 6 * MB}).encode()


def test_many_large_bodies_are_not_held_at_once(start_server: Callable[..., Server], upstream: Upstream) -> None:
    """Those that fit are answered and the others told to come again; small requests go on, and memory stays bounded."""
    server = start_server(MAX_REQUEST_BYTES=8 * MB, MAX_HELD_BYTES=32 * MB)
    upstream.default = delayed(3, text("x"))
    worker = psutil.Process(server.worker_pids[0])
    before, most, is_over = worker.memory_info().rss, [0], threading.Event()

    def watch() -> None:
        while not is_over.wait(0.02):
            most[0] = max(most[0], worker.memory_info().rss)

    def send(_: int) -> Answer:
        return server.request("POST", "/v1/responses", BODY, {"X-Free-Mode": "true"})

    with ThreadPoolExecutor(CALLERS + 2) as threads:
        threads.submit(watch)
        sent = [threads.submit(send, number) for number in range(CALLERS)]
        try:
            small = server.chat("hi")
            answers = [answer.result() for answer in sent]
        finally:
            is_over.set()
    assert small.status == 200
    codes = {(answer.status, (answer.json.get("error") or {}).get("code")) for answer in answers}
    assert codes == {(200, None), (503, "server_busy")}
    assert {answer.headers["Retry-After"] for answer in answers if answer.status == 503} == {"1"}
    assert (most[0] - before) / MB < 160
    upstream.default = text("x")
    assert send(0).status == 200
    assert server.worker_pids == [worker.pid]
