"""deploy/nginx.conf in front of the real server, run by a real nginx where the machine has one."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import ssl
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import trustme

from app.config import Config
from tests.conftest import SERVER_KEY
from tests.nginx import start_nginx
from tests.programs import path_of
from tests.server import ROOT, Answer, Server, free_port
from tests.streams import response_events, stream
from tests.upstream import Upstream

NGINX = path_of("nginx")
SITE = (ROOT / "deploy" / "nginx.conf").read_text()
NAME = "llm.example.com"
CHAT = {"user_message": "hi", "free_mode": True}
pytestmark = pytest.mark.skipif(NGINX is None, reason="not on this machine: nginx; see make install-browser")


class Front:
    """nginx with our site, in front of the servers at `ports`."""

    def __init__(self, directory: Path, *ports: int) -> None:
        directory.mkdir()
        self.port = free_port()
        authority = trustme.CA()
        issued = authority.issue_cert(NAME)
        issued.private_key_pem.write_to_path(str(directory / "key.pem"))
        for blob in issued.cert_chain_pems:
            blob.write_to_path(str(directory / "chain.pem"), append=True)
        self._tls = ssl.create_default_context(cadata=authority.cert_pem.bytes().decode())
        self._tls.check_hostname = False
        self.process = start_nginx(directory, self._site(directory, ports))
        self._wait()

    def _site(self, directory: Path, ports: Sequence[int]) -> str:
        """The shipped file with other addresses and another certificate, and nothing else."""
        changes = {
            r"server 127\.0\.0\.1:5601;": "\n".join(f"server 127.0.0.1:{port};" for port in ports),
            r"listen 443 ssl;": f"listen 127.0.0.1:{self.port} ssl;",
            r"    listen \[::\]:443 ssl;\n": "",
            r"/etc/ssl/\S+/fullchain\.pem": f"{directory}/chain.pem",
            r"/etc/ssl/\S+/privkey\.pem": f"{directory}/key.pem",
        }
        site = SITE
        for old, new in changes.items():
            site, number = re.subn(old, new, site)
            assert number == 1
        return site

    def _wait(self) -> None:
        for _ in range(200):
            try:
                return self.connect().close()
            except OSError:
                time.sleep(0.05)
        raise AssertionError("nginx does not listen")

    def connect(self) -> http.client.HTTPSConnection:
        """A connection through TLS."""
        connection = http.client.HTTPSConnection("127.0.0.1", self.port, context=self._tls, timeout=20)
        connection.connect()
        return connection

    @contextlib.contextmanager
    def answering(self, method: str, path: str, body: object = None) -> Iterator[http.client.HTTPResponse]:
        """One request to the site's own name, as a browser would name it."""
        headers = {"Host": f"{NAME}:{self.port}", "Content-Type": "application/json", "X-Request-Start": "t=1"}
        with contextlib.closing(self.connect()) as connection:
            connection.request(method, path, None if body is None else json.dumps(body).encode(), headers)
            with connection.getresponse() as answer:
                yield answer

    def ask(self, method: str, path: str, body: object = None) -> Answer:
        """One request and its whole answer."""
        with self.answering(method, path, body) as answer:
            return Answer(answer.status, answer.headers, answer.read())


InFront = Callable[..., Front]


@pytest.fixture
def in_front(tmp_path: Path) -> Iterator[InFront]:
    made: list[Front] = []

    def begin(*ports: int) -> Front:
        made.append(Front(tmp_path / f"nginx-{len(made)}", *ports))
        return made[-1]

    yield begin
    for front in made:
        front.process.terminate()
        front.process.wait(10)


def number_of(directive: str) -> int:
    """The one number of a directive of our site, in its own unit."""
    (found,) = re.findall(rf"^\s+{directive} (\d+)[sm]?;", SITE, re.MULTILINE)
    return int(found)


def test_its_times_and_sizes_fit_the_defaults() -> None:
    """nginx lets go of an idle connection before the server does, and of silence after; it refuses no smaller body."""
    config = Config()
    idle = number_of("keepalive_timeout")
    assert idle < config.http_keepalive_seconds
    assert number_of("proxy_read_timeout") > max(config.request_timeout, config.stream_idle_seconds)
    assert number_of("client_max_body_size") * 2**20 > config.max_request_bytes
    assert number_of("client_body_buffer_size") * 2**20 > config.max_request_bytes


def test_what_it_passes_on(in_front: InFront, upstream: Upstream) -> None:
    """The name with its port, the caller's address, and a time of arrival that no caller chooses."""
    front = in_front(int(upstream.base_url.split(":")[2].split("/")[0]))
    front.ask("GET", "/v1/models")
    (received,) = upstream.received
    assert received.headers["host"] == f"{NAME}:{front.port}"
    assert received.headers["x-forwarded-for"] == "127.0.0.1"
    assert received.headers["x-forwarded-proto"] == "https"
    assert abs(float(received.headers["x-request-start"].removeprefix("t=")) - time.time()) < 5


def test_the_server_behind_it(start_server: Callable[..., Server], in_front: InFront, upstream: Upstream) -> None:
    """Chat as without it; a stream piece by piece; what is private stays so; without the server a problem."""
    server = start_server(AUTH_MODE="open", ALLOWED_HOSTS=NAME, OPENAI_API_KEY=SERVER_KEY)
    front = in_front(server.port)
    answer = front.ask("POST", "/api/v1/chat", CHAT)
    assert (answer.status, answer.json["api_key_source"]) == (200, "default")
    assert front.ask("GET", "/api/v1/system/info").status == front.ask("GET", "/metrics").status == 403
    upstream.default = stream(response_events("one ", "two ", "three"), pause=0.3)
    began, came = time.monotonic(), []
    with front.answering("POST", "/api/v1/chat", CHAT | {"stream": True}) as stream_of_events:
        for line in stream_of_events:
            if line.startswith(b"event: "):
                came.append(time.monotonic() - began)
    assert came[-1] - came[0] > 0.8
    server.stop()
    answer = front.ask("POST", "/api/v1/chat", CHAT)
    assert (answer.status, answer.json["code"], answer.headers["Retry-After"]) == (503, "not_ready", "1")


def test_a_server_that_restarts_beside_another_loses_nothing(
    start_server: Callable[..., Server], in_front: InFront, upstream: Upstream
) -> None:
    """A request that could not reach the one server is sent to the other; what reached one is not sent twice."""
    server = start_server(AUTH_MODE="open", ALLOWED_HOSTS=NAME, OPENAI_API_KEY=SERVER_KEY)
    front = in_front(server.port, free_port())
    assert [front.ask("POST", "/api/v1/chat", CHAT).status for _ in range(10)] == [200] * 10
    assert len(upstream.received) == 10
