"""The pages of sessions: the caller's conversations, and one of them with its summary, its bill and its turns."""

from __future__ import annotations

from typing import Any

from app.config import Config
from app.errors import ChatServiceException
from app.sessions.stored import Described, StoredSessions
from app.web.access import Access
from app.web.console.pages import PAGE, page
from app.web.flask_app import Response
from app.web.services import service
from app.web.strict import StrictBlueprint
from blueprints.console.characters import path_of
from blueprints.sessions import owner
from schemas.browsing import BrowseSessionsSchema, BrowseTurnsSchema

blp = StrictBlueprint("console_sessions", __name__, url_prefix="/console/sessions", access=Access.CLIENT, errors=PAGE)
SESSIONS_PER_PAGE = 50
TURNS_PER_PAGE = 20


@blp.get("")
@blp.arguments(BrowseSessionsSchema, location="query")
def sessions(query: dict[str, Any]) -> Response:
    """That of the last turn first; the one whose id is what was searched for before all."""
    if not service(Config).sessions:
        return page("sessions.html", are_on=False)
    listed, next_cursor = service(StoredSessions).page(owner(), limit=SESSIONS_PER_PAGE, **query)
    if query["search"] and query["cursor"] is None:
        exact = _known(query["search"])
        listed = exact + [one for one in listed if one not in exact]
    return page("sessions.html", are_on=True, sessions=listed, next_cursor=next_cursor, path_of=path_of, **query)


@blp.get("/<session_id>")
@blp.arguments(BrowseTurnsSchema, location="query")
def session(query: dict[str, Any], session_id: str) -> Response:
    """A page of its turns, in the order in which they were said, and what stands around them."""
    newest_first = query["order"] == "newest"
    whose, stored = owner(), service(StoredSessions)
    try:
        told = stored.show(whose, session_id, cursor=query["cursor"], limit=TURNS_PER_PAGE, newest_first=newest_first)
    except ChatServiceException as exc:
        if exc.error_code != "session_unreadable":
            raise
        return page("session.html", session=stored.known(whose, session_id), is_readable=False, path_of=path_of)
    if newest_first:
        told["turns"].reverse()
    return page("session.html", session=told, is_readable=True, path_of=path_of, **query)


def _known(session_id: str) -> list[Described]:
    try:
        return [service(StoredSessions).known(owner(), session_id)]
    except ChatServiceException as exc:
        if exc.error_code != "session_not_found":
            raise
        return []
