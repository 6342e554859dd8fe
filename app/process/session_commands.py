"""The operator's commands for sessions: `flask sessions list|show|export|delete|rekey`, whatever SESSIONS says."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from typing import Any

import click
from flask import Flask
from flask.cli import AppGroup

from app.config import Config
from app.ledger.accounts import Accounts
from app.sessions.changes import SessionChanges
from app.sessions.rekeying import Rekeying
from app.sessions.seal import Seal
from app.sessions.stored import StoredSessions
from app.store.database import Database
from app.web.cli import printable, table, told
from app.web.services import service

sessions = AppGroup("sessions", help="Look at the conversations that are kept, and delete them.")
PAGE = 500
UNREADABLE = "(session_unreadable)"


def register_session_commands(app: Flask) -> None:
    """Add the commands to `flask`."""
    app.cli.add_command(sessions)


def of_a_client(command: Callable[..., None]) -> Callable[..., None]:
    """The option that says whose sessions are meant."""
    return click.option("--client", help="Whose sessions; without it those of callers without a token.")(command)


@sessions.command("list")
@of_a_client
def list_sessions(client: str | None) -> None:
    """List the sessions, that of the last turn first."""
    with told():
        owner = _owner(client)
        found, cursor = service(StoredSessions).page(owner, limit=PAGE)
        while cursor is not None:
            page, cursor = service(StoredSessions).page(owner, cursor=cursor, limit=PAGE)
            found += page
        table([_row(session) for session in found])


@sessions.command("show")
@click.argument("session_id")
@of_a_client
def show(session_id: str, client: str | None) -> None:
    """Show what is known of a session, and its summary; `export` has its turns."""
    with told():
        found = service(StoredSessions).show(_owner(client), session_id, limit=1)
        for hidden in ("turns", "next_cursor"):
            del found[hidden]
        for name, value in found.items():
            click.echo(f"{name:24}  {printable(json.dumps(value, ensure_ascii=False))}")


@sessions.command("export")
@click.argument("session_id")
@of_a_client
def export(session_id: str, client: str | None) -> None:
    """Write a session to standard output as JSON Lines."""
    with told():
        for lines in service(StoredSessions).export(_owner(client), session_id):
            sys.stdout.write(lines.decode())


@sessions.command("delete")
@click.argument("session_id")
@of_a_client
def delete(session_id: str, client: str | None) -> None:
    """Delete a session with all its turns."""
    with told():
        service(SessionChanges).delete(_owner(client), session_id)
        click.echo(f"{session_id}: deleted")


@sessions.command("rekey")
def rekey() -> None:
    """Store all texts anew with SESSION_KEY; without it, as they are. The server may run, and a second run goes on.

    Status 1 where some cannot be opened with SESSION_KEY and SESSION_KEY_OLD: they stay as they are.
    """
    config = service(Config)
    if not config.session_key and not config.session_key_old:
        raise click.ClickException("set SESSION_KEY, or SESSION_KEY_OLD to store the texts unencrypted again")
    with told():
        done = Rekeying(service(Database), Seal(config.session_key, config.session_key_old)).run()
    click.echo(f"stored anew: {done.renewed}")
    click.echo(f"were so already: {done.untouched}")
    if not done.is_erased:
        click.echo("SQLite's log is being read and still has texts as they were: run it again", err=True)
    if done.unreadable:
        raise click.ClickException(f"cannot be opened: {done.unreadable}; their key is missing, or they are damaged")


def _owner(client: str | None) -> int:
    return 0 if client is None else service(Accounts).show(client).id


def _row(found: dict[str, Any]) -> dict[str, Any]:
    return {
        "session": found["session_id"],
        "turns": found["turn_count"],
        "updated": found["updated_at"][:19],
        "cost_usd": found["cost_usd"],
        "character": found["character"] or "-",
        "title": UNREADABLE if found["title"] is None else found["title"],
    }
