"""Where a request comes from: the name that it was sent to, and whether a proxy has passed it on.

In open mode nothing but the network keeps strangers away, so both are looked at. A web page that a user of this machine
opens can have a name of its own lead to 127.0.0.1 (DNS rebinding), and its browser then sends requests to this server,
with that name in `Host`. A proxy on this machine makes every caller look local.
"""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Mapping

from flask import Request
from werkzeug.exceptions import BadRequest

from app.config import Config
from app.errors import ChatServiceException, ValidationException

FORWARDING = (
    *("HTTP_X_FORWARDED", "HTTP_FORWARDED", "HTTP_VIA", "HTTP_CF_", "HTTP_X_REAL_IP", "HTTP_TRUE_CLIENT_IP"),
    *("HTTP_X_CLIENT_IP", "HTTP_X_CLUSTER_CLIENT_IP", "HTTP_X_ORIGINAL_FORWARDED_FOR", "HTTP_X_ENVOY_"),
    *("HTTP_FLY_", "HTTP_FASTLY_", "HTTP_CDN_LOOP"),
)
"""How the headers begin that proxies add, as WSGI names them."""
FORWARDS_MAX = 10
"""Of so many proxies in a row the addresses are read."""
PROBES = {"health.livez", "health.readyz", "health.health"}
"""They tell nothing, and load balancers ask them by names of their own."""


def check_host(asked: Request, config: Config) -> None:
    """Raise 400 for HTTP/1.1 without `Host` (RFC 9112, section 3.2); in open mode 421 for a name that is not ours."""
    host = asked.environ.get("HTTP_HOST", "")
    if not host and asked.environ.get("SERVER_PROTOCOL") != "HTTP/1.0":
        raise BadRequest
    if not host or config.token_required or asked.endpoint in PROBES:
        return
    name = _name(host)
    if not (_is_local(name) or name in config.allowed_hosts or name == config.server_host.lower()):
        message = "This server has no such name; ALLOWED_HOSTS lists the names that it answers to, beside its addresses"
        raise ValidationException(message, error_code="misdirected_request")


def check_proxy(asked: Request, config: Config) -> None:
    """Raise 403 for a request that a proxy passed on while nobody has decided who may call (`AUTH_MODE` unset)."""
    if not config.auth_mode and is_forwarded(asked.environ):
        message = "AUTH_MODE must be set, since requests come through a proxy: token, or open if that is meant"
        raise ChatServiceException(message, "auth_mode_required")


def is_forwarded(environ: Mapping[str, object]) -> bool:
    """Whether the request has any header that proxies add."""
    return any(name.startswith(FORWARDING) for name in environ)


@functools.lru_cache(maxsize=1024)
def is_trusted(address: str, networks: tuple[str, ...]) -> bool:
    """Whether a peer is a proxy whose word is taken: one of `networks` (FORWARDED_ALLOW_IPS), or on a Unix socket."""
    if not address or "*" in networks:
        return True
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    parsed = getattr(parsed, "ipv4_mapped", None) or parsed
    return any(parsed in ipaddress.ip_network(network) for network in networks)


def came_from(asked: Request, proxies: tuple[str, ...]) -> str:
    """The address of a caller, as `X-Forwarded-For` of our proxies (FORWARDED_ALLOW_IPS) tells it, the nearest last.

    Where all peers are believed, only what the nearest has added is: anybody may have written the rest.
    """
    address = asked.remote_addr or ""
    for said in reversed(asked.headers.get("X-Forwarded-For", "").split(",")[-FORWARDS_MAX:]):
        try:
            told = str(ipaddress.ip_address(said.strip()))
        except ValueError:
            break
        if not is_trusted(address, proxies):
            break
        address, proxies = told, tuple(proxy for proxy in proxies if proxy != "*")
    return address


def is_loopback(asked: Request) -> bool:
    """Tell whether the peer is on this host. What a proxy on this host passes on comes from elsewhere."""
    if is_forwarded(asked.environ):
        return False
    try:
        address = ipaddress.ip_address(asked.remote_addr or "")
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def _name(host: str) -> str:
    """The name or the address in a `Host` header, without its port."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0].rstrip(".").lower()


@functools.lru_cache(maxsize=1024)
def _is_local(name: str) -> bool:
    """Whether it is a name of this machine (RFC 6761, section 6.3), or an address: no web page has one for its name."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
