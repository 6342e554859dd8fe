"""The playground: a chat with all that a request can hold, beside it what is sent and what it costs."""

from __future__ import annotations

from typing import Any

from app.characters.characters import Characters
from app.config import Config
from app.ledger.accounts import Principal
from app.models import IMAGE_DATA_MAX_LENGTH, IMAGES_MAX
from app.services.exchange import Exchange
from app.upstreams.fleet import Fleet
from app.web.access import Access, principal
from app.web.console.pages import PAGE, page
from app.web.flask_app import Response
from app.web.services import service
from app.web.strict import StrictBlueprint
from blueprints.characters import owner
from schemas.playground import PlaygroundQuerySchema

blp = StrictBlueprint(
    "console_playground", __name__, url_prefix="/console/playground", access=Access.CLIENT, errors=PAGE
)
CHARACTERS_SHOWN = 500
MODELS_SHOWN = 200


@blp.get("")
@blp.arguments(PlaygroundQuerySchema, location="query")
def playground(query: dict[str, str]) -> Response:
    """The page; the rest is done by its scripts, with the API's own routes."""
    config, caller = service(Config), principal()
    known, is_cut = _characters(query["character"])
    catalog = service(Fleet).catalog
    may_be_free = caller.account is None or caller.account.free_mode
    return page(
        "playground.html",
        session=query["session"],
        character=query["character"],
        characters=known,
        characters_are_cut=is_cut,
        models=_models(caller, [config.default_model, *catalog.models]),
        defaults=_defaults(config),
        upstreams=list(catalog.upstreams) if catalog.is_listed else [],
        remembers=config.sessions,
        free=may_be_free and service(Exchange).keys.has_server_key,
        may_be_free=may_be_free,
        data=_data(config),
    )


def _defaults(config: Config) -> dict[str, Any]:
    """What a request has where it says nothing, for the fields to show."""
    return {
        "model": config.default_model,
        "temperature": config.default_temperature,
        "max_tokens": config.default_max_tokens,
        "max_context_tokens": config.default_max_context_tokens,
    }


def _data(config: Config) -> dict[str, Any]:
    """What the scripts have to know."""
    return {
        "needsToken": config.token_required,
        "userName": config.prompt_user_name,
        "imagesMax": IMAGES_MAX,
        "imageMaxLength": IMAGE_DATA_MAX_LENGTH,
    }


def _characters(chosen: str) -> tuple[list[str], bool]:
    """The names of those that may speak, the chosen one among them, and whether there are more."""
    found, cursor = service(Characters).page(owner(), limit=CHARACTERS_SHOWN)
    names = [one["name"] for one in found]
    return ([chosen] if chosen and chosen not in names else []) + names, cursor is not None


def _models(caller: Principal, known: list[str]) -> list[str]:
    """The models that the settings and the client's own limits name, and that it may use; no upstream is asked."""
    account = caller.account
    named = account.models.split(",") if account is not None and account.models else []
    allowed = [name for name in dict.fromkeys(known + named) if account is None or account.allows_model(name)]
    return [name for name in allowed if not set("*?[") & set(name)][:MODELS_SHOWN]
