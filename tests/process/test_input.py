"""Bad input that only a real server can be sent: smuggled requests, huge heads, broken bodies."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator

import pytest

from tests.api.test_input import MARK, NEW_REQUEST_ID, PROBLEM_FIELDS
from tests.conftest import SERVER_KEY
from tests.server import Server
from tests.upstream import Upstream


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Upstream]]:
    """One real gunicorn for all the requests that the test client cannot send; they leave nothing behind in it."""
    with Upstream() as upstream:
        settings = {"OPENAI_API_KEY": SERVER_KEY, "OPENAI_BASE_URL": upstream.base_url}
        with Server(tmp_path_factory.mktemp("input"), **settings) as server:
            yield server, upstream


def send_raw(server: Server, request: bytes) -> tuple[int, bytes]:
    """Send bytes and read until the server closes; give the status and everything that came."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(request)
        answer = b"".join(iter(lambda: connection.recv(65_536), b""))
    return int(answer.split(b" ", 2)[1]), answer


def assert_refused(answer: bytes, status: int) -> None:
    """The bytes are exactly one problem document of this status that repeats nothing."""
    head, _, body = answer.partition(b"\r\n\r\n")
    headers = dict(line.lower().split(": ", 1) for line in head.decode().split("\r\n")[1:])
    problem = json.loads(body)
    assert set(problem) == PROBLEM_FIELDS
    assert (headers["content-type"], problem["status"]) == ("application/problem+json", status)
    assert NEW_REQUEST_ID.fullmatch(problem["request_id"])
    assert problem["request_id"] == headers["x-request-id"]
    assert (headers["cache-control"], headers["x-content-type-options"]) == ("no-store", "nosniff")
    assert MARK.lower().encode() not in answer.lower()


TURN = b'{"user_message": "hi", "free_mode": true}'
CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(TURN), TURN)
LENGTH = b"Content-Length: %d" % len(TURN)
TE = b"Transfer-Encoding: chunked"
HOST = b"Host: localhost"


def raw_chat(*headers: bytes, body: bytes = TURN, line_end: bytes = b"\r\n") -> bytes:
    """A chat request to the byte."""
    lines = [b"POST /api/v1/chat HTTP/1.1", b"Content-Type: application/json", *headers, b"", body]
    return line_end.join(lines)


@pytest.mark.parametrize(
    "request_bytes",
    [
        pytest.param(raw_chat(HOST, LENGTH, TE, body=CHUNKED), id="length and chunked"),
        pytest.param(raw_chat(HOST, TE, LENGTH, body=CHUNKED), id="chunked and length"),
        pytest.param(raw_chat(HOST, b"Content-Length: 5", LENGTH), id="two lengths"),
        pytest.param(raw_chat(HOST, LENGTH, LENGTH), id="the same length twice"),
        pytest.param(raw_chat(HOST, LENGTH + b", %d" % len(TURN)), id="a list of lengths"),
        pytest.param(raw_chat(HOST, b"Content-Length: +%d" % len(TURN)), id="signed length"),
        pytest.param(raw_chat(HOST, b"Content-Length: 0x29"), id="hexadecimal length"),
        pytest.param(raw_chat(HOST, b"Content-Length : 41"), id="space before the colon"),
        pytest.param(raw_chat(HOST, TE, TE, body=CHUNKED), id="chunked twice"),
        pytest.param(raw_chat(HOST, b"Transfer-Encoding: x" + MARK.encode(), body=CHUNKED), id="unknown coding"),
        pytest.param(raw_chat(HOST, b"Transfer-Encoding: \x0bchunked", body=CHUNKED), id="disguised chunked"),
        pytest.param(raw_chat(HOST, TE, body=b"+29\r\n" + TURN + b"\r\n0\r\n\r\n"), id="signed chunk size"),
        pytest.param(raw_chat(HOST, TE, body=b"xx\r\n" + TURN + b"\r\n0\r\n\r\n"), id="bad chunk size"),
        pytest.param(raw_chat(HOST, TE, body=b"29\r\n" + TURN + b"xx0\r\n\r\n"), id="chunk without its end"),
        pytest.param(raw_chat(HOST, b"X-A: b\rX-C: " + MARK.encode(), LENGTH), id="bare CR"),
        pytest.param(raw_chat(HOST, b"X-A: b\nX-C: " + MARK.encode(), LENGTH), id="bare LF in a header"),
        pytest.param(raw_chat(HOST, LENGTH, line_end=b"\n"), id="bare LF as line end"),
        pytest.param(raw_chat(HOST, b"X-A: \0" + MARK.encode(), LENGTH), id="NUL"),
        pytest.param(raw_chat(HOST, b"X-A: b\r\n " + MARK.encode(), LENGTH), id="folded header"),
        pytest.param(raw_chat(HOST, b"Host: y", LENGTH), id="two hosts"),
        pytest.param(raw_chat(HOST, HOST, LENGTH), id="the same host twice"),
        pytest.param(b"GET /" + MARK.encode() + b"\r\n\r\n", id="no version"),
        pytest.param(b"\x16\x03\x01\x02\x00" + MARK.encode() + b"\r\n\r\n", id="TLS"),
        pytest.param(b"GET /livez HTTP/1.1\r\nX-Request-ID: \x1b[31m\r\n\r\n", id="ESC in the request id"),
    ],
)
def test_request_smuggling(served: tuple[Server, Upstream], request_bytes: bytes) -> None:
    """A request whose bounds are in doubt is 400 and the connection is closed; what follows it is not served."""
    server, upstream = served
    status, answer = send_raw(server, request_bytes + b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert (status, answer.count(b"HTTP/1.1 ")) == (400, 1)
    assert_refused(answer, 400)
    assert upstream.received == []


H2C = (b"Connection: Upgrade, HTTP2-Settings", b"Upgrade: h2c", b"HTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAA")
"""What Java's HttpClient says in its first request to a server."""


@pytest.mark.parametrize("chunked", [False, True])
def test_an_offer_of_http2(served: tuple[Server, Upstream], chunked: bool) -> None:
    """It is answered as HTTP/1.1, with the body, by length and chunked (RFC 9110, section 7.8)."""
    server, upstream = served
    request = raw_chat(HOST, *H2C, TE if chunked else LENGTH, body=CHUNKED if chunked else TURN)
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(request)
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        assert (answer.status, answer.version) == (200, 11)
        assert json.loads(answer.read())["success"] is True
    assert upstream.received.pop().json["input"][-1]["content"] == "hi"


@pytest.mark.parametrize("after", [b"", b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"])
def test_http2_from_the_start(served: tuple[Server, Upstream], after: bytes) -> None:
    """Its first bytes are no request of HTTP/1.1: 400 and closed, from a trusted address as well."""
    status, answer = send_raw(served[0], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + after)
    assert_refused(answer, status)
    assert status == 400


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GET /%s HTTP/1.1\r\nHost: localhost\r\n\r\n" % (b"a" * 5000), 414),
        (b"GET /livez HTTP/1.1\r\nHost: localhost\r\nX-Request-ID: %s\r\n\r\n" % (MARK.encode() * 70_000), 431),
        (b"GET /livez HTTP/1.1\r\nHost: localhost\r\n%s\r\n" % b"".join(b"X-%d: a\r\n" % n for n in range(200)), 431),
        (raw_chat(HOST, b"X-OpenAI-Api-Key: " + MARK.encode() * 7000, LENGTH), 431),
        (raw_chat(HOST, b"Expect: " + MARK.encode(), LENGTH), 417),
    ],
    ids=["line", "1 MB request id", "many headers", "100 KB key", "expectation"],
)
def test_oversized_heads(served: tuple[Server, Upstream], request_bytes: bytes, status: int) -> None:
    """A head that is too large is refused before it is read to its end, and the answer still arrives."""
    server, upstream = served
    given, answer = send_raw(server, request_bytes)
    assert given == status
    assert_refused(answer, status)
    assert upstream.received == []


@pytest.mark.parametrize("ascii_only", [True, False], ids=["escaped", "as it is"])
def test_a_body_of_dotnet(served: tuple[Server, Upstream], ascii_only: bool) -> None:
    """`JsonContent` sends chunks of 8 kB and every member, null where nothing was set."""
    server, upstream = served
    unset = ("session_id", "system_message", "conversation_history", "memory_context", "instructions", "openai_api_key")
    asked = dict.fromkeys(unset) | {"user_message": "안녕하세요 " * 4000, "model": "gpt-4.1-mini", "max_tokens": 1000}
    body = json.dumps(asked | {"free_mode": True}, ensure_ascii=ascii_only).encode()
    framed = b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in cut(body, 8192)) + b"0\r\n\r\n"
    charset = b"Content-Type: application/json; charset=utf-8"
    head = b"\r\n".join([b"POST /api/v1/chat HTTP/1.1", HOST, charset, TE, b"Connection: close"])
    given, answer = send_raw(server, head + b"\r\n\r\n" + framed)
    assert given == 200
    assert "안녕하세요".encode() in answer
    assert len(upstream.received) == 1
    upstream.received.clear()


def cut(body: bytes, size: int) -> list[bytes]:
    return [body[start : start + size] for start in range(0, len(body), size)]


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"[" * 100_000, 400),
        (b'{"a":' * 100_000, 400),
        (b" " * 33_554_433, 413),
        (TURN + b" " * (33_554_433 - len(TURN)), 413),
        (TURN + b" " * (33_554_432 - len(TURN)), 200),
    ],
    ids=["lists", "objects", "too long", "JSON within the limit, spaces beyond", "at the limit"],
)
@pytest.mark.parametrize("chunked", [False, True])
def test_bodies_through_gunicorn(served: tuple[Server, Upstream], body: bytes, status: int, chunked: bool) -> None:
    """Nesting and size are bounded under a gevent worker as in the test client, by length and chunked."""
    server, upstream = served
    framed = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body) if chunked else body
    length = TE if chunked else b"Content-Length: %d" % len(body)
    given, answer = send_raw(server, raw_chat(HOST, length, b"Connection: close", body=framed))
    assert given == status
    assert b"Traceback" not in answer
    assert len(upstream.received) == (status == 200)
    upstream.received.clear()
