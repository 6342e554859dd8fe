"""Who may use which route, decided on the matched route; a route that is not listed here is closed to all."""

from __future__ import annotations

import ipaddress

from flask import Flask, current_app, g, request

from app.config import Config
from app.errors import ChatServiceException, ServiceException
from app.ledger.accounts import is_token
from app.ledger.admission import unauthorized

PUBLIC = {
    *("health.livez", "health.readyz", "health.root", "api-docs.openapi_json"),
    *("docs.page", "docs.start", "docs.asset"),
}
CLIENT = {"usage.report", "usage.one_request", "chat.preview"}
ADMITTED = {
    *("chat.chat", "openai.responses", "openai.chat_completions", "openai.embeddings"),
    *("openai.models", "openai.model"),
}
"""These identify their caller in the transaction that admits the request."""
ADMIN = {
    *("system.info", "system.status", "system.cpu", "system.memory", "system.disk"),
    "metrics.metrics",
}
FORWARDED_HEADERS = ("Forwarded", "X-Forwarded-For", "X-Real-IP")


def register_access(app: Flask, config: Config) -> None:
    """Decide before any view runs. Unknown addresses and methods are answered as such, not as forbidden."""

    @app.before_request
    def decide() -> None:
        endpoint = request.endpoint
        if endpoint is None or endpoint in PUBLIC:
            return
        if endpoint in ADMITTED:
            # Who cannot be a client learns nothing else, such as what is wrong with the body.
            if (config.token_required or g.call.token) and not is_token(g.call.token):
                raise unauthorized()
            return
        if endpoint in ADMIN:
            return _admin_only(config)
        if endpoint not in CLIENT:
            raise ChatServiceException("This route is closed", "forbidden")
        _identify(required=config.token_required)


def unless_unknown(error: ServiceException) -> ServiceException:
    """`error`, or `unauthorized` when the request brings a token that opens nothing: that is heard first of all.

    Admission looks at the token itself, so the database is asked here only about what was refused before.
    """
    if request.endpoint not in ADMITTED or not g.call.token or g.call.token_checked:
        return error
    try:
        known = current_app.extensions["accounts"].identify(g.call.token)
    except ServiceException as exc:
        return exc
    return error if known else unauthorized()


def _admin_only(config: Config) -> None:
    """Admin tokens; without tokens, loopback peers and whoever SYSTEM_API_PUBLIC lets in."""
    _identify(required=config.token_required)
    if g.account is not None and not g.account.admin:
        raise ChatServiceException("This route needs an admin token", "forbidden")
    if g.account is None and not config.system_api_public and not _is_loopback():
        message = "The system routes answer local callers only; SYSTEM_API_PUBLIC=true opens them"
        raise ChatServiceException(message, "system_routes_private")


def _identify(*, required: bool) -> None:
    """Find the client behind the token, for views that are not admitted."""
    g.account = current_app.extensions["accounts"].identify(g.call.token) if g.call.token else None
    if g.account is None and (required or g.call.token):
        raise unauthorized()


def _is_loopback() -> bool:
    """Tell whether the peer is on this host. What a proxy on this host passes on comes from elsewhere."""
    if any(name in request.headers for name in FORWARDED_HEADERS):
        return False
    try:
        address = ipaddress.ip_address(request.remote_addr or "")
    except ValueError:
        return False
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback
