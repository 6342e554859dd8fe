"""Signing in to the console: the cookie that stands for a token, and what keeps other sites from using it.

A browser sends the cookie by itself, whoever made the request. So a write counts only with the anti-forgery token,
which other sites cannot read, and not when the browser says that another site sent it (OWASP, "Cross-Site Request
Forgery Prevention"; Fetch Metadata).
"""

from __future__ import annotations

import ipaddress
import threading
import time
from collections.abc import Callable, Collection

from cachetools import TTLCache
from flask import Request, current_app

from app.errors import ChatServiceException
from app.ledger.accounts import Principal
from app.ledger.logins import LOGIN_SECONDS, Logins
from app.web.flask_app import Response
from app.web.services import service

COOKIE = "llm_server_login"
HEADER = "X-CSRF-Token"
SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
FAILURES_MAX = 10
"""How often a minute one network may try a token that opens nothing; shared out among the workers."""
FAILURES_SECONDS = 60.0
NETWORKS_MAX = 10_000


class SignInLimit:
    """Counts the failed attempts of each network (an IPv4 address or an IPv6 /64) in a minute from the first one on."""

    def __init__(self, workers: int, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._max = max(1, FAILURES_MAX // workers)
        # In a list, since a value that is set anew would begin another minute.
        self._failures: TTLCache[str, list[int]] = TTLCache(NETWORKS_MAX, FAILURES_SECONDS, timer=clock)
        self._lock = threading.Lock()

    def check(self, address: str) -> None:
        """Raise 429 `sign_in_limited` for a network that has failed too often."""
        with self._lock:
            if self._failures.get(_network(address), [0])[0] >= self._max:
                raise ChatServiceException("Too many attempts to sign in; wait a minute", "sign_in_limited")

    def failed(self, address: str) -> None:
        """Count one failed attempt."""
        with self._lock:
            self._failures.setdefault(_network(address), [0])[0] += 1


def signed_in(asked: Request) -> Principal | None:
    """The client whose login the request's cookie is; None where there is none, or the route takes no cookie.

    Raises 403 `csrf_failed` for a write that no page of this server made.
    """
    blueprint = current_app.blueprints.get(asked.blueprint or "")
    takes_cookie = getattr(blueprint, "takes_cookie", False) and "HTTP_COOKIE" in asked.environ
    found = service(Logins).principal(cookie_of(asked)) if takes_cookie else None
    if found is not None:
        check_forgery(asked)
    return found


def refuse_other_sites(asked: Request, origins: Collection[str]) -> None:
    """Raise 403 `csrf_failed` for a write without any token that a page of another site made, unless CORS lets it.

    In open mode nothing else keeps a page that the user of this machine opens from having its browser send one.
    """
    if asked.method in SAFE_METHODS or not _is_of_another_site(asked):
        return
    if asked.headers.get("Origin", "").lower() not in {origin.lower() for origin in origins}:
        raise ChatServiceException("A page of another site may not do this; see CORS_ORIGINS", "csrf_failed")


def check_forgery(asked: Request) -> None:
    """Raise 403 `csrf_failed` for a write that no page of this server made."""
    if asked.method in SAFE_METHODS:
        return
    if _is_of_another_site(asked) or not service(Logins).is_forgery_token(
        asked.headers.get(HEADER, ""), cookie_of(asked)
    ):
        raise ChatServiceException(f"A request with the console's cookie needs its {HEADER}", "csrf_failed")


def forgery_token(asked: Request) -> str:
    """What the pages of this request's browser send with every write."""
    return service(Logins).forgery_token(cookie_of(asked))


def cookie_of(asked: Request) -> str:
    """The value of the login's cookie; "" without one."""
    return asked.cookies.get(COOKIE, "") if "HTTP_COOKIE" in asked.environ else ""


def set_cookie(response: Response, value: str, asked: Request) -> None:
    """Give the browser the cookie of a login, out of reach of scripts and other sites; "" takes it away."""
    age = LOGIN_SECONDS if value else 0
    response.set_cookie(COOKIE, value, max_age=age, httponly=True, samesite="Strict", secure=asked.is_secure)


def _is_of_another_site(asked: Request) -> bool:
    """What the browser says; other programs say nothing."""
    return asked.headers.get("Sec-Fetch-Site", "none") not in {"same-origin", "none"}


def _network(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    parsed = getattr(parsed, "ipv4_mapped", None) or parsed
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else str(parsed)
