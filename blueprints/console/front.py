"""The front page: where the server stands, and one line to try it with."""

from __future__ import annotations

from typing import Any

from app.config import Config
from app.errors import ServiceException
from app.json_bytes import dump_json
from app.process.announce import BODY
from app.process.readiness import Readiness
from app.services.upstream_state import describe
from app.upstreams.fleet import Fleet
from app.upstreams.local_model import DEMO
from app.version import __version__
from app.web.access import Access, may_administer, principal, recognise
from app.web.console.pages import PAGE, lead_to, page
from app.web.flask_app import Response
from app.web.middleware import this_request
from app.web.services import service
from app.web.strict import StrictBlueprint

blp = StrictBlueprint("front", __name__, access=Access.PUBLIC, errors=PAGE)
below = StrictBlueprint("console", __name__, url_prefix="/console", access=Access.PUBLIC, errors=PAGE)


@blp.get("/")
def front() -> Response:
    """A page for browsers, which ask for HTML; JSON for programs."""
    config, state = service(Config), _state()
    if "text/html" not in this_request().accept_mimetypes.values():
        about = {"message": "LLM Server", "version": __version__, "status": state, "documentation": "docs"}
        response = Response(dump_json(about) + b"\n", mimetype="application/json")
        response.vary.add("Accept")
        return response
    recognise()
    return page(
        "front.html",
        state=state,
        model=config.default_model,
        demo=config.local_model == DEMO,
        upstreams=_upstreams(config),
        try_it=_try_it(config),
    )


@below.get("/", strict_slashes=False)
def console() -> Response:
    """To the playground, which is what most come for."""
    return lead_to("console/playground")


def _state() -> str:
    """ "ready", or the code of what is in the way."""
    try:
        service(Readiness).check()
    except ServiceException as exc:
        return exc.error_code
    return "ready"


def _upstreams(config: Config) -> list[dict[str, Any]]:
    """How the upstreams do, for admins."""
    return describe(service(Fleet)) if may_administer(this_request(), config, principal()) else []


def _try_it(config: Config) -> dict[str, Any]:
    """The parts of a curl line that works in the present mode; a page knows better where it was found."""
    headers = ["Content-Type: application/json"]
    if config.token_required:
        headers.append("Authorization: Bearer TOKEN")
    return {"url": this_request().host_url, "headers": headers, "body": BODY}
