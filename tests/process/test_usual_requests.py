"""Two real servers, one of which leaves every request to gunicorn: answers, log and counts are the same."""

from __future__ import annotations

import contextlib
import re
import socket
import sys
from collections.abc import Iterator

import pytest

from tests.callers import message
from tests.conftest import SERVER_KEY
from tests.process.test_input import CHUNKED, HOST, LENGTH, MARK, TE, TURN, raw_chat
from tests.prometheus import Samples, samples
from tests.raw_requests import NGINX, TABLE, get, post
from tests.server import Server
from tests.upstream import Upstream

GUNICORNS_WAY = (sys.executable, "-m", "gunicorn", "-k", "tests.gevent_workers.GunicornsWay", "wsgi:app")
VARYING = re.compile(
    rb"Date: [^\r]+|\b[0-9a-f]{32}\b|dur=[0-9.]+|\d+\.\d+|\b\d{10}\b"
    rb"|Content-Length: \d+|(?<=\r\n)[0-9A-F]+(?=\r\n)"
)
"""What differs from answer to answer: times, ids of ours, and how long the texts of times are."""
OWN_OF_A_LINE = re.compile(r"\w+_ms=\S+|=[0-9a-f]{32}\b")

STREAM = {"user_message": "hi", "free_mode": True, "stream": True}
REQUESTS = {
    **{raw.name: raw.data for raw in TABLE},
    "chat": raw_chat(HOST, LENGTH),
    "chat in chunks": raw_chat(HOST, TE, body=CHUNKED),
    "chat and another": raw_chat(HOST, LENGTH) + get(HOST),
    "chat through nginx": raw_chat(*NGINX[:-1], LENGTH),
    "a stream": message("POST", "/api/v1/chat", STREAM),
    "a stream of OpenAI's": message("POST", "/v1/responses", {"model": "m", "input": "hi", "stream": True}),
    "with the expectation": raw_chat(HOST, LENGTH, b"Expect: 100-continue"),
    "a length that is too large": raw_chat(HOST, b"Content-Length: 999999999"),
    "a body that does not come": raw_chat(HOST, b"Content-Length: 99"),
    "no JSON": raw_chat(HOST, LENGTH, body=b"x" * len(TURN)),
    "no JSON by its type": raw_chat(HOST, LENGTH).replace(b"application/json", b"text/plain"),
    "an unknown field": message("POST", "/api/v1/chat", {"user_message": "hi", "no_such": MARK}),
    "no such route": get(HOST, target=b"/nope"),
    "no such method": post(HOST).replace(b"/echo", b"/livez"),
    "a system route": get(HOST, b"X-Forwarded-For: 203.0.113.7", target=b"/api/v1/system/overview"),
    "the models": get(HOST, target=b"/v1/models"),
    "an own id": get(HOST, b"X-Request-ID: own.id"),
    "the specification": get(HOST, b"Connection: close", target=b"/openapi.json"),
    "a file": get(HOST, target=b"/swagger/swagger-ui.css"),
}


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Server]]:
    with Upstream() as upstream, contextlib.ExitStack() as opened:
        # The methods in `Allow` come from a set.
        settings: dict[str, object] = {
            "PYTHONHASHSEED": 0,
            "OPENAI_API_KEY": SERVER_KEY,
            "OPENAI_BASE_URL": upstream.base_url,
        }
        ours = Server(tmp_path_factory.mktemp("ours"), **settings)
        gunicorns = Server(tmp_path_factory.mktemp("gunicorns"), command=GUNICORNS_WAY, **settings)
        yield [opened.enter_context(server) for server in (ours, gunicorns)]


def answered(server: Server, request: bytes) -> bytes:
    """All that the server sends until it closes, which another request behind this one asks for."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(request + get(HOST, b"Connection: close"))
        return VARYING.sub(b"", b"".join(iter(lambda: connection.recv(65_536), b"")))


def logged(server: Server) -> list[str]:
    """The lines of requests, without ids and times."""
    found = [line.partition(" app.request: request ")[2] for line in server.log().splitlines()]
    return [OWN_OF_A_LINE.sub("", line) for line in found if line]


def counted(server: Server) -> Samples:
    """How many requests the server has counted, by route, status and code."""
    found = samples(server.request("GET", "/metrics").body.decode())
    return {key: number for key, number in found.items() if key[0] == "requests_total"}


@pytest.mark.parametrize("name", REQUESTS)
def test_both_servers_answer_the_same(servers: list[Server], name: str) -> None:
    """To the byte, but for times and ids."""
    ours, gunicorns = (answered(server, REQUESTS[name]) for server in servers)
    assert ours == gunicorns


def test_both_servers_tell_the_same(servers: list[Server]) -> None:
    """The same lines in the log, and the same counts."""
    for server in servers:
        for request in REQUESTS.values():
            answered(server, request)
        answered(server, raw_chat(HOST, LENGTH, b"X-Request-ID: last.1"))
        answered(server, get(HOST, b"X-Request-ID: last.2", target=b"/nope"))
        server.wait_for(lambda server=server: "last.2" in server.log())
    ours, gunicorns = map(logged, servers)
    assert sorted(ours) == sorted(gunicorns)
    assert len(ours) > 40
    assert counted(servers[0]) == counted(servers[1]) != {}
