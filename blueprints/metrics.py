"""The route that Prometheus reads."""

from __future__ import annotations

from flask import Response

from app.process.metrics import MEDIA_TYPE, Metrics
from app.web.access import Access
from app.web.problems import PROBLEM
from app.web.services import service
from app.web.strict import ADMIN_PROBLEMS, StrictBlueprint

blp = StrictBlueprint("metrics", __name__, description="What the server counts", access=Access.ADMIN, errors=PROBLEM)


@blp.get("/metrics")
@blp.response(200, {"type": "string"}, content_type="text/plain", description="Text format 0.0.4, over all workers")
@blp.problems(*ADMIN_PROBLEMS)
def metrics() -> Response:
    """Show what Prometheus collects

    Needs an admin token; in open mode a loopback caller.
    """
    return Response(service(Metrics).render(), content_type=MEDIA_TYPE)
