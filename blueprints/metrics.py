"""The route that Prometheus reads. Who may is decided in app/access.py."""

from __future__ import annotations

from flask import Response, current_app

from app.process.metrics import MEDIA_TYPE
from app.web.strict import StrictBlueprint

blp = StrictBlueprint("metrics", __name__, description="What the server counts")


@blp.get("/metrics")
@blp.response(200, {"type": "string"}, content_type="text/plain", description="Text format 0.0.4, over all workers")
@blp.problems("unauthorized", "forbidden", "system_routes_private", "store_unavailable", "internal_error")
def metrics() -> Response:
    """Show what Prometheus collects

    Needs an admin token; in open mode a loopback caller.
    """
    return Response(current_app.extensions["metrics"].render(), content_type=MEDIA_TYPE)
