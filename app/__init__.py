"""The application factory: the only place where the parts are joined.

Imports happen inside it. gunicorn's master reads settings from this package before it forks, and must not load what a
gevent worker still has to patch; and the blueprints need this package while it needs them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask

    from app.config import Config

__version__ = "0.1.0"


def create_app(config: Config | None = None) -> Flask:
    """Build the WSGI application from `config` (default: from the environment)."""
    from flask import Flask
    from flask_cors import CORS

    from app.calls.call import Calls
    from app.config import Config
    from app.ledger.accounts import Accounts, digest_key
    from app.ledger.ledger import Ledger
    from app.ledger.pricing import Prices
    from app.ledger.reports import UsageReports
    from app.process.metrics import Metrics
    from app.process.readiness import Readiness
    from app.services.cache import NullCache, ResponseCache
    from app.services.chat import ChatService
    from app.services.passthrough import Door
    from app.store.database import Database
    from app.upstreams.local_model import LocalModelProbe
    from app.upstreams.openai_client import OpenAIClient
    from app.web.access import register_access
    from app.web.api import ServerApi
    from app.web.cli import register_commands
    from app.web.middleware import register_middleware
    from app.web.problems import register_error_handlers
    from blueprints import chat, docs, health, metrics, openai, system, usage

    config = config or Config.from_env()
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = config.max_request_bytes
    app.json.ensure_ascii = False  # type: ignore[attr-defined]
    app.json.sort_keys = False  # type: ignore[attr-defined]
    # No view here is asynchronous; each decorator of flask-smorest would ask again with every request.
    app.ensure_sync = lambda func: func  # type: ignore[method-assign]

    database = Database(config.database_url, timeout_seconds=config.database_timeout)
    secret = digest_key(config)
    accounts = Accounts(database, secret)
    client = OpenAIClient(config)
    measured = Metrics(
        {
            "slots": lambda: client.slots.size,
            "slots_in_use": lambda: client.slots.in_use,
            "ledger_queue": lambda: database.waiting,
            "unrecorded": lambda: ledger.unrecorded,
        }
    )
    ledger = Ledger(
        database,
        accounts,
        Prices(Path(config.prices_file)),
        token_required=config.token_required,
        fail_open=config.ledger_fail_open,
        fingerprint_key=secret,
        booked=measured.booked,
    )
    cache = ResponseCache(config.cache_max_size, config.cache_ttl) if config.cache_enabled else NullCache()
    needed = [LocalModelProbe(config.openai_base_url)] if config.local_model else []
    calls = Calls()
    app.extensions["config"] = config
    app.extensions["calls"] = calls
    app.extensions["openai_client"] = client
    app.extensions["chat_service"] = ChatService(client, config, cache, ledger)
    app.extensions["door"] = Door(
        client,
        ledger,
        free_mode=config.openai_door_free_mode,
        max_tokens=config.default_max_tokens,
        local=bool(config.local_model),
    )
    app.extensions["database"] = database
    app.extensions["accounts"] = accounts
    app.extensions["ledger"] = ledger
    app.extensions["metrics"] = measured
    app.extensions["usage"] = UsageReports(database)
    app.extensions["readiness"] = Readiness(database.is_writable, *needed)

    register_middleware(app, config, measured, calls)
    register_access(app, config)
    register_error_handlers(app)
    if config.cors_origins:
        CORS(app, origins=list(config.cors_origins), expose_headers=["X-Request-ID", "Retry-After", "X-Cache"])

    api = ServerApi(app)
    for blueprint in (chat.blp, openai.blp, usage.blp, system.blp, metrics.blp, health.blp):
        api.register_blueprint(blueprint)
    app.register_blueprint(docs.blp)
    register_commands(app)
    return app
