"""The routes of sessions."""

from __future__ import annotations

from typing import Any

from app.services.interrupting import Interrupting, Interruption
from app.web.access import Access, principal
from app.web.problems import PROBLEM
from app.web.services import service
from app.web.strict import StrictBlueprint
from schemas.interruption import InterruptionSchema, InterruptSchema

blp = StrictBlueprint(
    "sessions",
    __name__,
    url_prefix="/api/v1/sessions",
    description="Stored conversations",
    access=Access.CLIENT,
    errors=PROBLEM,
)


TRY = {"heard_characters": 42}
"""What the documentation's page offers to send."""


@blp.post("/<session_id>/interrupt")
@blp.arguments(InterruptSchema, example=TRY)
@blp.response(200, InterruptionSchema)
@blp.problems(
    "invalid_json",
    "validation_error",
    "unsupported_media_type",
    "request_too_large",
    "unauthorized",
    "session_not_found",
    "session_busy",
    "store_unavailable",
    "internal_error",
)
def interrupt(body: dict[str, Any], session_id: str) -> Interruption:
    """Cut the answer that is being given, or trim the last one

    What was never heard is not remembered. A running call to the upstream is closed, and what it has used is billed.
    """
    return service(Interrupting).interrupt(principal(), session_id, body["heard_characters"])
