"""The scripts, styles and pictures of the pages."""

from __future__ import annotations

from flask import Response, send_from_directory

from app.web.access import Access
from app.web.console.pages import PAGE, STATIC
from app.web.middleware import this_request
from app.web.strict import StrictBlueprint

blp = StrictBlueprint("console_static", __name__, url_prefix="/console/static", access=Access.PUBLIC, errors=PAGE)


@blp.get("/<path:name>")
def file(name: str) -> Response:
    """One of the files. A page names all but scripts by their content, so a browser may keep them for ever."""
    response = send_from_directory(STATIC, name)
    lasting = "public, max-age=31536000, immutable" if "v" in this_request().args else "no-cache"
    response.headers["Cache-Control"] = lasting
    # Handed to the worker as a file, the answer would never be closed, and so not logged.
    response.direct_passthrough = False
    return response
