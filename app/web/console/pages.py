"""Pages: templates rendered in the browser's language, under a strict policy, with links that work below any path.

No page knows at which path a proxy shows the server, so every link is relative. Scripts and styles come from this
server's files alone; the policy forbids all that stands in a page itself, so markup in a name or an answer of a model
could not run even if it were not escaped.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import jinja2
from flask import Request

from app.config import Config
from app.ledger.accounts import NOBODY, Principal
from app.units import iso
from app.version import __version__
from app.web.access import Access, may_administer
from app.web.flask_app import Response
from app.web.middleware import kept, this_request
from app.web.problems import ErrorDialect, problem
from app.web.services import service
from app.web.sign_in import forgery_token
from schemas.problem import ProblemSchema

HERE = Path(__file__).parent
STATIC = HERE / "static"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
LANGUAGES = ("en", "ko")
LANGUAGE_COOKIE = "llm_server_language"
THEMES = ("light", "dark")
THEME_COOKIE = "llm_server_theme"


def page(template: str, *, status: int = 200, **values: Any) -> Response:
    """A page of one of the templates, which get `values` and what is in `_around`."""
    body = _environment().get_template(template).render(_around(this_request()) | values)
    response = Response(body, status, mimetype="text/html")
    response.headers["Content-Security-Policy"] = POLICY
    response.vary.update(["Accept-Language", "Cookie"])
    return response


def lead_to(path: str) -> Response:
    """A redirect to a path of this server, relative as all links are."""
    response = Response(status=303)
    response.location, response.autocorrect_location_header = to_root(this_request()) + path, False
    return response


def language(asked: Request) -> str:
    """The language of a page: the chosen one, else the better of the two for the browser."""
    chosen = asked.cookies.get(LANGUAGE_COOKIE, "")
    if chosen in LANGUAGES:
        return chosen
    return asked.accept_languages.best_match(LANGUAGES, default="en")


def to_root(asked: Request) -> str:
    """The relative address of `/` from that of a request, as `../../`; the browser knows what lies above it.

    As it was sent: a `%2F` within a name is no step.
    """
    sent = asked.environ.get("RAW_URI", "").partition("?")[0]
    return "../" * ((sent if sent.startswith("/") else asked.path).count("/") - 1) or "./"


def _around(asked: Request) -> dict[str, Any]:
    """What every template gets."""
    spoken, root = language(asked), to_root(asked)
    principal: Principal = kept().get("principal") or NOBODY
    config = service(Config)

    def t(english: str, korean: str, **values: Any) -> str:
        return (korean if spoken == "ko" else english).format(**values)

    return {
        "t": t,
        "language": spoken,
        "theme": asked.cookies.get(THEME_COOKIE, "") if asked.cookies.get(THEME_COOKIE) in THEMES else "",
        "root": root,
        "static": lambda name: f"{root}console/static/{_named(name)}",
        "here": asked.path.removeprefix("/"),
        "client": principal.account,
        "is_open": not config.token_required,
        "is_admin": may_administer(asked, config, principal),
        "is_operator": may_administer(asked, config, principal, Access.OPERATOR),
        "forgery_token": forgery_token(asked),
        "version": __version__,
    }


@functools.cache
def _environment() -> jinja2.Environment:
    """Undefined names are errors; all values are escaped. `iso` shows a moment in microseconds since 1970."""
    made = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    made.filters["iso"] = iso
    return made


@functools.cache
def _named(name: str) -> str:
    """A file with what changes with its content, so that a browser may keep it for ever. Not so a script: under another
    address than that by which other scripts import it, a module would run a second time."""
    if name.endswith(".js"):
        return name
    return f"{name}?v={hashlib.sha256((STATIC / name).read_bytes()).hexdigest()[:12]}"


def _error(document: Mapping[str, Any]) -> Response:
    """A failure as a page; who has to sign in is led there, and back afterwards."""
    asked = this_request()
    if document["code"] == "unauthorized" and asked.method == "GET":
        query = f"?{asked.query_string.decode('latin-1')}" if asked.query_string else ""
        return lead_to("console/login?" + urlencode({"next": quote(asked.path.removeprefix("/")) + query}))
    return page("error.html", status=document["status"], problem=document)


PAGE = ErrorDialect("page", "text/html", ProblemSchema, problem, write=_error, takes_cookie=True)
