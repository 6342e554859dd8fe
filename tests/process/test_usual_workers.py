"""The gevent worker serves usual requests itself and others as gunicorn does: nobody can tell which it was."""

from __future__ import annotations

import contextlib
import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import gevent
import gevent.socket
import pytest

from app.process.workers import KEPT_BYTES, GeventWorker
from tests.gevent_workers import GunicornsWay, make_worker
from tests.raw_requests import CHUNKED, HOST, MUTATED_HEADS, NGINX, SDK, TABLE, Raw, get, mutated, post

PEER = ("127.0.0.1", 4711)
STATES = re.compile(rb"Date: [^\r]+|X-Request-ID: \w+|\"request_id\": \"\w+\"")
"""What differs from answer to answer."""

Start = Callable[..., Callable[[bytes], object]]
App = Callable[[dict[str, Any], Start], Iterable[bytes]]


def echo(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
    """What the application was told: the texts of the environ, and the body."""
    told = {name: value for name, value in environ.items() if isinstance(value, str | bool | tuple)}
    document = json.dumps(told | {"body": environ["wsgi.input"].read().decode("latin-1")}, sort_keys=True).encode()
    start("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(document)))])
    return [document]


def plain(status: str, *headers: tuple[str, str], pieces: Sequence[bytes] = (b"hi",)) -> App:
    """Answers so, and does not look at the request."""

    def answer(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        start(status, list(headers))
        return pieces

    return answer


def broken(*pieces: bytes, error: BaseException) -> App:
    """Begins to answer, and fails."""

    def answer(environ: dict[str, Any], start: Start) -> Iterator[bytes]:
        start("200 OK", [])
        yield from pieces
        raise error

    return answer


def failing(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
    raise ValueError("secret")


def by_write(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
    write = start("200 OK", [("Content-Length", "4")])
    write(b"ab")
    write(b"")
    return [b"cd"]


def twice(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
    start("200 OK", [])
    start("200 OK", [])
    return []


def corrected(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
    start("200 OK", [("Content-Length", "2")])
    try:
        raise ValueError
    except ValueError as exc:
        start("500 Internal Server Error", [("Content-Length", "3")], (ValueError, exc, exc.__traceback__))
    return [b"bad"]


def silent(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
    return [b"never began"]


LENGTH = ("Content-Length", "2")
APPS: dict[str, App] = {
    "echo": echo,
    "by length": plain("200 OK", LENGTH),
    "in chunks": plain("200 OK", pieces=[b"a", b"bc", b"x" * 70_000]),
    "an empty piece first": plain("200 OK", pieces=[b"", b"a", b"", b"b"]),
    "no piece": plain("200 OK", pieces=[]),
    "no piece by length": plain("200 OK", ("Content-Length", "0"), pieces=[]),
    "a large one": plain("200 OK", ("Content-Length", "3000000"), pieces=[b"x" * 3_000_000]),
    "less than said": plain("200 OK", ("Content-Length", "5")),
    "more than said": plain("200 OK", ("Content-Length", "1"), pieces=[b"hi", b"there"]),
    "204": plain("204 No Content", LENGTH),
    "304": plain("304 Not Modified", LENGTH),
    "102": plain("102 Processing"),
    "no reason": plain("200", LENGTH),
    "many headers": plain("200 OK", LENGTH, *[(f"X-{n}", f" a{n}\t") for n in range(50)]),
    "the same header twice": plain("200 OK", LENGTH, ("Set-Cookie", "a"), ("Set-Cookie", "b")),
    "Latin-1": plain("200 OK", LENGTH, ("X-A", "caf\xe9")),
    "Korean": plain("200 OK", LENGTH, ("X-A", "\uc548")),
    "hop by hop": plain("200 OK", LENGTH, ("Connection", "close"), ("Keep-Alive", "9"), ("Server", "x"), ("Date", "y")),
    "an upgrade": plain("101 Switching Protocols", ("Connection", "Upgrade"), ("Upgrade", "websocket"), pieces=[]),
    "own chunks": plain("200 OK", ("Transfer-Encoding", "chunked")),
    "a line in a header": plain("200 OK", ("X-A", "b\r\nX-B: c")),
    "no name": plain("200 OK", ("", "b")),
    "a space in a name": plain("200 OK", ("X A", "b")),
    "no text": plain("200 OK", ("X-A", 1)),  # type: ignore[arg-type]
    "no text as a name": plain("200 OK", (b"X-A", "b")),  # type: ignore[arg-type]
    "a bad length": plain("200 OK", ("Content-Length", "x")),
    "a bad status": plain("20 OK\r\n"),
    "a piece of text": plain("200 OK", pieces=["hi"]),  # type: ignore[list-item]
    "fails": failing,
    "fails behind the head": broken(error=ValueError("secret")),
    "fails behind a piece": broken(b"a", error=ValueError("secret")),
    "a file fails": broken(b"a", error=OSError(28, "secret")),
    "the peer is gone": broken(b"a", error=BrokenPipeError(32, "secret")),
    "takes too long": broken(b"a", error=TimeoutError()),
    "leaves": broken(b"a", error=StopIteration()),
    "by write": by_write,
    "begins twice": twice,
    "corrected": corrected,
    "never begins": silent,
}


class Ways:
    """A worker of each kind: one that reads what is usual, and one that leaves all to gunicorn."""

    def __init__(self, usual: GeventWorker, gunicorns: GeventWorker) -> None:
        self._workers = (usual, gunicorns)

    def served(self, app: App, *pieces: bytes, stays: bool = False) -> list[tuple[bytes, list[tuple[str, str]]]]:
        """What a caller receives that sends these pieces, and what the worker logs, on each way."""
        found = []
        for worker in self._workers:
            worker.wsgi = app
            worker.log.lines.clear()
            answer = STATES.sub(b"", exchange(worker, pieces, stays=stays))
            found.append((answer, [line for line in worker.log.lines if line[0] != "debug"]))
        return found


def exchange(worker: GeventWorker, pieces: Sequence[bytes], *, stays: bool = False) -> bytes:
    """Send the pieces one after the other, and read until the worker closes; it is told the end unless one `stays`."""
    here, there = gevent.socket.socketpair()
    serving = gevent.spawn(worker.handle, worker.sockets[0], here, PEER)
    with gevent.Timeout(20), there:
        for piece in pieces:
            there.sendall(piece)
            for _ in range(3 if len(pieces) > 1 else 0):
                gevent.sleep(0)
        if not stays:
            there.shutdown(gevent.socket.SHUT_WR)
        answer = b""
        while piece := _received(there):
            answer += piece
        serving.get()
    return answer


def _received(there: Any) -> bytes:
    try:
        return bytes(there.recv(65_536))
    except ConnectionResetError:
        return b""


@pytest.fixture(scope="module")
def ways() -> Iterator[Ways]:
    with make_worker() as usual, make_worker(GunicornsWay) as gunicorns:
        yield Ways(usual, gunicorns)


@pytest.mark.parametrize("raw", TABLE, ids=[raw.name for raw in TABLE])
def test_both_answer_the_same(ways: Ways, raw: Raw) -> None:
    """Every request of the table, alone, between usual ones, and as the last one."""
    usual = post(*SDK)
    for pieces in ([raw.data], [usual + raw.data + usual], [raw.data, usual], [usual, raw.data]):
        ours, gunicorns = ways.served(echo, *pieces)
        assert ours == gunicorns
    assert b"HTTP/1.1 200 OK" in ours[0]


def test_mutated_requests(ways: Ways) -> None:
    """Whatever is done to a request: its answer and that of the one behind it are the same, a refusal as well."""
    rng, answers = random.Random(14), Counter[bytes]()
    for _ in range(MUTATED_HEADS // 10):
        data = mutated(rng) + get(HOST, b"Connection: close")
        ours, gunicorns = ways.served(echo, data)
        assert ours == gunicorns, data
        answers[ours[0][9:12]] += 1
    # Of each kind there were some.
    assert {b"200", b"400"} < answers.keys()


def test_the_callers_socket(ways: Ways) -> None:
    """The application finds it in the environ, the socket itself, whoever has read the request."""
    found = list[object]()

    def app(environ: dict[str, Any], start: Start) -> Iterable[bytes]:
        found.append(environ["gunicorn.socket"])
        return echo(environ, start)

    ways.served(app, post(*SDK) + post(HOST, CHUNKED, body=b"0\r\n\r\n", length=False) + get(HOST))
    assert [type(one) for one in found] == [gevent.socket.socket] * 6
    assert len(set(map(id, found))) == 2


@pytest.mark.parametrize("name", APPS)
def test_both_send_the_same(ways: Ways, name: str) -> None:
    """Whatever the application answers, or fails to."""
    for request in (post(*NGINX), post(HOST, b"Connection: close"), post(HOST) + get(HOST)):
        ours, gunicorns = ways.served(APPS[name], request)
        assert ours == gunicorns
        assert "secret" not in repr(ours)


@pytest.mark.parametrize("size", [1, 3, 40])
def test_requests_that_come_in_pieces(ways: Ways, size: int) -> None:
    """Nobody can tell where the network has cut them."""
    chunked = post(HOST, CHUNKED, body=b"2\r\n{}\r\n0\r\n\r\n", length=False)
    data = post(*NGINX) + get(HOST) + chunked + post(*SDK, body=b"x" * 300) + get(HOST, b"Connection: close")
    pieces = [data[at : at + size] for at in range(0, len(data), size)]
    ours, gunicorns = ways.served(echo, *pieces)
    assert ours == gunicorns
    assert ours[0].count(b"HTTP/1.1 200 OK") == 5


@pytest.mark.parametrize("at", range(0, len(post(*NGINX)), 7))
def test_a_request_in_two_pieces(ways: Ways, at: int) -> None:
    """Cut anywhere, its answer is the same, and so is that of the one behind it."""
    data = post(*NGINX)
    ours, gunicorns = ways.served(echo, data[:at], data[at:] + data)
    assert ours == gunicorns
    assert ours[0].count(b"HTTP/1.1 200 OK") == 2


@pytest.mark.parametrize("size", [KEPT_BYTES - 1, KEPT_BYTES, KEPT_BYTES + 1, 300_000])
@pytest.mark.parametrize("name", ["echo", "by length"])
def test_large_bodies(ways: Ways, name: str, size: int) -> None:
    """Read by the application or not: a connection is kept behind as much as may be left of a body."""
    ours, gunicorns = ways.served(APPS[name], post(HOST, body=b"x" * size) + get(HOST))
    assert ours == gunicorns
    kept = size <= KEPT_BYTES or name == "echo"
    assert ours[0].count(b"HTTP/1.1 200 OK") == (2 if kept else 1)


def test_a_worker_that_stops(ways: Ways) -> None:
    """It answers what comes on a kept connection, and then closes it."""
    for worker in ways._workers:
        worker.alive = False
    ours, gunicorns = ways.served(echo, post(HOST) + get(HOST), stays=True)
    for worker in ways._workers:
        worker.alive = True
    assert ours == gunicorns
    assert ours[0].count(b"HTTP/1.1 200 OK") == 1
    assert b"Connection: close" in ours[0]


class Hasty(GeventWorker):
    slow_seconds = 0.3


class HastyGunicornsWay(GunicornsWay):
    slow_seconds = 0.3


KEEPALIVE_SECONDS = 1.0
either = pytest.mark.parametrize("kind", [Hasty, HastyGunicornsWay])


@pytest.fixture
def hasty(kind: type[GeventWorker]) -> Iterator[GeventWorker]:
    """One that waits a second for a head, and less for a body and for a caller that does not read."""
    with make_worker(kind, keepalive=1) as worker:
        worker.wsgi = echo
        yield worker


@contextlib.contextmanager
def connected(worker: GeventWorker) -> Iterator[Any]:
    """The caller's end of a connection that the worker serves."""
    here, there = gevent.socket.socketpair()
    gevent.spawn(worker.handle, worker.sockets[0], here, PEER)
    with gevent.Timeout(10), there:
        yield there


def seconds_until_the_end(there: Any) -> tuple[float, bytes]:
    began, received = time.monotonic(), b""
    while piece := _received(there):
        received += piece
    return time.monotonic() - began, received


@either
@pytest.mark.parametrize("first", [b"", post(*SDK), post(HOST, CHUNKED, body=b"0\r\n\r\n", length=False)])
def test_a_head_has_one_deadline(hasty: GeventWorker, first: bytes) -> None:
    """It runs from the end of the last request, not from the first byte of this one, whoever reads it."""
    with connected(hasty) as there:
        there.sendall(first)
        assert first == b"" or there.recv(65_536).startswith(b"HTTP/1.1 200 ")
        gevent.sleep(0.6)
        there.sendall(b"GET /li")
        seconds, received = seconds_until_the_end(there)
    assert received == b""
    assert KEEPALIVE_SECONDS - 0.1 < 0.6 + seconds < KEEPALIVE_SECONDS + 0.4


@either
def test_a_kept_connection_waits_longer_than_a_body(hasty: GeventWorker) -> None:
    """The time for a slow body is not that of an idle connection."""
    with connected(hasty) as there:
        for request in (post(*SDK), post(HOST, CHUNKED, body=b"0\r\n\r\n", length=False)) * 2:
            there.sendall(request)
            assert there.recv(65_536).startswith(b"HTTP/1.1 200 ")
            gevent.sleep(hasty.slow_seconds * 2)
    assert "exception" not in {level for level, _ in hasty.log.lines}


@either
def test_a_caller_that_does_not_take_its_answer(hasty: GeventWorker) -> None:
    """It is cut off in time."""
    hasty.wsgi = plain("200 OK", ("Content-Length", "5000000"), pieces=[b"x" * 5_000_000])
    with connected(hasty) as there:
        there.sendall(post(*SDK))
        gevent.sleep(hasty.slow_seconds * 2)
    assert ("info", "closed a connection whose peer does not take its answer") in hasty.log.lines


@pytest.mark.parametrize("error", [SystemExit(), gevent.GreenletExit()])
@pytest.mark.parametrize("begun", [(), (b"a",)])
def test_a_request_that_is_stopped(error: BaseException, begun: tuple[bytes, ...]) -> None:
    """Its connection ends, so that nobody takes the next answer for its own, and the worker goes on."""
    with make_worker() as worker:
        worker.wsgi = broken(*begun, error=error)
        answer = exchange(worker, [post(*SDK) + get(HOST)])
        assert answer.count(b"HTTP/1.1 ") == len(begun)
        worker.wsgi = echo
        assert exchange(worker, [get(HOST)]).startswith(b"HTTP/1.1 200 OK")


@pytest.mark.parametrize("kind", [GeventWorker, GunicornsWay])
def test_a_number_of_requests(kind: type[GeventWorker]) -> None:
    """A worker that may serve so many closes the connection behind the last, and leaves."""
    with make_worker(kind, max_requests=2) as worker:
        worker.wsgi = echo
        answer = exchange(worker, [post(*SDK) * 3])
        assert answer.count(b"HTTP/1.1 200 OK") == 2
        assert answer.count(b"Connection: close") == 1
        assert not worker.alive
        assert [line for line in worker.log.lines if line[0] == "info"] == [
            ("info", "Autorestarting worker after current request.")
        ]
