"""The routes of sessions: a caller's own conversations, which requests with `remember` have kept."""

from __future__ import annotations

from typing import Any

from app.services.interrupting import Interrupting, Interruption
from app.services.remembering import Remembering
from app.sessions.changes import SessionChanges
from app.sessions.lines import read_lines
from app.sessions.stored import StoredSessions
from app.web.access import Access, principal
from app.web.flask_app import Response
from app.web.lines import documented, lines_answer, lines_body
from app.web.problems import PROBLEM
from app.web.services import service
from app.web.strict import StrictBlueprint
from schemas.interruption import InterruptionSchema, InterruptSchema
from schemas.sessions import (
    EXPORTED,
    NAME_PARAMETER,
    NEW_NAME_PARAMETER,
    SessionChangeSchema,
    SessionQuerySchema,
    SessionSchema,
    SessionsQuerySchema,
    SessionsSchema,
    SessionWithTurnsSchema,
    SummaryRequestSchema,
    SummarySchema,
)

blp = StrictBlueprint(
    "sessions",
    __name__,
    url_prefix="/api/v1/sessions",
    description="Conversations that are kept",
    access=Access.CLIENT,
    errors=PROBLEM,
)

PROBLEMS = ("validation_error", "unauthorized", "store_unavailable", "internal_error")
PROBLEMS_OF_ONE = (*PROBLEMS, "session_not_found", "session_unreadable")
PROBLEMS_OF_A_BODY = ("invalid_json", "unsupported_media_type", "request_too_large", "server_busy")


@blp.get("")
@blp.arguments(SessionsQuerySchema, location="query")
@blp.response(200, SessionsSchema)
@blp.problems(*PROBLEMS)
def sessions(query: dict[str, Any]) -> dict[str, Any]:
    """List the caller's sessions

    That of the last turn first.
    """
    page, next_cursor = service(StoredSessions).page(owner(), **query)
    return {"sessions": page, "next_cursor": next_cursor}


@blp.get("/<session_id>", parameters=[NAME_PARAMETER])
@blp.arguments(SessionQuerySchema, location="query")
@blp.response(200, SessionWithTurnsSchema)
@blp.problems(*PROBLEMS_OF_ONE, "session_unreadable")
def session(query: dict[str, Any], session_id: str) -> dict[str, Any]:
    """Show a session with its turns

    Its summary, its bill, and a page of its turns.
    """
    newest_first = query.pop("order") == "newest"
    return service(StoredSessions).show(owner(), session_id, newest_first=newest_first, **query)


@blp.patch("/<session_id>", parameters=[NAME_PARAMETER])
@blp.arguments(SessionChangeSchema, example={"title": "About Seoul", "metadata": {"place": "Seoul"}})
@blp.response(200, SessionSchema)
@blp.problems(*PROBLEMS_OF_ONE, "session_unreadable", *PROBLEMS_OF_A_BODY)
def change(given: dict[str, Any], session_id: str) -> dict[str, Any]:
    """Change a session's title and metadata

    What is not given stays.
    """
    return service(SessionChanges).change(owner(), session_id, **given)


@blp.delete("/<session_id>", parameters=[NAME_PARAMETER])
@blp.response(204)
@blp.problems(*PROBLEMS_OF_ONE)
def delete(session_id: str) -> Response:
    """Delete a session

    With all its turns; of a turn that goes on nothing is kept. Its rows in the ledger stay.
    """
    service(SessionChanges).delete(owner(), session_id)
    return Response(status=204)


@blp.get("/<session_id>/export", parameters=[NAME_PARAMETER])
@blp.doc(responses={"200": {"description": "A header, then a line for each turn", "content": documented(EXPORTED)}})
@blp.problems(*PROBLEMS_OF_ONE, "session_unreadable")
def export(session_id: str) -> Response:
    """Export a session as JSON Lines

    A header line and one line for each turn.
    """
    return lines_answer(service(StoredSessions).export(owner(), session_id))


@blp.post("/<session_id>/import", parameters=[NEW_NAME_PARAMETER])
@blp.doc(requestBody={"content": documented(EXPORTED), "required": True})
@blp.response(201, SessionSchema)
@blp.problems(*PROBLEMS, *PROBLEMS_OF_A_BODY, "session_exists", "session_busy")
def take_in(session_id: str) -> dict[str, Any]:
    """Make a session of an exported one

    Under a name that no session has yet.
    """
    whose = owner()
    return service(SessionChanges).take_in(whose, session_id, read_lines(lines_body()))


@blp.put("/<session_id>/summary", parameters=[NAME_PARAMETER])
@blp.arguments(SummaryRequestSchema, example={"text": "The user asked for the capital of France.", "covers": 1})
@blp.response(200, SummarySchema)
@blp.problems(*PROBLEMS_OF_ONE, *PROBLEMS_OF_A_BODY)
def summarise(given: dict[str, Any], session_id: str) -> dict[str, Any] | None:
    """Replace a session's summary

    It is sent in the place of the turns that it covers, which stay.
    """
    return service(SessionChanges).summarise(owner(), session_id, **given)


@blp.delete("/<session_id>/summary", parameters=[NAME_PARAMETER])
@blp.response(204)
@blp.problems(*PROBLEMS_OF_ONE)
def forget_summary(session_id: str) -> Response:
    """Delete a session's summary

    The turns that it covered may be sent again.
    """
    service(SessionChanges).forget_summary(owner(), session_id)
    return Response(status=204)


@blp.post("/<session_id>/interrupt", parameters=[NAME_PARAMETER])
@blp.arguments(InterruptSchema, example={"heard_characters": 10})
@blp.response(200, InterruptionSchema)
@blp.problems(*PROBLEMS_OF_ONE, "turn_not_found", "session_unreadable", *PROBLEMS_OF_A_BODY, "session_busy")
def interrupt(body: dict[str, Any], session_id: str) -> Interruption:
    """Cut the answer that is being given, or trim the last one

    What was never heard is not remembered. A running call to the upstream is closed, and what it has used is billed.
    """
    return service(Interrupting).interrupt(principal(), session_id, body["heard_characters"], body["request_id"])


def owner() -> int:
    """Whose sessions the caller sees; raises ValidationException where sessions are off."""
    return service(Remembering).owner(principal())
