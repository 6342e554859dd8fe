"""The routes of characters: whom the model plays, kept by the server and named in a chat request."""

from __future__ import annotations

from typing import Any

from app.characters.cards import written_card
from app.characters.character import Character, parse_reference
from app.characters.characters import EVERYBODYS, Characters, not_found
from app.characters.files import FILE_MAX_BYTES, Kind, read_file, too_large
from app.characters.rules import document_of, read_name
from app.errors import ChatServiceException
from app.units import iso
from app.web.access import Access, principal
from app.web.bodies import require_json, require_known_coding, whole_body
from app.web.flask_app import Response
from app.web.middleware import this_request
from app.web.problems import PROBLEM
from app.web.services import service
from app.web.strict import StrictBlueprint
from schemas.characters import (
    NAME_PARAMETER,
    CardSchema,
    CharacterBodySchema,
    CharacterSchema,
    CharactersSchema,
    CharacterVersionsSchema,
    PageQuerySchema,
    SharedQuerySchema,
    VersionQuerySchema,
    VersionsQuerySchema,
)

blp = StrictBlueprint(
    "characters",
    __name__,
    url_prefix="/api/v1/characters",
    description="Whom the model plays",
    access=Access.CLIENT,
    errors=PROBLEM,
)
PROBLEMS = ("validation_error", "unauthorized", "store_unavailable", "internal_error")
PUT_PROBLEMS = ("invalid_json", "unsupported_media_type", "request_too_large", "forbidden", *PROBLEMS)
PICTURE = "image/png"
TRY = {
    "description": "Mina keeps an inn at the foot of the northern mountain.",
    "speech_style": "Warm and brief.",
    "first_message": "Welcome! A cup of tea?",
    "examples": [{"role": "user", "content": "Hello?"}, {"role": "assistant", "content": "Come in, {{user}}!"}],
    "lore": [{"keywords": ["dragon"], "text": "A dragon lives in the northern mountain."}],
}
BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "application/json": {"schema": CharacterBodySchema, "example": TRY},
        PICTURE: {"schema": {"type": "string", "format": "binary", "description": "A picture that carries a card."}},
    },
}


@blp.get("")
@blp.arguments(PageQuerySchema, location="query")
@blp.response(200, CharactersSchema)
@blp.problems(*PROBLEMS)
def page(query: dict[str, Any]) -> dict[str, Any]:
    """List the characters

    A client's own and everybody's; its own of a name hides everybody's.
    """
    listed, cursor = service(Characters).page(
        owner(), after=query.get("cursor"), limit=query["limit"], search=query["search"]
    )
    return {"characters": [_dated(one) for one in listed], "next_cursor": cursor}


@blp.put("/<name>", parameters=[NAME_PARAMETER])
@blp.arguments(SharedQuerySchema, location="query")
@blp.doc(requestBody=BODY)
@blp.response(200, CharacterSchema)
@blp.problems(*PUT_PROBLEMS)
def put(query: dict[str, Any], name: str) -> dict[str, Any]:
    """Put a character

    As a new version, unless nothing changes. The body may also be a character card, "chara_card_v2" or
    "chara_card_v3", as JSON or in a PNG.
    """
    character, left_out = read_file(*_body(), read_name(name))
    kept = service(Characters).put(character, _writable_owner(character.shared or query.get("shared") == "true"))
    return _told(kept) | ({"left_out": left_out} if left_out else {})


@blp.get("/<name>", parameters=[NAME_PARAMETER])
@blp.arguments(VersionQuerySchema, location="query")
@blp.response(200, CharacterSchema)
@blp.problems("character_not_found", *PROBLEMS)
def show(query: dict[str, Any], name: str) -> dict[str, Any]:
    """Show a character

    In its newest version, or in the one that is asked for.
    """
    return _told(found(name, query))


@blp.get("/<name>/versions", parameters=[NAME_PARAMETER])
@blp.arguments(VersionsQuerySchema, location="query")
@blp.response(200, CharacterVersionsSchema)
@blp.problems("character_not_found", *PROBLEMS)
def versions(query: dict[str, Any], name: str) -> dict[str, Any]:
    """List a character's versions

    The newest first. `version` of the other routes shows one.
    """
    listed, cursor = service(Characters).versions(
        sought(name), owner(query), before=query.get("cursor"), limit=query["limit"]
    )
    return {"versions": [_dated(one) for one in listed], "next_cursor": cursor}


@blp.get("/<name>/card", parameters=[NAME_PARAMETER])
@blp.arguments(VersionQuerySchema, location="query")
@blp.response(200, CardSchema)
@blp.problems("character_not_found", *PROBLEMS)
def card(query: dict[str, Any], name: str) -> dict[str, Any]:
    """Give a character as a card

    In the form "chara_card_v2", which other programs read.
    """
    return written_card(found(name, query))


@blp.delete("/<name>", parameters=[NAME_PARAMETER])
@blp.arguments(SharedQuerySchema, location="query")
@blp.response(204)
@blp.problems("character_not_found", "forbidden", *PROBLEMS)
def delete(query: dict[str, Any], name: str) -> Response:
    """Delete a character

    With all its versions. A new one of the name goes on counting.
    """
    service(Characters).delete(sought(name), _writable_owner(query.get("shared") == "true"))
    return Response(status=204)


def owner(query: dict[str, Any] | None = None) -> int:
    """Whose characters the caller sees beside everybody's; only these where a query says `shared`."""
    account = principal().account
    return EVERYBODYS if account is None or (query or {}).get("shared") == "true" else account.id


def _writable_owner(shared: bool) -> int:
    """Whose character is changed; raises 403 unless an admin changes what is everybody's."""
    account = principal().account
    if account is not None and shared and not account.admin:
        raise ChatServiceException("Only an admin may change what everybody sees (`shared`)", "forbidden")
    return EVERYBODYS if shared else owner()


def sought(name: str) -> str:
    """The name in the form in which it is kept; one that no character can have is not found."""
    parsed = parse_reference(name)
    if parsed is None or parsed[1] is not None:
        raise not_found()
    return parsed[0]


def found(name: str, query: dict[str, Any]) -> Character:
    """The character that a path and a query name; raises 404 `character_not_found`."""
    return service(Characters).show(sought(name), owner(query), version=query.get("version"))


def _dated(one: dict[str, Any]) -> dict[str, Any]:
    return one | {"created_at": iso(one["created_at"])}


def _told(character: Character) -> dict[str, Any]:
    known = {"name": character.name, "version": character.version, "shared": character.shared}
    return known | {"created_at": iso(character.created_at)} | document_of(character)


def _body() -> tuple[bytes, Kind]:
    """The body and what it is; a picture that is too large is not read."""
    asked = this_request()
    is_picture = asked.mimetype == PICTURE
    (require_known_coding if is_picture else require_json)(asked)
    if (asked.content_length or 0) > FILE_MAX_BYTES:
        raise too_large()
    return whole_body(asked, is_json=not is_picture), "png" if is_picture else "json"
