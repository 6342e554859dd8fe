"""The operator's commands for several upstreams: `flask upstreams check` and `flask upstreams explain`."""

from __future__ import annotations

import click
from flask import Flask
from flask.cli import AppGroup

from app.errors import ServiceException
from app.ledger.accounts import Accounts
from app.process.shared_health import SharedHealth
from app.services.exchange import Exchange
from app.services.upstream_trial import ANSWERS, asked_for_models
from app.upstreams.fleet import NATIVE, Fleet, Wanted
from app.upstreams.health import Health
from app.upstreams.keys import Payer
from app.upstreams.plan import Attempt
from app.web.services import service

CHECK_SECONDS = 10.0
upstreams = AppGroup("upstreams", help="Look at the upstreams and at where a model is answered.")


def register_upstream_commands(app: Flask) -> None:
    """Add the commands to `flask`."""
    app.cli.add_command(upstreams)


@upstreams.command("check")
@click.option("--offline", is_flag=True, help="Only read the file; ask nobody.")
def check(offline: bool) -> None:
    """Read UPSTREAMS_FILE, and ask each upstream with each key for its models. Status 1 if one does not answer."""
    fleet, failed = service(Fleet), False
    if not offline:
        _look()
    for name, upstream in fleet.upstreams.items():
        settings = upstream.settings
        click.echo(f"{name}  {settings.base_url}  {', '.join(settings.dialects)}{_rests(upstream.health)}")
        for number, key in enumerate(() if offline else settings.keys, start=1):
            outcome = asked_for_models(Attempt(upstream, key), CHECK_SECONDS, service(Exchange).watchdog)
            failed = failed or outcome != ANSWERS
            click.echo(f"  key {number}: {outcome}{_rests(upstream.key_health(key))}")
    for name, route in fleet.catalog.models.items():
        targets = [target.upstream for target in (*route.targets, *route.on_failure)]
        click.echo(f"{name}  ->  {', '.join(targets)}")
    if failed:
        raise click.ClickException("not every upstream answers")


@upstreams.command("explain")
@click.argument("model")
@click.option("--client", help="Whether this client may use the model.")
@click.option("--dialect", default=NATIVE, show_default=True, help="responses, chat_completions, embeddings, messages.")
def explain(model: str, client: str | None, dialect: str) -> None:
    """Show in which order upstreams would be asked for MODEL, and why; nobody is asked."""
    fleet = service(Fleet)
    _look()
    try:
        if client is not None and not service(Accounts).show(client).allows_model(model):
            raise click.ClickException(f"{client} may not use {model}")
        key = next((key for upstream in fleet.upstreams.values() for key in upstream.settings.keys), None)
        if key is None:
            raise click.ClickException("the server has no key: callers bring their own")
        plan = fleet.plan(Payer((key,)), Wanted(model, dialect))
    except ServiceException as exc:
        raise click.ClickException(exc.message) from None
    for number, attempt in enumerate(plan.attempts, start=1):
        told = attempt.described()
        rest = attempt.upstream.health.rest or attempt.upstream.key_health(attempt.key).rest
        why = told["reason"] + (f" ({rest.reason})" if rest else "")
        click.echo(f"{number}. {told['upstream']}  {told['model']}  {why or 'the only upstream'}")


def _look() -> None:
    """See who rests, as the workers know it."""
    try:
        service(SharedHealth).look()
    except ServiceException:
        click.echo("the database is not available: which upstreams rest is not known", err=True)


def _rests(health: Health) -> str:
    rest = health.rest
    return "" if rest is None else f"  rests for {health.due_in:.0f} s ({rest.reason})"
