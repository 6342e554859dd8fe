"""The page of the upstreams: how they do, and a way to try one now."""

from __future__ import annotations

from app.failures import FAILURES
from app.services.upstream_state import describe
from app.upstreams.fleet import Fleet
from app.web.access import Access
from app.web.console.pages import PAGE, page
from app.web.flask_app import Response
from app.web.services import service
from app.web.strict import StrictBlueprint

blp = StrictBlueprint("console_upstreams", __name__, url_prefix="/console/upstreams", access=Access.ADMIN, errors=PAGE)


@blp.get("")
def upstreams() -> Response:
    """Each with its state, its figures and its keys."""
    return page("upstreams.html", upstreams=describe(service(Fleet)), failures=FAILURES)
