"""The pages of the clients: the applications that may call, what each may do, and what it has spent."""

from __future__ import annotations

from app.errors import ChatServiceException, ValidationException
from app.ledger.accounts import Accounts
from app.ledger.client_limits import describe
from app.web.access import Access
from app.web.console.pages import PAGE, page
from app.web.flask_app import Response
from app.web.services import service
from app.web.strict import StrictBlueprint

blp = StrictBlueprint("console_clients", __name__, url_prefix="/console/clients", access=Access.OPERATOR, errors=PAGE)


@blp.get("")
def clients() -> Response:
    """All of them, and a form for another."""
    accounts = service(Accounts)
    return page("clients.html", clients=describe(accounts, accounts.all()))


@blp.get("/<name>")
def one(name: str) -> Response:
    """One client: its limits, to be changed, and its token, to be replaced or ended."""
    accounts = service(Accounts)
    try:
        found = accounts.show(name)
    except ValidationException as exc:
        raise ChatServiceException("There is no such client", "not_found") from exc
    return page("one_client.html", one=describe(accounts, [found])[0])
