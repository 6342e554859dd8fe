"""Who may use which route, and who calls.

Each blueprint declares the access to its routes; what declares nothing is closed. The caller is found once, from its
token, before any of the body is read: without this, anybody could have the server read megabytes, and a client's token
would be looked up in every place that needs to know it (test_access.py).
"""

from __future__ import annotations

import enum
from typing import cast

from flask import Flask, Request, current_app
from werkzeug.exceptions import NotFound

from app.config import Config
from app.errors import ChatServiceException
from app.ledger.accounts import NOBODY, Accounts, Principal, unauthorized
from app.models import TOKEN_PREFIX
from app.web.addresses import check_no_websocket, not_found
from app.web.middleware import kept, this_request
from app.web.peer import check_host, check_proxy, is_loopback
from app.web.services import service
from app.web.sign_in import refuse_other_sites, signed_in


class Access(enum.Enum):
    """Who may use a route. Where tokens are required, all but PUBLIC need one that is valid."""

    PUBLIC = "everybody"
    CLIENT = "a client"
    ADMITTED = "a client, confirmed in the transaction that admits the request"
    ADMIN = "an admin; without tokens, a local caller"
    OPERATOR = "the same, and nobody else whatever SYSTEM_API_PUBLIC says: these routes change what others may do"


ADMINS = {Access.ADMIN, Access.OPERATOR}
FLASK_SMOREST = {"api-docs.openapi_json": Access.PUBLIC}
"""The route of flask-smorest's own blueprint, which declares nothing: the specification."""


def register_access(app: Flask, config: Config) -> None:
    """Decide before any view runs. Unknown addresses and methods are answered as such, not as forbidden."""

    @app.before_request
    def decide() -> None:
        asked = this_request()
        check_host(asked, config)
        if asked.endpoint is None:
            if isinstance(asked.routing_exception, NotFound):
                raise not_found(asked.path)
            check_no_websocket(asked)
            return
        access = declared_access(app, asked.endpoint)
        if access is None:
            raise ChatServiceException("This route is closed", "forbidden")
        # A browser asks before it sends a page's request, without the token (Fetch standard, "CORS-preflight fetch").
        if access is Access.PUBLIC or asked.method == "OPTIONS":
            return
        if access not in ADMINS:
            check_proxy(asked, config)
        found = kept().principal = _find_principal(asked, config, remembered=access is Access.ADMITTED)
        if access in ADMINS:
            _check_admin(asked, found, is_public=config.system_api_public and access is Access.ADMIN)


def declared_access(app: Flask, endpoint: str) -> Access | None:
    """The access that a route's blueprint declares; None, and so closed, when it declares nothing."""
    blueprint = app.blueprints.get(endpoint.partition(".")[0])
    declared: dict[str, Access] = getattr(blueprint, "access", FLASK_SMOREST)
    return declared.get(endpoint)


def principal() -> Principal:
    """Who calls, in a view that is not public."""
    return cast(Principal, kept().principal)


def recognise() -> None:
    """Find who is signed in, on a page for everybody, which is shown while the database is away as well."""
    try:
        kept().principal = signed_in(this_request()) or NOBODY
    except ChatServiceException as exc:
        if exc.error_code != "store_unavailable":
            raise
        kept().principal = NOBODY


def bearer(authorization: str) -> tuple[str, str]:
    """The token of ours and the key of the caller's own in an `Authorization` header; each is empty when it is not."""
    scheme, _, credential = authorization.partition(" ")
    credential = credential.strip() if scheme.lower() == "bearer" else ""
    return (credential, "") if credential.startswith(TOKEN_PREFIX) else ("", credential)


def credentials(asked: Request) -> tuple[str, str]:
    """The token of ours and the caller's own key that a request carries; each is empty when it is not there.

    Where a blueprint names a `key_header`, as Anthropic's clients send one, it and `Authorization` may hold either. Of
    two of a kind that of the key header counts.
    """
    token, own = bearer(asked.environ.get("HTTP_AUTHORIZATION", ""))
    header = key_header(asked)
    given = asked.headers.get(header, "").strip() if header else ""
    if not given:
        return token, own
    return (given, own) if given.startswith(TOKEN_PREFIX) else (token, given)


def key_header(asked: Request) -> str:
    """The header beside `Authorization` in which the route that is asked for reads a key; empty where it has none."""
    blueprint = current_app.blueprints.get(asked.blueprint or "")
    return getattr(blueprint, "key_header", "")


def _find_principal(asked: Request, config: Config, *, remembered: bool) -> Principal:
    token, _ = credentials(asked)
    if token:
        return service(Accounts).principal(token, remembered=remembered)
    if (found := signed_in(asked)) is not None:
        return found
    refuse_other_sites(asked, config.cors_origins)
    if config.token_required:
        raise unauthorized()
    return NOBODY


def may_administer(asked: Request, config: Config, caller: Principal, access: Access = Access.ADMIN) -> bool:
    """Whether the caller may use the routes that declare `access`, one of ADMINS."""
    try:
        _check_admin(asked, caller, is_public=config.system_api_public and access is Access.ADMIN)
    except ChatServiceException:
        return False
    return caller.account is not None or not config.token_required


def _check_admin(asked: Request, caller: Principal, *, is_public: bool) -> None:
    """Admin tokens; without tokens, loopback peers, or everybody where that is public."""
    if caller.account is not None and not caller.account.admin:
        raise ChatServiceException("This route needs an admin token", "forbidden")
    if caller.account is None and not is_public and not is_loopback(asked):
        message = "The system routes answer local callers only; SYSTEM_API_PUBLIC=true opens those that only tell"
        raise ChatServiceException(message, "system_routes_private")
