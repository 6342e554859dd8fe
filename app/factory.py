"""The factory: the only place where the parts of the server are joined, in one ordered list.

A worker imports this module after gevent has patched the standard library; gunicorn's master never does.
"""

from __future__ import annotations

from pathlib import Path

from flask import Flask

from app.calls.call import Calls
from app.calls.watchdog import Watchdog
from app.characters.characters import Characters
from app.config import NO_SUMMARIES, Config
from app.ledger.accounts import Accounts
from app.ledger.ledger import Ledger
from app.ledger.logins import Logins
from app.ledger.pricing import PricedUpstream, Prices, check_providers
from app.ledger.reports import UsageReports
from app.ledger.stored import StoredResponses
from app.ledger.tokens import digest_key, old_digest_key
from app.models import Completion
from app.process.character_commands import register_character_commands
from app.process.commands import register_database_commands
from app.process.housekeeping import Housekeeping
from app.process.metrics import Metrics
from app.process.quick_stop import QuickStop
from app.process.readiness import Readiness
from app.process.session_commands import register_session_commands
from app.process.shared_health import SharedHealth
from app.process.upstream_commands import register_upstream_commands
from app.services.cache import ResponseCache
from app.services.chat import ChatService
from app.services.exchange import Exchange
from app.services.interrupting import Interrupting
from app.services.memory_hook import MemoryHook
from app.services.model_list import ModelList
from app.services.notice import Notices
from app.services.passthrough import Passthrough
from app.services.remembering import Remembering
from app.services.running import RunningTurns
from app.services.summaries import Summaries
from app.sessions.changes import SessionChanges
from app.sessions.interruption import Interruptions
from app.sessions.seal import Seal
from app.sessions.sessions import Sessions
from app.sessions.stored import StoredSessions
from app.store.database import Database
from app.upstreams.catalog import Catalog
from app.upstreams.keys import KeySelector
from app.upstreams.local_model import LocalModelProbe, model_name
from app.upstreams.memory_server import MemoryServer
from app.upstreams.openai_client import make_fleet
from app.upstreams.slots import Slots
from app.web.access import register_access
from app.web.api import ServerApi
from app.web.body_room import BodyRoom
from app.web.cli import register_commands
from app.web.cors import allow_origins
from app.web.flask_app import make_flask
from app.web.middleware import register_middleware
from app.web.problems import register_error_handlers
from app.web.services import provide
from app.web.sign_in import SignInLimit
from blueprints import characters as character_routes
from blueprints import (
    chat,
    clients,
    docs,
    health,
    messages,
    metrics,
    notice,
    openai,
    others,
    sessions,
    system,
    upstreams,
    usage,
)
from blueprints.console import PAGES


def make_app(config: Config) -> Flask:
    """Join all parts as the settings say: each is made after those that it is given."""
    app = make_flask(config)

    database = Database(
        config.database_url,
        timeout_seconds=config.database_timeout,
        prepared=config.database_prepared_statements,
        alone=config.web_concurrency == 1,
    )
    secret = digest_key(config)
    accounts = Accounts(database, secret, old_digest_key=old_digest_key(config), clock=database.clock)
    provide(app, Logins(database, accounts, secret), SignInLimit(config.web_concurrency))
    slots = Slots(config.max_concurrent_requests, config.max_queue_seconds)
    counts = Metrics(
        {
            "slots": lambda: slots.size,
            "slots_in_use": lambda: slots.in_use,
            "ledger_queue": lambda: database.waiting,
            "unrecorded": lambda: ledger.unrecorded,
            "set_aside": lambda: database.set_aside,
        }
    )
    catalog = Catalog.from_config(config)
    check_providers(catalog.providers)
    priced = {name: PricedUpstream(one.provider or one.base_url, one.prices) for name, one in catalog.upstreams.items()}
    ledger = Ledger(
        database,
        accounts,
        Prices(Path(config.prices_file), config.openai_base_url, priced),
        token_required=config.token_required,
        fail_open=config.ledger_fail_open,
        max_output_tokens=config.max_output_tokens,
        fingerprint_key=secret,
        booked=counts.booked,
    )
    keys = KeySelector.of(config, catalog=catalog)
    fleet = make_fleet(config, catalog, keys)
    exchange = Exchange(fleet, keys, slots, Watchdog(), ledger)
    cache = ResponseCache[Completion](config.cache_max_size, config.cache_ttl) if config.cache_enabled else None
    passthrough = Passthrough(
        exchange,
        StoredResponses(database),
        free_mode=config.openai_door_free_mode,
        token_required=config.token_required,
    )
    needed = [LocalModelProbe(config.openai_base_url)] if config.local_model else []
    memory_hook = MemoryHook(MemoryServer.of(config), max_tokens=config.memory_max_tokens, failed=counts.memory_failed)
    calls = Calls()
    provide(
        app, config, database, accounts, ledger, counts, slots, fleet, exchange, passthrough, ModelList(exchange), calls
    )
    readiness = Readiness(database.is_writable, *needed)
    seal = Seal(config.session_key, config.session_key_old)
    changes = SessionChanges(database, seal)
    kept = Sessions(database, seal) if config.sessions else None
    summaries = None
    if kept is not None and config.summary_model != NO_SUMMARIES:
        summaries = Summaries(kept, exchange, config, calls, counts, lambda: readiness.draining)
    interruptions = Interruptions(database, kept) if kept else None
    running = RunningTurns(interruptions.marked) if interruptions else RunningTurns()
    remembering = Remembering(kept, memory_hook, config.max_queue_seconds, summaries, running)
    provide(app, remembering, StoredSessions(database, seal), changes)
    provide(app, Interrupting(interruptions, running, memory_hook))
    characters = Characters(database, clock=database.clock)
    provide(app, ChatService(exchange, config, cache, remembering, characters), memory_hook, characters)
    provide(app, UsageReports(database), Notices(config))
    provide(app, readiness, QuickStop(calls, ledger, database))
    provide(app, BodyRoom(config.max_held_bytes, config.max_request_bytes))
    provide(app, Housekeeping(ledger, config.ledger_retention_days, changes, config.session_retention_days))
    provide(app, SharedHealth(fleet.upstreams if catalog.is_listed else {}, database, ledger.fingerprint))

    _join_web(app, config, counts, calls)
    return app


def _join_web(app: Flask, config: Config, counts: Metrics, calls: Calls) -> None:
    """Join the hooks, the error handlers, the routes and the commands."""
    api = ServerApi(app, (config.local_model and model_name(config.local_model)) or config.default_model)
    provide(app, api)
    register_middleware(app, config, counts, calls)
    register_access(app, config)
    register_error_handlers(app)
    if config.cors_origins:
        allow_origins(app, config.cors_origins)
    passing = (openai.blp, others.blp, messages.blp)
    talking = (chat.blp, sessions.blp, character_routes.blp, notice.blp)
    operating = (usage.blp, clients.blp, upstreams.blp, system.blp, metrics.blp, health.blp)
    api.register(*talking, *passing, *operating, docs.blp, *PAGES)
    register_commands(app)
    register_character_commands(app)
    register_database_commands(app)
    register_upstream_commands(app)
    register_session_commands(app)
