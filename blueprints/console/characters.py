"""The pages of characters: a list that takes cards, and one of them to change, with its versions."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from app.characters.character import NAME_FORM, NAME_MAX_LENGTH, NAME_PATTERN, Character, parse_reference
from app.characters.characters import Characters
from app.characters.rules import document_of
from app.units import iso
from app.web.access import Access, principal
from app.web.console.pages import PAGE, page
from app.web.flask_app import Response
from app.web.middleware import this_request
from app.web.services import service
from app.web.strict import StrictBlueprint
from blueprints.characters import found, owner, sought
from schemas.browsing import BrowseCharacterSchema, BrowseCharactersSchema

blp = StrictBlueprint(
    "console_characters", __name__, url_prefix="/console/characters", access=Access.CLIENT, errors=PAGE
)
NAME_FORM_KO = (
    f"모든 문자의 글자나 숫자, `-`, `_`, `.`, 공백으로 1~{NAME_MAX_LENGTH}자여야 하며, "
    "글자, 숫자, `_`로 시작하고 공백으로 끝나지 않아야 합니다"
)
NEW = "new"
"""The address of the form for a new one. A character of this name is shown where a version of it is asked for."""


@blp.get("")
@blp.arguments(BrowseCharactersSchema, location="query")
def characters(query: dict[str, Any]) -> Response:
    """Those that the caller sees, by name, a page at a time."""
    listed, next_cursor = service(Characters).page_of_whole(owner(), after=query["cursor"], search=query["search"])
    return page("characters.html", characters=listed, next_cursor=next_cursor, **_around(), **query)


@blp.get("/<name>")
@blp.arguments(BrowseCharacterSchema, location="query")
def character(query: dict[str, Any], name: str) -> Response:
    """One of them in its newest or another version; or the form for a new one."""
    if name == NEW and not this_request().args:
        blank = Character(name="")
        return page("character.html", character=blank, document={}, is_new=True, asked_shared=False, **_around())
    shown = found(name, query)
    versions, older = service(Characters).versions(
        sought(name), owner(query), before=query.get("cursor"), limit=query["limit"]
    )
    newest = shown.version if query["version"] is None else found(name, query | {"version": None}).version
    return page(
        "character.html",
        character=shown,
        document=document_of(shown),
        newest=newest,
        versions=versions,
        older=older,
        is_new=False,
        asked_shared=query.get("shared") == "true",
        **_around(),
    )


def path_of(reference: str) -> str:
    """The address of who is named as `mina` or `mina@3`; empty for what is no character's name."""
    parsed = parse_reference(reference)
    if parsed is None:
        return ""
    name, version = parsed
    return f"console/characters/{quote(name)}" + ("" if version is None else f"?version={version}")


def _around() -> dict[str, Any]:
    """Whether the caller's characters differ from everybody's, which of them it may change, and what names may be."""
    account = principal().account
    return {
        "has_own": account is not None,
        "may_share": account is None or account.admin,
        "path_of": path_of,
        "iso": iso,
        "name_pattern": NAME_PATTERN,
        "name_form": (NAME_FORM, NAME_FORM_KO),
    }
