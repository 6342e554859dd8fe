"""One real gunicorn worker under gevent: a thousand calls in flight, TLS to upstream, and deadlines meanwhile."""

from __future__ import annotations

import asyncio
import json
import resource
import ssl
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psutil
import pytest
import trustme

from tests.server import Server
from tests.upstream import Received, Upstream, delayed, echo, pieces, silence

CALLERS = 1000
Start = Callable[..., Server]


class PatientUpstream(Upstream):
    """Answers nobody before `crowd` calls are in flight at once. Does not poll for departures: a crowd's would cost."""

    def __init__(self, crowd: int) -> None:
        super().__init__()
        self.default = self._when_all_are_there
        self._crowd = crowd
        self._all_there = asyncio.Event()

    async def _when_all_are_there(self, received: Received, writer: asyncio.StreamWriter) -> None:
        if self.most_in_flight == self._crowd:
            self._all_there.set()
        await self._all_there.wait()
        await delayed(1, echo)(received, writer)

    async def _departure(self, reader: asyncio.StreamReader) -> None:
        await asyncio.sleep(3600)


@pytest.fixture
def _many_files() -> Iterator[None]:
    """Two sockets per call are this process's; the server inherits the limit."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 4 * CALLERS + 500
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted if hard < 0 else min(wanted, hard)), hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def chat(port: int, message: str) -> tuple[int, str]:
    """One chat turn on a connection of its own: status, and text or error code."""
    body = json.dumps({"user_message": message, "free_mode": True}).encode()
    head = "POST /api/v1/chat HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\n"
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    answer = await reader.read()
    writer.close()
    document = json.loads(answer.partition(b"\r\n\r\n")[2])
    return int(answer.split()[1]), document.get("response_text") or document["code"]


async def crowd(port: int, size: int) -> list[tuple[int, str]]:
    """That many callers at once."""
    return await asyncio.gather(*(chat(port, f"nonce-{number}") for number in range(size)))


@pytest.mark.alone
@pytest.mark.usefixtures("_many_files")
def test_a_thousand_calls_in_flight_in_one_worker(start_server: Start) -> None:
    """Upstream answers nobody before it holds 1,000 calls: each caller gets his own answer, then all is as before."""
    with PatientUpstream(CALLERS) as upstream:
        server = start_server(OPENAI_BASE_URL=upstream.base_url, MAX_CONCURRENT_REQUESTS=CALLERS, REQUEST_TIMEOUT=30)
        answers = asyncio.run(crowd(server.port, CALLERS))
        assert answers == [(200, f"nonce-{number}") for number in range(CALLERS)]
        assert (upstream.most_in_flight, len(upstream.received)) == (CALLERS, CALLERS)
        assert psutil.Process(server.worker_pids[0]).memory_info().rss < 300 * 2**20
        assert server.chat("after").json["response_text"] == "after"


def test_more_callers_than_slots(start_server: Start, upstream: Upstream) -> None:
    """Beyond the slots callers are told 503; those in the slots are answered, and liveness does not wait."""
    upstream.default = delayed(1, echo)
    server = start_server(MAX_CONCURRENT_REQUESTS=20, MAX_QUEUE_SECONDS=0.2)
    with ThreadPoolExecutor(1) as threads:
        answering = threads.submit(asyncio.run, crowd(server.port, 100))
        server.wait_for(lambda: upstream.most_in_flight == 20)
        began = time.monotonic()
        assert server.status("/livez") == 200
        assert time.monotonic() - began < 0.5
        answers = answering.result(30)
    good = [(200, f"nonce-{number}") for number in range(100)]
    assert sum(answer == wanted for answer, wanted in zip(answers, good, strict=True)) >= 20
    assert set(answers) - set(good) == {(503, "server_busy")}
    assert upstream.most_in_flight == 20


@pytest.fixture
def secure(tmp_path: Path) -> Iterator[tuple[Upstream, dict[str, Any]]]:
    """An HTTPS upstream with a certificate of our own authority, and the settings that make a server trust it."""
    authority, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    with Upstream(context) as upstream:
        yield upstream, {"OPENAI_BASE_URL": upstream.base_url, "SSL_CERT_FILE": tmp_path / "ca.pem"}


@pytest.mark.parametrize(("scheme", "worker_class"), [("http", "gevent"), ("https", "gevent"), ("https", "gthread")])
def test_real_worker(
    start_server: Start,
    upstream: Upstream,
    secure: tuple[Upstream, dict[str, Any]],
    scheme: str,
    worker_class: str,
) -> None:
    """Silence and dripping end at the deadline and leave their slots; then a crowd's answers are kept apart.

    Over TLS as well, where a gevent worker blocks as a whole if anything was patched too late.
    """
    settings: dict[str, Any] = {}
    if scheme == "https":
        upstream, settings = secure
    drip = pieces([b"HTTP/1.1 200 X\r\n\r\n", *[b" "] * 100], pause=0.1)
    upstream.script(silence(), drip, silence(), drip)
    server = start_server(**settings, REQUEST_TIMEOUT=1.5, MAX_CONCURRENT_REQUESTS=25, WORKER_CLASS=worker_class)
    began = time.monotonic()
    assert set(asyncio.run(crowd(server.port, 4))) == {(504, "upstream_timeout")}
    assert time.monotonic() - began < 2.5
    assert len(upstream.received) == 4

    upstream.default = delayed(0.2, echo)
    for _ in range(2):
        assert asyncio.run(crowd(server.port, 25)) == [(200, f"nonce-{number}") for number in range(25)]
    assert upstream.most_in_flight > 10
    assert upstream.connections <= 4 + 25
