"""How bytes get to upstream: TLS, connections that are shared and kept apart, and what never travels."""

from __future__ import annotations

import gzip
import ssl
import time
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import trustme
from flask import Flask
from werkzeug.test import TestResponse

from app.upstreams.slots import Slots
from app.upstreams.transport import COPIED_BYTES, MAX_RESPONSE_BYTES, Transport
from app.web.services import service
from tests.conftest import CALLER_KEY
from tests.upstream import Received, Upstream, delayed, echo, pieces, reply, response_document, silence, text

CHAT = "/api/v1/chat"


def chat(app: Flask, message: str = "hi", **fields: Any) -> TestResponse:
    """One chat turn that the server's key pays for."""
    return app.test_client().post(CHAT, json={"user_message": message, "free_mode": True} | fields)


def outcome(answer: TestResponse) -> str:
    """The answer's text, or the error code."""
    body = answer.get_json()
    return str(body.get("response_text") or body["code"])


def test_a_large_body_is_not_copied_to_be_sent() -> None:
    """It is held by who asks already; a small one goes out with its head."""
    transport = Transport("http://a.test/v1", 1)
    large, small = bytes(COPIED_BYTES + 1), bytes(COPIED_BYTES)
    assert transport._request("/x", {}, large, "POST")[1] is large
    (whole,) = transport._request("/x", {}, small, "POST")
    assert whole.endswith(b"\r\n\r\n" + small)


def tls_upstream(authority: trustme.CA, host: str = "localhost") -> Upstream:
    """An HTTPS upstream whose certificate names `host`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(host).configure_cert(context)
    return Upstream(context)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """A certificate authority of our own."""
    return trustme.CA()


@pytest.fixture
def _trusted(authority: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The authority is trusted by way of the operator's variable."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))


@pytest.fixture
def secure(authority: trustme.CA) -> Iterator[Upstream]:
    with tls_upstream(authority) as server:
        yield server


@pytest.mark.usefixtures("_trusted")
def test_tls_upstream(make_app: Callable[..., Flask], secure: Upstream) -> None:
    """An HTTPS upstream answers, and its connection is used again: a handshake per request would be slow."""
    app = make_app(openai_base_url=secure.base_url)
    assert [outcome(chat(app, message)) for message in "abcde"] == list("abcde")
    assert secure.connections == 1


@pytest.mark.usefixtures("_trusted")
def test_deadline_over_tls(make_app: Callable[..., Flask], secure: Upstream) -> None:
    """The deadline cuts a silent and a dripping TLS connection like any other, and the next request has a new one."""
    app = make_app(openai_base_url=secure.base_url, request_timeout=0.3)
    secure.script(silence(), pieces([b"HTTP/1.1 200 X\r\n", *[b"x"] * 100], pause=0.1))
    for _ in range(2):
        began = time.monotonic()
        assert outcome(chat(app)) == "upstream_timeout"
        assert time.monotonic() - began < 1.3
    assert outcome(chat(app)) == "hi"
    assert service(Slots, app).in_use == 0


def test_unknown_authority(make_app: Callable[..., Flask], secure: Upstream) -> None:
    """A certificate that nobody we trust has signed is a connection error, and no byte of the request is sent."""
    assert outcome(chat(make_app(openai_base_url=secure.base_url))) == "upstream_connection_error"
    assert secure.received == []


@pytest.mark.usefixtures("_trusted")
def test_certificate_of_another_host(make_app: Callable[..., Flask], authority: trustme.CA) -> None:
    """So is a certificate for another name."""
    with tls_upstream(authority, "other.example") as impostor:
        assert outcome(chat(make_app(openai_base_url=impostor.base_url))) == "upstream_connection_error"
        assert impostor.received == []


def test_a_certificate_is_refused_once_and_the_log_says_which_way(
    make_app: Callable[..., Flask], secure: Upstream, caplog: pytest.LogCaptureFixture
) -> None:
    """It will be no better in a second: nobody tries again, neither we nor the caller."""
    answer = chat(make_app(openai_base_url=secure.base_url))
    assert (answer.get_json()["retryable"], answer.headers["X-Should-Retry"]) == (False, "false")
    assert secure.connections <= 1
    assert [record.getMessage() for record in caplog.records if record.levelname == "ERROR"] == [
        f"cannot connect to upstream {secure.base_url}: certificate unknown authority"
    ]


def test_tls_to_a_server_that_speaks_none(make_app: Callable[..., Flask], upstream: Upstream) -> None:
    """So is an upstream that answers in clear text where TLS is expected."""
    app = make_app(openai_base_url=upstream.base_url.replace("http:", "https:"), request_timeout=0.3)
    assert outcome(chat(app)) in {"upstream_connection_error", "upstream_timeout"}
    assert upstream.received == []


def test_many_at_once_are_kept_apart(make_app: Callable[..., Flask], upstream: Upstream) -> None:
    """Each of many callers gets its own answer, in either order of answering, over shared connections."""
    app = make_app()

    async def later_first(received: Received, writer: Any) -> None:
        number = int(received.json["input"][-1]["content"])
        await delayed(0.02 * (5 - number % 5), echo)(received, writer)

    upstream.default = later_first
    with ThreadPoolExecutor(32) as threads:
        answers = list(threads.map(lambda number: outcome(chat(app, str(number))), range(200)))
    assert answers == [str(number) for number in range(200)]
    assert upstream.connections <= 32


def test_what_travels(make_app: Callable[..., Flask], upstream: Upstream) -> None:
    """Upstream is asked for plain JSON and told nothing about how we read it."""
    chat(make_app(), openai_api_key=CALLER_KEY)
    (received,) = upstream.received
    headers = received.headers
    assert (headers["accept-encoding"], headers["content-type"]) == ("identity", "application/json")
    assert headers["content-length"] == str(len(received.body))
    assert not {"x-stainless-raw-response", "cookie", "transfer-encoding", "expect"} & headers.keys()
    assert headers["host"] == f"127.0.0.1:{upstream.port}"


def test_the_callers_own_headers_stay_here(make_app: Callable[..., Flask], upstream: Upstream) -> None:
    """What a caller sends us in headers is not passed on."""
    headers = {"Authorization": "Bearer mine", "Cookie": "mine=1", "X-Mine": "1", "X-Request-ID": "mine"}
    make_app().test_client().post(CHAT, json={"user_message": "hi", "free_mode": True}, headers=headers)
    assert "mine" not in str(upstream.received[0].headers)


def test_cookies_of_one_answer_do_not_reach_the_next_caller(make_app: Callable[..., Flask], upstream: Upstream) -> None:
    """Upstream's cookies belong to nobody here: they are neither sent back nor passed on."""
    app = make_app()
    upstream.script(reply(200, response_document("hi"), {"Set-Cookie": "session=callers; Path=/"}))
    assert "Set-Cookie" not in chat(app, openai_api_key=CALLER_KEY).headers
    chat(app)
    assert "cookie" not in upstream.received[1].headers


@pytest.mark.parametrize("name", ["HTTP_PROXY", "http_proxy", "ALL_PROXY"])
def test_proxies_of_the_environment_are_not_used(
    make_app: Callable[..., Flask], upstream: Upstream, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A proxy variable of the machine that is not for `https` does not divert prompts and keys."""
    with Upstream() as proxy:
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert outcome(chat(make_app())) == "hi"
        assert proxy.connections == 0


@pytest.mark.parametrize(
    ("prefix", "path"), [("/v1", "/v1/responses"), ("/a/b/v1/", "/a/b/v1/responses"), ("", "/responses")]
)
def test_base_url(make_app: Callable[..., Flask], upstream: Upstream, prefix: str, path: str) -> None:
    """The base URL's path stands in front of ours."""
    chat(make_app(openai_base_url=f"http://127.0.0.1:{upstream.port}{prefix}"))
    assert upstream.received[0].path == path


BODY = b'{"output":[{"type":"message","content":[{"type":"output_text","text":"\xea\xb0\x80"}]}]}'
CHUNKED = b"HTTP/1.1 200 X\r\nTransfer-Encoding: chunked\r\n\r\n"
LAST = b"0\r\n\r\n"
RIGHT = b"HTTP/1.1 200 X\r\nContent-Length: %d\r\n" % len(BODY)
BOM = b"\xef\xbb\xbf"
GZIPPED = gzip.compress(BODY)


@pytest.mark.parametrize(
    "parts",
    [
        [CHUNKED, *[b"1\r\n%c\r\n" % byte for byte in BODY], b"0\r\n\r\n"],
        [bytes([byte]) for byte in b"HTTP/1.1 200 X\r\nContent-Length: %d\r\n\r\n" % len(BODY) + BODY],
        [b"HTTP/1.1 200 X\r\n\r\n" + BODY],
        [b"HTTP/1.0 200\r\n\r\n" + BODY],
        [b"HTTP/1.1 200 X\r\nContent-Encoding: gzip\r\n\r\n" + zlib.compress(BODY, wbits=31)],
        [b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 X\r\n\r\n" + BODY],
        [b"HTTP/1.1 103 X\r\nContent-Encoding: br\r\n\r\nHTTP/1.1 200 X\r\n\r\n" + BODY],
        [b"HTTP/1.1 200 X\r\n\r\n", b" " * (MAX_RESPONSE_BYTES - len(BODY)), BODY],
    ],
    ids=[
        *("one-byte chunks", "one-byte writes", "no length", "HTTP/1.0", "gzip"),
        *("100 Continue", "early hints", "as large as we read"),
    ],
)
def test_a_good_answer_in_any_wrapping(make_app: Callable[..., Flask], upstream: Upstream, parts: list[bytes]) -> None:
    """However the bytes of an answer come, its text is exact."""
    upstream.script(pieces(parts))
    assert outcome(chat(make_app())) == "가"


CODED = {
    "gzip in any case": ("GZip", GZIPPED),
    "x-gzip": ("x-gzip", GZIPPED),
    "gzip and identity": (" gzip ,identity", GZIPPED),
    "identity": ("Identity", BODY),
    "nothing": ("", BODY),
    "two members": ("gzip", gzip.compress(BODY[:20]) + gzip.compress(BODY[20:])),
    "an empty member and padding": ("gzip", gzip.compress(b"") + GZIPPED + bytes(512)),
    "gzip with a BOM": ("gzip", gzip.compress(BOM + BODY)),
    "a BOM": ("identity", BOM + BODY),
    "deflate": ("Deflate", zlib.compress(BODY)),
    "deflate without zlib": ("deflate", zlib.compress(BODY, wbits=-15)),
}


@pytest.mark.parametrize(("coding", "body"), CODED.values(), ids=CODED)
@pytest.mark.parametrize("size", [1, 65536], ids=["byte by byte", "whole"])
def test_content_codings(
    make_app: Callable[..., Flask], upstream: Upstream, coding: str, body: bytes, size: int
) -> None:
    """A coding in any case, several gzip members, deflate with and without zlib's head, and a byte order mark."""
    head = f"HTTP/1.1 200 X\r\nContent-Length: {len(body)}\r\nContent-Encoding: {coding}\r\n\r\n".encode()
    upstream.script(pieces([head, *(body[at : at + size] for at in range(0, len(body), size))], close=False))
    app = make_app()
    assert [outcome(chat(app)), outcome(chat(app, "next"))] == ["가", "next"]
    assert upstream.connections == 1


@pytest.mark.parametrize("coding", ["gzip", "deflate", "GZIP"])
def test_an_error_without_a_body_that_says_it_is_coded(
    make_app: Callable[..., Flask], upstream: Upstream, coding: str
) -> None:
    """No byte is no broken coding: the status counts. A byte order mark hides no error document."""
    app = make_app()
    upstream.script(reply(400, b"", {"Content-Encoding": coding}))
    assert outcome(chat(app)) == "upstream_rejected_request"
    upstream.script(reply(404, BOM + b'{"error": {"code": "model_not_found"}}'))
    assert outcome(chat(app)) == "model_not_found"


ODD = {
    "length and chunked": RIGHT + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(BODY), BODY) + LAST,
    "two lengths": RIGHT + b"Content-Length: 3\r\n\r\n" + BODY,
    "equal lengths": RIGHT + b"Content-Length: %d\r\n\r\n" % len(BODY) + BODY,
    "a list of lengths": b"HTTP/1.1 200 X\r\nContent-Length: 3, 3\r\n\r\n" + BODY,
    "a length with a sign": b"HTTP/1.1 200 X\r\nContent-Length: +%d\r\n\r\n" % len(BODY) + BODY,
    "an endless length": b"HTTP/1.1 200 X\r\nContent-Length: 99999999999999999999\r\n\r\n" + BODY,
    "a transfer in gzip": b"HTTP/1.1 200 X\r\nTransfer-Encoding: gzip\r\n\r\n" + GZIPPED,
    "gzip in chunks": CHUNKED.replace(b"chunked", b"gzip, chunked") + b"%x\r\n%s\r\n" % (len(GZIPPED), GZIPPED) + LAST,
    "identity": RIGHT + b"Transfer-Encoding: identity\r\n\r\n" + BODY,
    "a space behind the size": CHUNKED + b"%x ;a=b\r\n%s\r\n" % (len(BODY), BODY) + LAST,
    "a size that is too large": CHUNKED + b"f" * 20 + b"\r\n" + BODY,
    "a chunk without its end": CHUNKED + b"%x\r\n%s" % (len(BODY), BODY) + LAST,
    "a trailer": CHUNKED + b"%x\r\n%s\r\n0\r\nContent-Encoding: br\r\n\r\n" % (len(BODY), BODY),
    "endless trailers": CHUNKED + b"%x\r\n%s\r\n0\r\nX: " % (len(BODY), BODY) + b"a" * 500_000,
    "a folded header": RIGHT + b"X: a\r\n b\r\n\r\n" + BODY,
    "bare line feeds": RIGHT.replace(b"\r", b"") + b"\n" + BODY,
    "a space before the colon": RIGHT.replace(b":", b" :") + b"\r\n" + BODY,
    "a NUL": RIGHT + b"X: \0\r\n\r\n" + BODY,
    "switching protocols": b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n" + BODY,
    "switching without a word": b"HTTP/1.1 101 X\r\n\r\n",
    "an upgrade that is none": RIGHT + b"Upgrade: h2c\r\nConnection: Upgrade\r\n\r\n" + BODY,
    "early hints": b"HTTP/1.1 103 X\r\nContent-Length: 9\r\n\r\n" + RIGHT + b"\r\n" + BODY,
    "status 0": RIGHT.replace(b"200", b"000") + b"\r\n" + BODY,
    "status 999": RIGHT.replace(b"200", b"999") + b"\r\n" + BODY,
    "status 2000": RIGHT.replace(b"200", b"2000") + b"\r\n" + BODY,
    "a body where there is none": RIGHT.replace(b"200", b"204") + b"\r\n" + BODY,
    "another version": RIGHT.replace(b"HTTP/1.1", b"HTTP/2.0") + b"\r\n" + BODY,
    "no HTTP": b"\x15\x03\x01\x00\x02\x02F",
    "a second answer": (RIGHT + b"\r\n" + BODY) * 2,
    "garbage behind it": RIGHT + b"\r\n" + BODY + b"garbage",
    "an unknown coding": RIGHT + b"Content-Encoding: br\r\n\r\n" + BODY,
    "two codings": RIGHT + b"Content-Encoding: gzip, gzip\r\n\r\n" + BODY,
    "no gzip": RIGHT + b"Content-Encoding: gzip\r\n\r\n" + BODY,
    "a cut member": b"HTTP/1.1 200 X\r\nContent-Encoding: gzip\r\n\r\n" + GZIPPED + GZIPPED[:15],
    "garbage behind gzip": b"HTTP/1.1 200 X\r\nContent-Encoding: gzip\r\n\r\n" + GZIPPED + b"garbage",
}


@pytest.mark.parametrize(
    ("path", "close"),
    [(CHAT, True), (CHAT, False), ("/v1/embeddings", True)],
    ids=["closed", "kept", "passed through"],
)
@pytest.mark.parametrize("raw", ODD.values(), ids=ODD)
def test_odd_framing(make_app: Callable[..., Flask], upstream: Upstream, raw: bytes, close: bool, path: str) -> None:
    """Right, or 502, or 504 for what never ends; never 500, and never a mixed-up next answer."""
    app = make_app(request_timeout=0.5)
    upstream.script(*[pieces([raw], close=close)] * 3)
    fields = {"user_message": "hi", "free_mode": True} if path == CHAT else {"input": "hi"}
    answer = app.test_client().post(path, json=fields, headers={"X-Free-Mode": "true"})
    assert answer.status_code in {200, 502} | (set() if close else {504})
    assert answer.status_code != 200 or "가" in answer.get_data(as_text=True)
    upstream.script_anew()
    assert outcome(chat(app, "next")) == "next"
    assert service(Slots, app).in_use == 0


def test_one_byte_more_than_we_read(make_app: Callable[..., Flask], upstream: Upstream) -> None:
    """The limit is exact."""
    upstream.script(pieces([b"HTTP/1.1 200 X\r\n\r\n", b" " * (MAX_RESPONSE_BYTES + 1 - len(BODY)), BODY]))
    assert outcome(chat(make_app())) == "upstream_bad_response"


def test_a_cut_connection_is_not_used_again(make_app: Callable[..., Flask], upstream: Upstream) -> None:
    """A late answer to a call that is over reaches nobody: the connection it would come on is closed."""
    app = make_app(request_timeout=0.2)
    upstream.script(delayed(0.5, text("late")))
    assert outcome(chat(app, "first")) == "upstream_timeout"
    time.sleep(0.5)
    assert [outcome(chat(app, message)) for message in ("second", "third")] == ["second", "third"]
    assert upstream.connections == 2
    assert upstream.received[0].left_early is not None
