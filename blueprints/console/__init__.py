"""The pages of the console, a module each."""

from __future__ import annotations

from app.web.strict import StrictBlueprint
from blueprints.console import (
    characters,
    clients,
    front,
    login,
    playground,
    sessions,
    static,
    system,
    upstreams,
    usage,
)

PAGES: tuple[StrictBlueprint, ...] = (
    *(front.blp, front.below, login.blp, login.writes, static.blp),
    *(playground.blp, sessions.blp, characters.blp, usage.blp, clients.blp, upstreams.blp, system.blp),
)
