"""The pages of usage: plots, sums and the newest requests of a period, and the life of one request."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from app.errors import ChatServiceException
from app.failures import FAILURES
from app.ledger.accounts import Accounts
from app.ledger.reports import Period, UsageReports
from app.services.request_life import timeline
from app.units import MICROSECONDS, iso
from app.upstreams.fleet import Fleet
from app.web.access import Access, principal
from app.web.console.pages import PAGE, page
from app.web.csv_text import csv_text
from app.web.flask_app import Response
from app.web.services import service
from app.web.strict import StrictBlueprint
from blueprints.usage import visible_client
from schemas.browsing import USAGE_PERIODS, BrowseUsageSchema

blp = StrictBlueprint("console_usage", __name__, url_prefix="/console", access=Access.CLIENT, errors=PAGE)
SPANS = dict(zip(USAGE_PERIODS, (3600, 86_400, 7 * 86_400, 30 * 86_400), strict=True))
ROWS_PER_PAGE = 25
SUMS_MAX = 100
CSV_MAX = 5000
FILTERS = ("client", "model", "upstream", "session", "user")
COLUMNS = ("key", "requests", "failed", "input_tokens", "output_tokens", "cost_usd", "p50_ms", "p95_ms")
TOLD = ("requests", "ok", "failed", "input_tokens", "cached_tokens", "output_tokens", "cost_usd")
BYTE_ORDER_MARK = "\ufeff"
"""By which spreadsheets know UTF-8."""


@blp.get("/usage")
@blp.arguments(BrowseUsageSchema, location="query")
def usage(query: dict[str, Any]) -> Response:
    """The plots are drawn in the browser, from the same route of the API that programs use."""
    period, client_id = _period(query), visible_client(query["client"])
    reports, is_own = service(UsageReports), _is_own()
    rows, older = reports.rows(period, client_id, cursor=query["cursor"], limit=ROWS_PER_PAGE)
    return page(
        "usage.html",
        totals=reports.totals(query["by"], period, client_id, sort=query["sort"], users_max=SUMS_MAX),
        rows=rows,
        older=older,
        query=query,
        given=[name for name in FILTERS if query[name]],
        link=_linker(query),
        plotted=_asked_of_the_api(query, period),
        clients=[] if is_own else [client.name for client in service(Accounts).all()],
        upstreams=list(service(Fleet).upstreams) if service(Fleet).catalog.is_listed else [],
        is_own=is_own,
        periods=USAGE_PERIODS,
        columns=COLUMNS,
        sums_max=SUMS_MAX,
        csv_max=CSV_MAX,
    )


@blp.get("/usage.csv")
@blp.arguments(BrowseUsageSchema, location="query")
def table(query: dict[str, Any]) -> Response:
    """The sums as a table for spreadsheets."""
    by, limits = query["by"], {"sort": query["sort"], "users_max": CSV_MAX}
    rows = service(UsageReports).totals(by, _period(query), visible_client(query["client"]), **limits)
    names = ("key", *TOLD, "requests_of_unknown_cost", "p50_ms", "p95_ms")
    answer = Response(BYTE_ORDER_MARK + csv_text(names, rows), mimetype="text/csv")
    answer.headers["Content-Disposition"] = f'attachment; filename="usage-by-{by}.csv"'
    return answer


@blp.get("/usage/<request_id>")
def one_request(request_id: str) -> Response:
    """Where its time went, who was asked, and what it cost; never a prompt."""
    row = service(UsageReports).one(request_id, visible_client(None))
    if row is None:
        raise ChatServiceException("There is no such request", "not_found")
    return page("request.html", row=row, steps=timeline(row), failures=FAILURES, is_own=_is_own())


def _is_own() -> bool:
    """Whether the caller sees its own requests only."""
    account = principal().account
    return account is not None and not account.admin


def _period(query: dict[str, Any]) -> Period:
    """What is asked for: days of UTC, else so long until now."""
    days = query["since"] or query["until"]
    since = query["since"] if days else datetime.now(UTC) - timedelta(seconds=SPANS[query["period"]])
    until = query["until"] + timedelta(days=1) if query["until"] and query["until"] < date.max else None
    names = ("model", "upstream", "session", "user")
    return Period(since=_moment(since), until=_moment(until), **{name: query[name] for name in names})


def _moment(given: date | None) -> int | None:
    """When a day of UTC begins, or a moment; microseconds since 1970."""
    if given is None:
        return None
    begun = given if isinstance(given, datetime) else datetime(given.year, given.month, given.day, tzinfo=UTC)
    return int(begun.timestamp() * MICROSECONDS)


def _linker(query: dict[str, Any]) -> Callable[..., str]:
    """Gives the query of this page with some of it changed, from the first page of rows on; None is left out."""

    def link(**changes: Any) -> str:
        wanted = query | {"cursor": None} | changes
        return "?" + urlencode({name: str(value) for name, value in wanted.items() if value is not None})

    return link


def _asked_of_the_api(query: dict[str, Any], period: Period) -> str:
    """The query of `/api/v1/usage/series` for the plots."""
    names = {"session": "session_id"}
    asked = {names.get(name, name): query[name] for name in FILTERS}
    moments = {name: None if at is None else iso(at) for name, at in (("since", period.since), ("until", period.until))}
    return urlencode({name: value for name, value in (moments | asked).items() if value is not None})
