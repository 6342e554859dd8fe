"""The application factory: the only place where the parts are joined.

Imports happen inside it. gunicorn's master reads settings from this package before it forks, and must not load what a
gevent worker still has to patch; and the blueprints need this package while it needs them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask

    from app.config import Config

__version__ = "0.1.0"


def create_app(config: Config | None = None) -> Flask:
    """Build the WSGI application from `config` (default: from the environment)."""
    from flask import Flask
    from flask_cors import CORS

    from app.api import ServerApi
    from app.clients.local_model import LocalModelProbe
    from app.clients.openai_client import OpenAIClient
    from app.config import Config
    from app.handlers import register_error_handlers
    from app.middleware import register_middleware
    from app.services.cache import NullCache, ResponseCache
    from app.services.chat import ChatService
    from app.services.door import Door
    from app.services.readiness import Readiness
    from blueprints import chat, docs, health, openai_door, system

    config = config or Config.from_env()
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = config.max_request_bytes
    app.json.ensure_ascii = False  # type: ignore[attr-defined]
    app.json.sort_keys = False  # type: ignore[attr-defined]

    client = OpenAIClient(config)
    cache = ResponseCache(config.cache_max_size, config.cache_ttl) if config.cache_enabled else NullCache()
    needed = [LocalModelProbe(config.openai_base_url)] if config.local_model else []
    app.extensions["config"] = config
    app.extensions["openai_client"] = client
    app.extensions["door"] = Door(client, free_mode=config.openai_door_free_mode, local=bool(config.local_model))
    app.extensions["chat_service"] = ChatService(client, config, cache)
    app.extensions["readiness"] = Readiness(*needed)

    register_middleware(app, config)
    register_error_handlers(app)
    if config.cors_origins:
        CORS(app, origins=list(config.cors_origins), expose_headers=["X-Request-ID", "Retry-After", "X-Cache"])

    api = ServerApi(app)
    for blueprint in (chat.blp, openai_door.blp, system.blp, health.blp):
        api.register_blueprint(blueprint)
    app.register_blueprint(docs.blp)
    return app
