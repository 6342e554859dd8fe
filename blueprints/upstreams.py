"""The routes of the upstreams: how they do, and to try one now."""

from __future__ import annotations

from typing import Any

from app.errors import ChatServiceException
from app.process.shared_health import SharedHealth
from app.services.exchange import Exchange
from app.services.upstream_state import describe, describe_one
from app.services.upstream_trial import try_keys
from app.upstreams.fleet import Fleet
from app.web.access import Access
from app.web.problems import PROBLEM
from app.web.services import service
from app.web.strict import ADMIN_PROBLEMS, StrictBlueprint
from schemas.fields import NothingSchema
from schemas.upstreams import NAME_PARAMETER, UpstreamStatesSchema, UpstreamTrialSchema

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


@blp.post("/<name>/try", access=Access.OPERATOR, parameters=[NAME_PARAMETER])
@blp.arguments(NothingSchema, example={})
@blp.response(200, UpstreamTrialSchema)
@blp.problems(*ADMIN_PROBLEMS, "not_found", "invalid_json", "validation_error", "unsupported_media_type")
def try_now(given: dict[str, Any], name: str) -> dict[str, Any]:
    """End an upstream's rest now

    And those of its keys, for all workers, so that the next request tries it. It is asked for its models with each key.
    """
    upstream = service(Fleet).upstreams.get(name)
    if upstream is None:
        raise ChatServiceException("There is no such upstream", "not_found")
    # Asked before: whoever is asked after a rest keeps others away until it is known how that went.
    tried = try_keys(upstream, service(Exchange).watchdog)
    service(SharedHealth).end_rests(name)
    return {"upstream": describe_one(upstream), "keys": tried}
