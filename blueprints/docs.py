"""The API's documentation page: Swagger UI from the server's own files, so it works offline and under a strict CSP."""

from __future__ import annotations

from pathlib import Path

import flask_swagger_ui
from flask import Response, redirect, send_from_directory
from werkzeug import Response as Redirect

from app.json_bytes import dump_json
from app.web.access import Access, recognise
from app.web.api import ServerApi
from app.web.console import pages
from app.web.korean import in_korean
from app.web.problems import PROBLEM
from app.web.services import service
from app.web.strict import StrictBlueprint

# Without a description: these are pages, not routes of the API.
blp = StrictBlueprint("docs", __name__, access=Access.PUBLIC, errors=PROBLEM)

SWAGGER_UI = Path(flask_swagger_ui.__file__).parent / "dist"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
OURS = {"start.js": ("docs.js", "text/javascript"), "page.css": ("docs.css", "text/css")}
"""Our own files beside Swagger UI's: where each lies among the console's, and its type."""


@blp.get("/docs")
def page() -> Response:
    """The page itself, in the browser's language."""
    recognise()
    response = pages.page("docs.html")
    response.headers["Content-Security-Policy"] = POLICY
    return response


@blp.get("/docs/openapi.ko.json")
def korean() -> Response:
    """The specification in Korean, for the page alone: programs and other tools read the one at /openapi.json."""
    api = service(ServerApi)
    told = in_korean(api.spec.to_dict(), api.endpoints)
    # Relative to this file's address.
    return Response(dump_json(told | {"servers": [{"url": ".."}]}), mimetype="application/json")


@blp.get("/docs/")
def page_with_slash() -> Redirect:
    """To the page, whose own links would lead astray from here."""
    return redirect("../docs")


@blp.get("/favicon.ico")
def icon() -> Response:
    """The page's icon, which browsers ask for at every address."""
    return _file("favicon-32x32.png")


@blp.get("/docs/<path:name>")
def asset(name: str) -> Response:
    """One of the page's files: ours, or Swagger UI's."""
    if name in OURS:
        file, kind = OURS[name]
        return Response((pages.STATIC / file).read_bytes(), mimetype=kind)
    return _file(name)


def _file(name: str) -> Response:
    response = send_from_directory(SWAGGER_UI, name)
    response.headers.remove("Cache-Control")
    # Handed to the worker as a file, the answer would never be closed, and so not logged.
    response.direct_passthrough = False
    return response
