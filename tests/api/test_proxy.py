"""Proxies: through which one upstream is called, what it learns, and what it may answer."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trustme
from flask import Flask

from app.calls.call import Call
from app.config import Config
from app.errors import ServiceException
from app.upstreams.connection_errors import CouldNotConnect
from app.upstreams.proxy import is_exempt, proxy_for
from app.upstreams.transport import Transport
from tests.api.test_transport import chat, outcome, tls_upstream
from tests.conftest import SERVER_KEY
from tests.upstream import Upstream

ESTABLISHED = b"HTTP/1.1 200 Connection established\r\n\r\n"


class FakeProxy:
    """Notes what it is asked and answers `answer`; after a 200 it passes bytes on, in both directions."""

    def __init__(self, answer: bytes = ESTABLISHED, *, pause: float = 0.0) -> None:
        self.heads: list[bytes] = []
        self.seen = bytearray()
        self._answer = answer
        self._pause = pause
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> FakeProxy:
        threading.Thread(target=self._run, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _run(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self._serve, args=(self._listener.accept()[0],), daemon=True).start()

    def _serve(self, caller: socket.socket) -> None:
        with caller, contextlib.suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                head += caller.recv(4096) or b"\r\n\r\n"
            self.heads.append(head)
            for byte in self._answer:
                caller.send(bytes([byte]))
                time.sleep(self._pause)
            if self._answer.startswith(ESTABLISHED[:12]):
                host, _, port = head.split()[1].decode().rpartition(":")
                with socket.create_connection((host, int(port))) as target:
                    threading.Thread(target=self._pump, args=(target, caller), daemon=True).start()
                    self._pump(caller, target, self.seen)

    @staticmethod
    def _pump(source: socket.socket, sink: socket.socket, seen: bytearray | None = None) -> None:
        with contextlib.suppress(OSError):
            while piece := source.recv(65536):
                if seen is not None:
                    seen += piece
                sink.sendall(piece)
            sink.shutdown(socket.SHUT_WR)


@pytest.fixture
def proxy() -> Iterator[FakeProxy]:
    with FakeProxy() as made:
        yield made


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def secure(authority: trustme.CA) -> Iterator[Upstream]:
    with tls_upstream(authority) as server:
        yield server


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return str(tmp_path / "ca.pem")


@pytest.mark.parametrize("setting", ["upstream_proxy", "https_proxy"])
def test_an_https_upstream(
    make_app: Callable[..., Flask], secure: Upstream, proxy: FakeProxy, ca_file: str, setting: str
) -> None:
    """The proxy learns host and port. TLS ends at upstream, so the proxy sees neither key nor prompt."""
    settings = {setting: f"http://{proxy.address}"}
    app = make_app(openai_base_url=secure.base_url, upstream_ca_file=ca_file, **settings)
    assert [outcome(chat(app, message)) for message in ("가", "second")] == ["가", "second"]
    (head,) = proxy.heads
    assert head.startswith(f"CONNECT localhost:{secure.port} HTTP/1.1\r\n".encode())
    assert b"authorization" not in head.lower()
    assert not [secret for secret in (SERVER_KEY.encode(), b"second") if secret in head + proxy.seen]


def test_an_http_upstream(make_app: Callable[..., Flask], upstream: Upstream, proxy: FakeProxy) -> None:
    """Our own setting is for every upstream, with a tunnel as well."""
    app = make_app(upstream_proxy=f"http://{proxy.address}")
    assert outcome(chat(app)) == "hi"
    assert proxy.heads[0].startswith(f"CONNECT 127.0.0.1:{upstream.port} HTTP/1.1\r\n".encode())


def test_credentials(make_app: Callable[..., Flask], upstream: Upstream, proxy: FakeProxy) -> None:
    """User and password are for the proxy alone."""
    app = make_app(upstream_proxy=f"http://me:p%40ss@{proxy.address}")
    assert outcome(chat(app)) == "hi"
    told = base64.b64encode(b"me:p@ss")
    assert b"Proxy-Authorization: Basic " + told in proxy.heads[0]
    assert "proxy-authorization" not in upstream.received[0].headers


def test_the_certificate_is_upstreams(make_app: Callable[..., Flask], secure: Upstream, proxy: FakeProxy) -> None:
    """A proxy changes nothing about whom we trust."""
    app = make_app(openai_base_url=secure.base_url, upstream_proxy=f"http://{proxy.address}")
    assert outcome(chat(app)) == "upstream_connection_error"
    assert secure.received == []


@pytest.mark.parametrize(
    ("answer", "reason", "may_retry"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "the proxy answered 407", False),
        (b"HTTP/1.0 403 Forbidden\r\nContent-Length: 2\r\n\r\nno", "the proxy answered 403", False),
        (b"HTTP/1.1 503 Busy\r\n\r\n", "the proxy answered 503", True),
        (b"SSH-2.0-x\r\n\r\n", "the proxy answered 0", False),
        (b"", "the proxy gave no answer", True),
        (b"HTTP/1.1 200 OK\r\nX: " + b"a" * 20_000, "the proxy gave no answer", True),
    ],
)
def test_a_proxy_that_refuses(upstream: Upstream, answer: bytes, reason: str, may_retry: bool) -> None:
    """Why is told; no byte of the request is sent."""
    with FakeProxy(answer) as proxy, pytest.raises(CouldNotConnect) as failure:
        Transport(upstream.base_url, 1, proxy=f"http://{proxy.address}").send("/x", {}, b"", Call(5))
    assert (failure.value.reason, failure.value.may_retry) == (reason, may_retry)
    assert upstream.connections == 0


def test_a_proxy_that_drips(upstream: Upstream) -> None:
    """The deadline holds here, too."""
    with FakeProxy(pause=0.1) as proxy:
        began = time.monotonic()
        with pytest.raises(ServiceException):
            Transport(upstream.base_url, 1, proxy=f"http://{proxy.address}").send("/x", {}, b"", Call(0.4))
        assert time.monotonic() - began < 1.4


A, B = "http://a.test:1", "http://b.test:2"


@pytest.mark.parametrize(
    ("settings", "base_url", "used"),
    [
        ({}, "https://up.test", ""),
        ({"https_proxy": A}, "https://up.test", A),
        ({"https_proxy": "a.test:1"}, "https://up.test", A),
        ({"https_proxy": A}, "http://up.test", ""),
        ({"https_proxy": A, "no_proxy": "up.test"}, "https://up.test", ""),
        ({"https_proxy": A, "upstream_proxy": B}, "https://up.test", B),
        ({"https_proxy": A, "upstream_proxy": "direct"}, "https://up.test", ""),
        ({"upstream_proxy": B, "no_proxy": "*"}, "http://up.test", B),
        ({"upstream_proxy": B, "local_model": "demo"}, "http://127.0.0.1:1", ""),
    ],
)
def test_which_proxy(settings: dict[str, str], base_url: str, used: str) -> None:
    """Ours goes before the machine's, which is for `https` only; a local model is never called through one."""
    assert proxy_for(Config(**settings), base_url) == used  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("no_proxy", "host", "exempt"),
    [
        ("", "a.test", False),
        ("*", "a.test", True),
        ("b.test, a.test", "a.test", True),
        ("b.test a.test", "a.test", True),
        ("test", "a.test", True),
        (".a.test", "a.test", True),
        ("*.a.test", "x.a.test", True),
        ("A.Test", "a.test.", True),
        ("a.test", "xa.test", False),
        ("a.test:443", "a.test", True),
        ("a.test:80", "a.test", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.0.0.0/8", "a.test", False),
        ("127.0.0.1:443", "127.0.0.1", True),
        ("::1", "::1", True),
        ("[::1]", "::1", True),
        ("[::1]:443", "::1", True),
        ("[::1]:80", "::1", False),
        ("fd00::/8", "fd00::1", True),
        (",,", "a.test", False),
    ],
)
def test_no_proxy(no_proxy: str, host: str, exempt: bool) -> None:
    """Read as curl and Go read it."""
    assert is_exempt(no_proxy, host, 443) is exempt


def test_the_password_of_a_proxy_is_not_shown(upstream: Upstream) -> None:
    """Neither by the settings nor in what a failure says."""
    proxy = "http://me:sk-hidden-1@127.0.0.1:1"
    assert "sk-hidden" not in repr(Config(upstream_proxy=proxy, https_proxy=proxy))
    with pytest.raises(CouldNotConnect) as failure:
        Transport(upstream.base_url, 1, proxy=proxy).send("/x", {}, b"", Call(5))
    assert "sk-hidden" not in f"{failure.value!r} {failure.value.__cause__!r}"


def test_a_ca_file(secure: Upstream, ca_file: str) -> None:
    """The CA file is trusted beside the system's authorities, and without it the certificate is refused."""
    transport = Transport(secure.base_url, 1, ca_file=ca_file)
    with transport.send("/embeddings", {}, b"{}", Call(5)) as response:
        assert (response.status, bool(response.read())) == (200, True)
    transport.close()
    with pytest.raises(CouldNotConnect, match="certificate unknown authority"):
        Transport(secure.base_url, 1).send("/embeddings", {}, b"{}", Call(5))
