"""Signing in and out: a token is exchanged for a cookie."""

from __future__ import annotations

from typing import Any

from app.config import Config
from app.errors import ServiceException
from app.ledger.logins import Logins
from app.web.access import Access, recognise
from app.web.console.pages import PAGE, page
from app.web.flask_app import Response
from app.web.middleware import this_request
from app.web.peer import came_from
from app.web.problems import PROBLEM
from app.web.services import service
from app.web.sign_in import SignInLimit, check_forgery, cookie_of, set_cookie
from app.web.strict import StrictBlueprint
from schemas.login import LoginSchema

blp = StrictBlueprint("console_login", __name__, url_prefix="/console/login", access=Access.PUBLIC, errors=PAGE)
writes = StrictBlueprint("console_sign_in", __name__, url_prefix="/console/login", access=Access.PUBLIC, errors=PROBLEM)


@blp.get("")
def form() -> Response:
    """The page that asks for a token."""
    recognise()
    return page("login.html")


@writes.post("")
@writes.arguments(LoginSchema)
def sign_in(given: dict[str, Any]) -> Response:
    """Exchange a token for the cookie of a login."""
    asked, limit = this_request(), service(SignInLimit)
    check_forgery(asked)
    address = came_from(asked, service(Config).forwarded_allow_ips)
    limit.check(address)
    try:
        cookie = service(Logins).begin(given["token"])
    except ServiceException as exc:
        if exc.error_code == "unauthorized":
            limit.failed(address)
        raise
    response = Response(status=204)
    set_cookie(response, cookie, asked)
    return response


@writes.delete("")
def sign_out() -> Response:
    """End the login."""
    asked = this_request()
    check_forgery(asked)
    service(Logins).end(cookie_of(asked))
    response = Response(status=204)
    set_cookie(response, "", asked)
    return response
