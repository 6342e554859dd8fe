"""The route of the upstreams: how they do."""

from __future__ import annotations

from typing import Any

from app.services.upstream_state import describe
from app.upstreams.fleet import Fleet
from app.web.access import Access
from app.web.problems import PROBLEM
from app.web.services import service
from app.web.strict import ADMIN_PROBLEMS, StrictBlueprint
from schemas.upstreams import UpstreamStatesSchema

blp = StrictBlueprint(
    "upstreams",
    __name__,
    url_prefix="/api/v1/upstreams",
    description="How the upstreams do",
    access=Access.ADMIN,
    errors=PROBLEM,
)


@blp.get("")
@blp.response(200, UpstreamStatesSchema)
@blp.problems(*ADMIN_PROBLEMS)
def states() -> dict[str, Any]:
    """Show which upstreams and keys rest, and why

    Rests are known to all workers; what is in flight and how recent attempts went is that of the worker that answers.
    """
    return {"upstreams": describe(service(Fleet))}
