"""The routes of clients: the applications that may call, their limits and their tokens."""

from __future__ import annotations

from typing import Any

from app.errors import ChatServiceException
from app.ledger.accounts import Account, Accounts, Limits
from app.ledger.client_limits import describe, read_limits
from app.units import MICROSECONDS, iso
from app.web.access import Access
from app.web.flask_app import Response
from app.web.problems import PROBLEM
from app.web.services import service
from app.web.strict import ADMIN_PROBLEMS, StrictBlueprint
from schemas.clients import (
    NAME_PARAMETER,
    ClientSchema,
    ClientsSchema,
    ClientWithTokenSchema,
    LimitsSchema,
    NewClientSchema,
)
from schemas.fields import NothingSchema

blp = StrictBlueprint(
    "clients",
    __name__,
    url_prefix="/api/v1/clients",
    description="The applications that may call",
    access=Access.OPERATOR,
    errors=PROBLEM,
)
PROBLEMS_OF_ONE = (*ADMIN_PROBLEMS, "not_found")
PROBLEMS_OF_A_BODY = ("validation_error", "invalid_json", "unsupported_media_type", "request_too_large")


@blp.get("")
@blp.response(200, ClientsSchema)
@blp.problems(*ADMIN_PROBLEMS)
def clients() -> dict[str, Any]:
    """List the clients

    Each with its limits, its state, and what its budget has spent in the present period.
    """
    return {"clients": _told(service(Accounts).all())}


@blp.post("")
@blp.arguments(NewClientSchema, example={"name": "web", "rpm": 60, "budget_usd": "5/day", "models": ["gpt-4o*"]})
@blp.response(201, ClientWithTokenSchema)
@blp.problems(*ADMIN_PROBLEMS, *PROBLEMS_OF_A_BODY)
def add(given: dict[str, Any]) -> dict[str, Any]:
    """Make a client

    Its token is told this once.
    """
    name = given.pop("name")
    return _with_token(name, service(Accounts).add(name, Limits(**_limits(given))))


@blp.get("/<name>", parameters=[NAME_PARAMETER])
@blp.response(200, ClientSchema)
@blp.problems(*PROBLEMS_OF_ONE)
def client(name: str) -> dict[str, Any]:
    """Show a client"""
    return _told([_found(name)])[0]


@blp.patch("/<name>", parameters=[NAME_PARAMETER])
@blp.arguments(LimitsSchema, example={"rpm": 120, "models": None})
@blp.response(200, ClientSchema)
@blp.problems(*PROBLEMS_OF_ONE, *PROBLEMS_OF_A_BODY)
def change(given: dict[str, Any], name: str) -> dict[str, Any]:
    """Change a client's limits

    What is not given stays, and null takes a limit away. Its token stays as well.
    """
    if _found(name) and given:
        service(Accounts).change(name, **_limits(given))
    return _told([_found(name)])[0]


@blp.post("/<name>/rotate", parameters=[NAME_PARAMETER])
@blp.arguments(NothingSchema, example={})
@blp.response(200, ClientWithTokenSchema)
@blp.problems(*PROBLEMS_OF_ONE, *PROBLEMS_OF_A_BODY)
def rotate(given: dict[str, Any], name: str) -> dict[str, Any]:
    """Give a client a new token

    The old one ends now. The new one is told this once.
    """
    return _with_token(name, service(Accounts).rotate(_found(name).name))


@blp.post("/<name>/revoke", parameters=[NAME_PARAMETER])
@blp.arguments(NothingSchema, example={})
@blp.response(200, ClientSchema)
@blp.problems(*PROBLEMS_OF_ONE, *PROBLEMS_OF_A_BODY)
def revoke(given: dict[str, Any], name: str) -> dict[str, Any]:
    """End a client's token

    The client and its ledger stay; a new token opens it again. An admin may end its own.
    """
    service(Accounts).revoke(_found(name).name)
    return _told([_found(name)])[0]


@blp.delete("/<name>", parameters=[NAME_PARAMETER])
@blp.response(204)
@blp.problems(*PROBLEMS_OF_ONE)
def delete(name: str) -> Response:
    """Delete a client

    With its sessions; its rows in the ledger keep its name.
    """
    service(Accounts).delete(_found(name).name)
    return Response(status=204)


def _found(name: str) -> Account:
    """The client of a name; raises 404 where there is none."""
    found = service(Accounts).find(name)
    if found is None:
        raise ChatServiceException("There is no such client", "not_found")
    return found


def _limits(given: dict[str, Any]) -> dict[str, Any]:
    if given.get("expires_at"):
        given["expires_at"] = int(given["expires_at"].timestamp() * MICROSECONDS)
    return read_limits(given)


def _with_token(name: str, token: str) -> dict[str, Any]:
    return _told([_found(name)])[0] | {"token": token}


def _told(found: list[Account]) -> list[dict[str, Any]]:
    moments = ("created_at", "expires_at", "renews_at")
    return [
        one | {name: iso(one[name]) if one[name] is not None else None for name in moments}
        for one in describe(service(Accounts), found)
    ]
