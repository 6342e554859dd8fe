"""The AI notice, for whoever shows answers to people."""

from __future__ import annotations

from app.services.notice import Notice, Notices
from app.web.access import Access
from app.web.problems import PROBLEM, prefers_english
from app.web.services import service
from app.web.strict import StrictBlueprint
from schemas.notice import NoticeSchema

blp = StrictBlueprint(
    "notice", __name__, url_prefix="/api/v1", description="AI notice", access=Access.PUBLIC, errors=PROBLEM
)


@blp.get("/notice")
@blp.response(200, NoticeSchema)
def notice() -> Notice:
    """Tell what to show to people: that a model writes the answers

    In Korean, or in English where `Accept-Language` prefers it.
    """
    return service(Notices).get(in_english=prefers_english())
