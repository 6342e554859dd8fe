"""A proxy between us and upstream: a tunnel is asked for with CONNECT (RFC 9110, 9.3.6), and TLS goes through it."""

from __future__ import annotations

import base64
import ipaddress
import select
import socket
from dataclasses import dataclass, field
from typing import Self
from urllib.parse import unquote, urlsplit

from app.config import Config
from app.parsers import proxy_url
from app.upstreams.connecting import Connecting
from app.upstreams.connection_errors import CouldNotConnect

ANSWER_MAX_BYTES = 16_384
PASSING_STATUSES = {408, 429, 500, 502, 503, 504}


@dataclass(frozen=True)
class Proxy:
    """Where the proxy is, and what it is told of us (`Basic …`, RFC 7617; empty without a user)."""

    address: tuple[str, int]
    authorization: str = field(default="", repr=False)

    @classmethod
    def from_url(cls, url: str) -> Self:
        """Read `http://[user:password@]host[:port]`."""
        parts = urlsplit(url)
        user = f"{unquote(parts.username or '')}:{unquote(parts.password or '')}"
        authorization = "" if parts.username is None else "Basic " + base64.b64encode(user.encode()).decode()
        return cls((parts.hostname or "", parts.port or 80), authorization)


def proxy_for(config: Config, base_url: str) -> str:
    """The URL of the proxy through which an upstream is called; empty when it is called directly."""
    if config.local_model and base_url.startswith("http://127.0.0.1:"):
        return ""
    if config.upstream_proxy:
        return "" if config.upstream_proxy == "direct" else config.upstream_proxy
    url = urlsplit(base_url)
    if (
        not config.https_proxy
        or url.scheme != "https"
        or is_exempt(config.no_proxy, url.hostname or "", url.port or 443)
    ):
        return ""
    return "" if (proxy := proxy_url(config.https_proxy)) == "direct" else proxy


def is_exempt(no_proxy: str, host: str, port: int) -> bool:
    """Whether `NO_PROXY` names the host: as curl reads it, with networks (`10.0.0.0/8`) and ports (`a.test:8443`)."""
    for entry in no_proxy.lower().replace(",", " ").split():
        name, colon, wanted = entry.rpartition(":")
        if not colon or (":" in name and not name.endswith("]")):
            name, wanted = entry, ""
        name = name.strip("[]").removeprefix("*").removeprefix(".")
        if wanted in {"", str(port)} and (name == "" or _covers(name, host.rstrip("."))):
            return True
    return False


def _covers(name: str, host: str) -> bool:
    if host == name or host.endswith("." + name):
        return True
    try:
        return ipaddress.ip_address(host) in ipaddress.ip_network(name, strict=False)
    except ValueError:
        return False


def open_tunnel(sock: socket.socket, proxy: Proxy, target: tuple[str, int], connecting: Connecting) -> None:
    """Have the proxy connect the socket to `target`. Raises OSError, CouldNotConnect or what ended the call."""
    host, port = target
    authority = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    allowed = f"Proxy-Authorization: {proxy.authorization}\r\n" if proxy.authorization else ""
    request = f"CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\nUser-Agent: llm-server\r\n{allowed}\r\n"
    _send(sock, request.encode("ascii"), connecting)
    head, _, early = _answer(sock, connecting).partition(b"\r\n\r\n")
    version, _, rest = head.partition(b" ")
    status = int(rest[:3]) if version.startswith(b"HTTP/1.") and rest[:3].isdigit() else 0
    if not 200 <= status < 300 or early:
        raise CouldNotConnect(f"the proxy answered {status}", may_retry=status in PASSING_STATUSES)


def _send(sock: socket.socket, data: bytes, connecting: Connecting) -> None:
    while data:
        connecting.wait({sock.fileno(): select.POLLOUT})
        data = data[sock.send(data) :]


def _answer(sock: socket.socket, connecting: Connecting) -> bytes:
    received = b""
    while b"\r\n\r\n" not in received:
        connecting.wait({sock.fileno(): select.POLLIN})
        piece = sock.recv(4096)
        received += piece
        if not piece or len(received) > ANSWER_MAX_BYTES:
            raise CouldNotConnect("the proxy gave no answer")
    return received
