"""The usage routes: who spent what."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from app.errors import ChatServiceException
from app.ledger.accounts import Accounts
from app.ledger.reports import Period, UsageReports
from app.units import MICROSECONDS
from app.web.access import Access, principal
from app.web.problems import PROBLEM
from app.web.services import service
from app.web.strict import StrictBlueprint
from schemas.usage import (
    REQUEST_ID_PARAMETER,
    OneUsageRowSchema,
    SeriesQuerySchema,
    SeriesSchema,
    UsageQuerySchema,
    UsageSchema,
)

blp = StrictBlueprint(
    "usage", __name__, url_prefix="/api/v1/usage", description="Who spent what", access=Access.CLIENT, errors=PROBLEM
)

PROBLEMS = ("unauthorized", "forbidden", "store_unavailable", "internal_error")


@blp.get("")
@blp.arguments(UsageQuerySchema, location="query")
@blp.response(200, UsageSchema)
@blp.problems("validation_error", "not_found", *PROBLEMS)
def report(query: dict[str, Any]) -> dict[str, Any]:
    """Report usage

    A client sees its own; an admin, or anybody in open mode, everybody's or one client's.
    """
    reports, client_id = service(UsageReports), visible_client(query.get("client"))
    period = _period(query)
    by, page = query.get("by"), {"cursor": query.get("cursor"), "limit": query["limit"]}
    sort = query.get("sort")
    if by == "session" and sort is None:
        return _paged("totals", reports.sessions(period, client_id, **page))
    if by is not None:
        return {"totals": reports.totals(by, period, client_id, users_max=query["limit"], sort=sort)}
    return _paged("rows", reports.rows(period, client_id, **page))


@blp.get("/series")
@blp.arguments(SeriesQuerySchema, location="query")
@blp.response(200, SeriesSchema)
@blp.problems("validation_error", "not_found", *PROBLEMS)
def series(query: dict[str, Any]) -> dict[str, Any]:
    """Report usage over time

    In steps without gaps, at most 200; the sums of the steps are those of the ledger.
    """
    client_id, step = visible_client(query.get("client")), query.get("step_seconds")
    return service(UsageReports).series(_period(query), client_id, step_seconds=step)


@blp.get("/requests/<request_id>", parameters=[REQUEST_ID_PARAMETER])
@blp.response(200, OneUsageRowSchema)
@blp.problems("not_found", *PROBLEMS)
def one_request(request_id: str) -> dict[str, Any]:
    """Show one request's row

    Another client's request is not found, exactly as one that never was.
    """
    row = service(UsageReports).one(request_id, visible_client(None))
    if row is None:
        raise ChatServiceException("There is no such request", "not_found")
    return row


def _period(query: dict[str, Any]) -> Period:
    names = {"user": "user", "session_id": "session", "model": "model", "upstream": "upstream"}
    told = {name: query.get(given) for given, name in names.items()}
    return Period(since=_moment(query.get("since")), until=_moment(query.get("until")), **told)


def _paged(name: str, page: tuple[list[dict[str, Any]], int | None]) -> dict[str, Any]:
    return {name: page[0], "next_cursor": page[1]}


def visible_client(name: str | None) -> int | None:
    """Whose rows may be seen: a client's own, or for admins and in open mode anybody's (None)."""
    account = principal().account
    if account is not None and not account.admin:
        if name not in {None, account.name}:
            raise ChatServiceException("Only an admin may ask for another client", "forbidden")
        return account.id
    if name is None:
        return None
    found = service(Accounts).find(name)
    if found is None:
        raise ChatServiceException("There is no such client", "not_found")
    return found.id


def _moment(given: datetime | None) -> int | None:
    return None if given is None else int(given.timestamp() * MICROSECONDS)
