"""Making a connection: names, addresses and TLS, all inside the deadline, and ended with the call they are for."""

from __future__ import annotations

import contextlib
import datetime
import os
import select
import socket
import ssl
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme

from app.calls.call import Call
from app.errors import ConfigurationException, ServiceException
from app.upstreams.addresses import NEXT_ADDRESS_SECONDS, connected, in_turns
from app.upstreams.connect import CONNECT_SECONDS, Connector
from app.upstreams.connecting import Connecting
from app.upstreams.connection_errors import CouldNotConnect
from app.upstreams.names import AddressInfo, Lookup, Resolver
from tests.server import ROOT
from tests.upstream import Upstream

V4, V6 = socket.AF_INET, socket.AF_INET6


def info(host: str, port: int, family: int = V4) -> AddressInfo:
    """An address as getaddrinfo gives it."""
    return (family, socket.SOCK_STREAM, 6, "", (host, port) if family == V4 else (host, port, 0, 0))


@contextlib.contextmanager
def silent_listener(host: str = "127.0.0.1", *, full: bool) -> Iterator[int]:
    """The port of a listener that answers nothing; when `full`, no connection to it is ever made."""
    with socket.socket() as listener, contextlib.ExitStack() as fillers:
        listener.bind((host, 0))
        listener.listen(0 if full else 50)
        for _ in range(3 * full):
            filler = fillers.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname())
        yield listener.getsockname()[1]


@pytest.fixture
def port() -> Iterator[int]:
    """Somebody who takes connections."""
    with silent_listener(full=False) as port:
        yield port


class FakeResolver(Resolver):
    """Answers with fixed addresses, at once or when `may_answer` is set, and counts the questions."""

    def __init__(self, *addresses: AddressInfo, may_answer: threading.Event | None = None) -> None:
        self.asked = 0
        self._addresses = list(addresses)
        self._may_answer = may_answer
        super().__init__(self._answer)

    def _answer(self, host: str, port: int) -> list[AddressInfo]:
        self.asked += 1
        if self._may_answer is not None:
            self._may_answer.wait(60)
        return self._addresses


class WatchedConnecting(Connecting):
    """Notes each wait: for how many sockets, for how many seconds at most, and whether it was in vain."""

    def __init__(self) -> None:
        super().__init__(Call(30), 30)
        self.waits: list[tuple[int, float | None, bool]] = []

    def wait(self, events: Mapping[int, int], seconds: float | None = None) -> list[int]:
        ready = super().wait(events, seconds)
        self.waits.append((len(events), seconds, not ready))
        return ready


def connector(base_url: str, resolver: Resolver | None = None, ca_file: str = "") -> Connector:
    return Connector(urlsplit(base_url), resolver=resolver, ca_file=ca_file)


def ended(make: Connector, call: Call) -> str:
    """The code of what has ended the attempt to connect. It was the end of the call, and not the time that every
    attempt has: that would have been CONNECT_SECONDS.
    """
    with pytest.raises(ServiceException) as end:
        make.connect(call).close()
    assert call.elapsed_seconds < CONNECT_SECONDS
    return end.value.error_code


class TestAddresses:
    def test_the_families_take_turns(self) -> None:
        """RFC 8305: the first family stays first, and the address that was good before goes before all."""
        found = [info("::1", 1, V6), info("::2", 1, V6), info("10.0.0.1", 1), info("10.0.0.2", 1)]
        assert [entry[4][0] for entry in in_turns(found)] == ["::1", "10.0.0.1", "::2", "10.0.0.2"]
        assert in_turns(found, ("10.0.0.2", 1))[0][4] == ("10.0.0.2", 1)
        assert in_turns([]) == []

    @pytest.mark.parametrize("dead", [1, 2])
    def test_a_dead_address_costs_a_moment(self, port: int, dead: int) -> None:
        """Addresses that swallow packets are passed by, each after less than 300 ms and not before its time."""
        with contextlib.ExitStack() as stack:
            swallowing = [
                info(f"127.0.0.{number}", stack.enter_context(silent_listener(f"127.0.0.{number}", full=True)))
                for number in range(2, 2 + dead)
            ]
            connecting = stack.enter_context(WatchedConnecting())
            began = time.monotonic()
            sock = connected([*swallowing, info("127.0.0.1", port)], connecting)
            took = time.monotonic() - began
            with sock:
                assert sock.getpeername() == ("127.0.0.1", port)
        assert took >= NEXT_ADDRESS_SECONDS * dead
        passed_by = [(sockets, seconds) for sockets, seconds, _ in connecting.waits if sockets <= dead]
        assert {sockets for sockets, _ in passed_by} == set(range(1, dead + 1))
        assert all(seconds is not None and seconds <= NEXT_ADDRESS_SECONDS <= 0.3 for _, seconds in passed_by)

    def test_a_slow_first_address_may_still_win(self, port: int) -> None:
        """The next attempt does not end the first: with a good first address nobody else is asked."""
        with Connecting(Call(30), 30) as connecting, silent_listener("127.0.0.2", full=True) as full:
            sock = connected([info("127.0.0.1", port), info("127.0.0.2", full)], connecting)
            with sock:
                assert sock.getpeername() == ("127.0.0.1", port)

    def test_a_refusing_address_costs_nothing(self, port: int) -> None:
        """A refusal starts the next attempt at once."""
        with silent_listener(full=False) as closed:
            pass
        with WatchedConnecting() as connecting:
            connected([info("127.0.0.1", closed), info("127.0.0.1", port)], connecting).close()
        assert not any(was_in_vain for _, _, was_in_vain in connecting.waits)

    def test_a_late_refusal_costs_nothing_either(self, port: int) -> None:
        """While an address before it is still silent, too."""

        class Refusing(WatchedConnecting):
            """The second of two attempts fails while it is waited for."""

            def wait(self, events: Mapping[int, int], seconds: float | None = None) -> list[int]:
                if len(events) == 2:
                    with socket.socket(fileno=os.dup([*events][1])) as second:
                        second.shutdown(socket.SHUT_RDWR)
                return super().wait(events, seconds)

        with (
            silent_listener("127.0.0.2", full=True) as first,
            silent_listener("127.0.0.3", full=True) as second,
            Refusing() as connecting,
        ):
            silent = [info("127.0.0.2", first), info("127.0.0.3", second)]
            connected([*silent, *[info("127.0.0.1", port)] * 2], connecting).close()
        sockets = [number for number, _, _ in connecting.waits]
        assert not any(was_in_vain for _, _, was_in_vain in connecting.waits[sockets.index(2) :])

    def test_the_good_address_is_remembered(self, port: int) -> None:
        """Only the first connection tries a dead address: the next one goes where the first has come to."""
        first = info("127.0.0.2", port)
        make = connector("http://two.test", FakeResolver(first, info("127.0.0.1", port)))
        make.connect(Call(30)).close()
        with socket.create_server(first[4]), make.connect(Call(30)) as sock:
            assert sock.getpeername() == ("127.0.0.1", port)

    def test_none(self) -> None:
        """Without an address, and when all refuse, the reason is given in words of ours."""
        with silent_listener(full=False) as closed:
            pass
        with Connecting(Call(30), 30) as connecting:
            with pytest.raises(CouldNotConnect, match="connection refused"):
                connected([info("127.0.0.1", closed)] * 2, connecting)
            with pytest.raises(CouldNotConnect, match="host unreachable"):
                connected([], connecting)


class TestTheDeadline:
    """Whatever hangs, it is over at the deadline, and when the call ends."""

    @pytest.fixture(params=["name", "address", "addresses", "handshake"])
    def hanging(self, request: pytest.FixtureRequest) -> Iterator[Connector]:
        with silent_listener(full=True) as full, silent_listener("127.0.0.2", full=True) as other:
            both = info("127.0.0.1", full), info("127.0.0.2", other)
            with silent_listener(full=False) as silent:
                over = threading.Event()
                yield {
                    "name": connector("http://silent.test", FakeResolver(may_answer=over)),
                    "address": connector(f"http://127.0.0.1:{full}"),
                    "addresses": connector("http://two.test", FakeResolver(*both)),
                    "handshake": connector(f"https://127.0.0.1:{silent}"),
                }[request.param]
                over.set()

    def test_it_bounds_connecting(self, hanging: Connector) -> None:
        call = Call(0.3)
        assert ended(hanging, call) == "upstream_timeout"
        assert call.elapsed_seconds >= 0.3

    def test_the_end_of_the_call_ends_it(self, hanging: Connector) -> None:
        """The caller leaves."""
        call = Call(30)
        threading.Timer(0.3, call.end, ["caller_gone"]).start()
        assert ended(hanging, call) == "client_closed_request"

    def test_a_call_that_has_ended(self, hanging: Connector) -> None:
        call = Call(30)
        call.end("shutting_down")
        assert ended(hanging, call) == "server_shutting_down"


def test_a_handshake_that_drips() -> None:
    """Each byte comes well in time; their sum does not."""

    def drip(listener: socket.socket) -> None:
        with contextlib.suppress(OSError), listener.accept()[0] as taken:
            for byte in b"\x16\x03\x03\x3f\xff" + b"\x00" * 200:
                taken.send(bytes([byte]))
                time.sleep(0.05)

    with socket.create_server(("127.0.0.1", 0)) as listener:
        dripping = threading.Thread(target=drip, args=(listener,))
        dripping.start()
        make = connector(f"https://127.0.0.1:{listener.getsockname()[1]}")
        assert ended(make, Call(0.4)) == "upstream_timeout"
        dripping.join(10)


def test_connecting_is_bounded_below_a_long_deadline() -> None:
    """With minutes to go, an upstream that takes no connection is given up in time for another try."""
    with (
        silent_listener(full=True) as full,
        Connecting(Call(600), 0.2) as connecting,
        pytest.raises(CouldNotConnect, match="timed out"),
    ):
        connected([info("127.0.0.1", full)], connecting)
    assert CONNECT_SECONDS <= 5


class TestNames:
    def test_who_asks_for_the_same_waits_for_the_same(self) -> None:
        """Twenty calls at once need one thread, and the answer serves the next ones for a moment."""
        may_answer = threading.Event()
        resolver = FakeResolver(may_answer=may_answer)
        lookups = {id(resolver.look_up("a.test", 1)) for _ in range(20)}
        assert len(lookups) == 1
        lookup = resolver.look_up("a.test", 1)
        may_answer.set()
        assert select.select([lookup], [], [], 5)[0]
        assert lookup.is_done
        lookup.began = time.monotonic()  # However slow this machine is.
        assert resolver.look_up("a.test", 1) is lookup
        assert resolver.look_up("b.test", 1) is not lookup
        assert resolver.asked <= 2

    def test_the_descriptor_is_closed(self) -> None:
        """Nothing is left of a lookup that is done."""
        lookup = Lookup("a.test", 1, lambda host, port: [])
        assert select.select([lookup], [], [], 5)[0]
        descriptor, gone = lookup.fileno(), weakref.ref(lookup)
        del lookup
        give_up = time.monotonic() + 10
        while gone() is not None and time.monotonic() < give_up:
            time.sleep(0.01)  # Until its thread has ended as well.
        with pytest.raises(OSError, match="Bad file descriptor"):
            os.fstat(descriptor)

    @pytest.mark.parametrize(
        ("host", "reason"), [("does-not-exist.invalid", "unknown host|name lookup failed"), ("x" * 70, "unknown host")]
    )
    def test_unknown(self, host: str, reason: str) -> None:
        """It is told which: a name that nobody knows, or a name server that failed."""
        with pytest.raises(CouldNotConnect) as failure:
            connector(f"http://{host}").connect(Call(30))
        assert failure.value.reason in reason.split("|")


SILENT = """
import socket, time, gevent
from urllib.parse import urlsplit
from gevent.monkey import get_original
from app.calls.call import Call
from app.calls.watchdog import Watchdog
from app.errors import ServiceException
from app.store.threads import offload
from app.upstreams.connect import CONNECT_SECONDS, Connector
from app.upstreams.names import Resolver
asked = []
def silent(host, port):
    asked.append(host)
    get_original("time", "sleep")(20)
    return []
connector, watchdog = Connector(urlsplit("http://silent.test"), resolver=Resolver(silent)), Watchdog()
ended = []
def connect():
    call, began = Call(1), time.monotonic()
    watchdog.add(call)
    try:
        connector.connect(call)
    except ServiceException:
        ended.append(time.monotonic() - began)
calls = [gevent.spawn(connect) for _ in range(100)]
gevent.sleep(0.1)
began = time.monotonic()
offload(lambda: get_original("time", "sleep")(0.05))
print(time.monotonic() - began < 10)
gevent.joinall(calls)
print(len(ended), max(ended) < CONNECT_SECONDS, len(asked))
"""


def test_a_silent_resolver_holds_up_nobody_else() -> None:
    """Under gevent a hundred calls wait for a name server that is silent: the database's reads go on meanwhile, each
    call ends at its deadline, and one thread was occupied.
    """
    script = f"from gevent import monkey\nmonkey.patch_all()\n{SILENT}"
    command = [sys.executable, "-c", script]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30)
    assert (ran.stdout, ran.stderr) == ("True\n100 True 1\n", "")


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    """The file that says whom we trust beside the system's authorities."""
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    return str(tmp_path / "ca.pem")


class TestTls:
    """Why a handshake failed is told in words of ours; a certificate that is refused once is refused again."""

    def refused(self, certificate: trustme.LeafCert, ca_file: str) -> tuple[str, bool]:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        certificate.configure_cert(context)
        with Upstream(context) as upstream, pytest.raises(CouldNotConnect) as failure:
            connector(upstream.base_url, ca_file=ca_file).connect(Call(30))
        return failure.value.reason, failure.value.may_retry

    def test_a_good_one(self, authority: trustme.CA, ca_file: str) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("localhost").configure_cert(context)
        with Upstream(context) as upstream, connector(upstream.base_url, ca_file=ca_file).connect(Call(30)) as sock:
            assert sock.gettimeout() is None

    def test_of_another_host(self, authority: trustme.CA, ca_file: str) -> None:
        assert self.refused(authority.issue_cert("other.test"), ca_file) == ("certificate for another host", False)

    def test_expired(self, authority: trustme.CA, ca_file: str) -> None:
        past = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
        expired = authority.issue_cert("localhost", not_before=past, not_after=past + datetime.timedelta(days=1))
        assert self.refused(expired, ca_file) == ("certificate expired", False)

    def test_of_an_unknown_authority(self, authority: trustme.CA) -> None:
        reason, may_retry = self.refused(authority.issue_cert("localhost"), "")
        assert (reason, may_retry) == ("certificate unknown authority", False)

    def test_clear_text(self) -> None:
        """An upstream that speaks no TLS."""

        def answer(listener: socket.socket) -> None:
            with listener.accept()[0] as taken:
                taken.recv(10)
                taken.send(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        with socket.create_server(("127.0.0.1", 0)) as listener:
            answering = threading.Thread(target=answer, args=(listener,))
            answering.start()
            with pytest.raises(CouldNotConnect) as failure:
                connector(f"https://127.0.0.1:{listener.getsockname()[1]}").connect(Call(30))
            answering.join(5)
        assert failure.value.reason in {"TLS failed (WRONG_VERSION_NUMBER)", "connection reset"}

    @pytest.mark.parametrize("content", [None, "", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
    def test_a_ca_file_that_cannot_be_used(self, tmp_path: Path, content: str | None) -> None:
        """It is refused at the start, by the name of its setting."""
        if content is not None:
            (tmp_path / "ca.pem").write_text(content)
        with pytest.raises(ConfigurationException, match="UPSTREAM_CA_FILE"):
            connector("https://a.test", ca_file=str(tmp_path / "ca.pem"))


def test_a_peer_that_is_gone_is_noticed(port: int) -> None:
    """The kernel looks after connections on which nothing comes."""
    with connector(f"http://127.0.0.1:{port}").connect(Call(30)) as sock:
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) <= 30
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) <= 30_000
