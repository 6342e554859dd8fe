"""Liveness, readiness, and the API's root."""

from __future__ import annotations

from app.process.readiness import Readiness
from app.version import __version__
from app.web.access import Access
from app.web.problems import PROBLEM
from app.web.services import service
from app.web.strict import StrictBlueprint
from schemas.health import HealthSchema, RootSchema

blp = StrictBlueprint("health", __name__, description="Probes", access=Access.PUBLIC, errors=PROBLEM)


@blp.get("/livez")
@blp.response(200, HealthSchema)
def livez() -> dict[str, str]:
    """Tell that the process answers

    Touches no dependency: an orchestrator that restarts the server cannot mend upstream.
    """
    return {"status": "ok"}


@blp.get("/readyz")
@blp.response(200, HealthSchema)
@blp.problems("not_ready", "server_shutting_down")
def readyz() -> dict[str, str]:
    """Tell whether requests should be sent here

    Not while the server drains before a stop, nor before the local model, if one is used, has loaded.
    """
    service(Readiness).check()
    return {"status": "ok"}


@blp.get("/health")
@blp.response(200, HealthSchema)
@blp.problems("not_ready", "server_shutting_down")
def health() -> dict[str, str]:
    """Tell the same as /readyz

    At the address where many look first. No redirect: some probes take one for a good answer.
    """
    service(Readiness).check()
    return {"status": "ok"}


@blp.get("/api/v1/", strict_slashes=False)
@blp.response(200, RootSchema)
def root() -> dict[str, str]:
    """Tell the name and version of the server"""
    return {"message": "LLM Server API", "status": "running", "version": __version__}
