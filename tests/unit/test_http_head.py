"""Our reader of a request's head against gunicorn's: what ours takes, both understand alike, to the byte."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from typing import Any

import gunicorn.config
import gunicorn.http
import gunicorn.http.wsgi
import pytest

from app.process.http_head import UNUSUAL, Limits, read_head
from app.process.workers import SCHEME_HEADERS, GeventWorker
from tests.gevent_workers import make_worker
from tests.raw_requests import MUTATED_HEADS, TABLE, Raw, get, mutated
from tests.server import ROOT

PROXY, STRANGER = ("127.0.0.1", 4711), ("203.0.113.7", 4711)
"""gunicorn believes what a proxy on this machine says of the scheme, and nobody else."""
OWN = ("wsgi.input", "wsgi.errors", "wsgi.early_hints")
"""What is an object of its own in each environ; early hints are gunicorn's alone, and nothing here sends them."""

Understood = tuple[dict[str, Any], bytes, bytes, bool]


@pytest.fixture(scope="module")
def worker() -> Iterator[GeventWorker]:
    with make_worker() as made:
        yield made


class Readers:
    """Both readers of one peer's connection."""

    def __init__(self, worker: GeventWorker, peer: tuple[str, int]) -> None:
        self._worker, self._address, self._peer = worker, worker.sockets[0].getsockname(), peer
        self._client = object()
        base = worker._connection(worker.sockets[0], self._client, peer).base
        assert base is not None
        self._base = base

    def ours(self, data: bytes) -> Understood | None:
        """Environ, body, what comes behind it, and whether the connection is closed; None if it is not for us."""
        request = self._worker._read(self._base, data)
        if request is None:
            return None
        return shared(request.environ), data[request.body : request.end], data[request.end :], request.should_close()

    def gunicorns(self, data: bytes) -> Understood:
        """The same from gunicorn. Raises what gunicorn raises."""
        parser = gunicorn.http.get_parser(self._worker.cfg, iter([data]), self._peer)
        req = next(parser)
        environ = gunicorn.http.wsgi.create(req, self._client, self._peer, self._address, self._worker.cfg)[1]
        body, rest = req.body.read(), parser.unreader.take_buffered()
        return shared(environ | {"wsgi.multithread": True}), body, rest, req.should_close()


def shared(environ: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in environ.items() if name not in OWN}


@pytest.fixture(params=[PROXY, STRANGER], ids=["proxy", "stranger"], scope="module")
def readers(request: pytest.FixtureRequest, worker: GeventWorker) -> Readers:
    return Readers(worker, request.param)


@pytest.mark.parametrize("raw", TABLE, ids=[raw.name for raw in TABLE])
def test_both_read_the_same(readers: Readers, raw: Raw) -> None:
    """What is usual is read by both in the same way; nothing else is taken."""
    ours = readers.ours(raw.data)
    assert (ours is not None) is raw.usual
    if ours is not None:
        assert ours == readers.gunicorns(raw.data)


def test_mutated_heads(readers: Readers) -> None:
    """Whatever is done to a request: if ours takes it, gunicorn does not refuse it, and understands the same.

    MUTATED_HEADS is how many are tried; 100,000 take about a minute.
    """
    rng, taken = random.Random(13), 0
    for _ in range(MUTATED_HEADS):
        data = mutated(rng)
        ours = readers.ours(data)
        if ours is None:
            continue
        taken += 1
        try:
            theirs = readers.gunicorns(data)
        except Exception as exc:
            raise AssertionError(f"gunicorn refuses {data!r}: {exc!r}") from exc
        assert ours == theirs, data
    # Else nothing would have been compared.
    assert taken > MUTATED_HEADS / 5


def test_what_our_nginx_sends(readers: Readers) -> None:
    """The headers that deploy/nginx.conf sets are usual, one without a value is not sent."""
    found = re.findall(r"proxy_set_header ([\w-]+) \S*\w", (ROOT / "deploy" / "nginx.conf").read_text())
    assert "X-Forwarded-Proto" in found
    assert readers.ours(get(*[f"{name}: https".encode() for name in found])) is not None


@pytest.mark.parametrize("limits", [Limits(0, 100, 8190), Limits(4094, 100, 0), Limits(10, 100, 8190)])
def test_limits_that_are_not_known(limits: Limits) -> None:
    """Without a limit, or below it, nothing is usual."""
    data = b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n"
    assert read_head(data, {}, Limits(4094, 100, 8190)) is not None
    assert read_head(data, {}, limits) is None


def test_headers_of_the_scheme() -> None:
    """gunicorn's own list: one of them is read here, the others are not usual."""
    assert set(gunicorn.config.Config().secure_scheme_headers) == SCHEME_HEADERS
    assert {"X-FORWARDED-PROTO"} == SCHEME_HEADERS - UNUSUAL


@pytest.mark.parametrize(
    "settings",
    [
        {"certfile": "cert.pem"},
        {"proxy_protocol": "v1"},
        {"protocol": "uwsgi"},
        {"keepalive": 0},
        {"secure_scheme_headers": {"X-SCHEME": "https"}},
    ],
    ids=str,
)
def test_settings_that_leave_all_to_gunicorn(settings: dict[str, object]) -> None:
    """Where a request cannot be understood by its bytes and its peer alone."""
    with make_worker(**settings) as worker:
        assert worker._base_environ(worker.sockets[0]) is None


def test_places_that_leave_all_to_gunicorn(worker: GeventWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    """Behind a Unix socket the Host decides what the server is called; SCRIPT_NAME cuts each path."""

    class FakeUnixListener:
        def getsockname(self) -> str:
            return "/run/llm-server.sock"

    assert worker._base_environ(worker.sockets[0]) is not None
    assert worker._base_environ(FakeUnixListener()) is None
    for path in ("/", "/llm"):
        monkeypatch.setenv("SCRIPT_NAME", path)
        assert worker._base_environ(worker.sockets[0]) is None
