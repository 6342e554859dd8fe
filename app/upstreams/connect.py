"""Connect: a new connection to one upstream: its name, an address, a proxy if there is one, and TLS.

All of it is inside the deadline of the call that it is made for, and the end of the call ends it: see connecting.py.
"""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
from pathlib import Path
from urllib.parse import SplitResult

from app.calls.call import Call
from app.errors import ConfigurationException
from app.upstreams.addresses import connected, tune
from app.upstreams.connecting import Connecting
from app.upstreams.connection_errors import could_not_connect
from app.upstreams.names import Address, AddressInfo, Resolver, literal
from app.upstreams.proxy import Proxy, open_tunnel

CONNECT_SECONDS = 5.0


class Connector:
    """Makes the connections to the upstream at `url`, through `proxy` if there is one.

    `ca_file`: a PEM file of certificate authorities that are trusted beside the system's. Raises
    ConfigurationException when it cannot be used.
    """

    def __init__(
        self, url: SplitResult, *, proxy: Proxy | None = None, ca_file: str = "", resolver: Resolver | None = None
    ) -> None:
        self._tls = _tls(ca_file) if url.scheme == "https" else None
        self._upstream = url.hostname or "", url.port or (443 if self._tls else 80)
        self._proxy = proxy
        self._resolver = resolver or Resolver()
        self._best: Address | None = None

    def connect(self, call: Call) -> socket.socket:
        """A connected socket without a timeout: once `call` holds it, the end of the call cuts it.

        Raises CouldNotConnect, or what ended the call.
        """
        with Connecting(call, CONNECT_SECONDS) as connecting:
            host, port = self._proxy.address if self._proxy else self._upstream
            sock = connected(self._addresses(host, port, connecting), connecting, self._best)
            try:
                # Known to answer, so later connections need not wait for a dead address before it.
                self._best = sock.getpeername()
                tune(sock)
                if self._proxy:
                    open_tunnel(sock, self._proxy, self._upstream, connecting)
                sock = self._secured(sock, connecting)
                sock.settimeout(None)
            except OSError as exc:
                sock.close()
                raise could_not_connect(exc) from exc
            except BaseException:
                sock.close()
                raise
            return sock

    def _addresses(self, host: str, port: int, connecting: Connecting) -> list[AddressInfo]:
        if found := literal(host, port):
            return found
        lookup = self._resolver.look_up(host, port)
        while not lookup.is_done:
            connecting.wait({lookup.fileno(): select.POLLIN})
        if lookup.error is not None:
            raise could_not_connect(lookup.error) from lookup.error
        return lookup.addresses

    def _secured(self, sock: socket.socket, connecting: Connecting) -> socket.socket:
        """TLS on top of the socket, whose handshake checks the certificate; closes the socket when it fails."""
        if self._tls is None:
            return sock
        name = self._upstream[0].rstrip(".")
        with contextlib.ExitStack() as failed:
            secure = self._tls.wrap_socket(sock, server_hostname=name, do_handshake_on_connect=False)
            failed.callback(secure.close)
            _shake_hands(secure, connecting)
            failed.pop_all()
        return secure


def _shake_hands(secure: ssl.SSLSocket, connecting: Connecting) -> None:
    while True:
        try:
            return secure.do_handshake()
        except ssl.SSLWantReadError:
            connecting.wait({secure.fileno(): select.POLLIN})
        except ssl.SSLWantWriteError:
            connecting.wait({secure.fileno(): select.POLLOUT})


def _tls(ca_file: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    try:
        if ca_file:
            context.load_verify_locations(cadata=Path(ca_file).read_text())
    except (OSError, ValueError, ssl.SSLError) as exc:
        raise ConfigurationException("UPSTREAM_CA_FILE is no PEM file that can be read", "UPSTREAM_CA_FILE") from exc
    return context
