"""The address that the server listens on: how it is written, and whether it can be used.

gunicorn itself would try an address for five seconds, with two lines for each try, and not name the setting.
"""

from __future__ import annotations

import socket
from typing import Any

from app.errors import ConfigurationException


def host_and_port(host: str, port: int) -> str:
    """`host:port`, with the brackets that an IPv6 address needs."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def check_host(host: str) -> None:
    """Raise ConfigurationException unless this machine has the address."""
    try:
        family, address = _resolved(host, 0)
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.bind(address)
    except (OSError, UnicodeError):
        raise ConfigurationException("SERVER_HOST must be an address of this machine", "SERVER_HOST") from None


def check_port(host: str, port: int) -> None:
    """Raise ConfigurationException unless the port is free."""
    family, address = _resolved(host, port)
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(address)
        except OSError as exc:
            message = f"SERVER_PORT cannot be used ({exc.strerror}); another program may be listening"
            raise ConfigurationException(message, "SERVER_PORT") from exc


def _resolved(host: str, port: int) -> tuple[socket.AddressFamily, Any]:
    """The family and the socket address of a host. Raises OSError and UnicodeError."""
    family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    return family, address
