"""The operator's commands for the database: `flask db copy SOURCE TARGET`."""

from __future__ import annotations

import click
from flask import Flask
from flask.cli import AppGroup

from app.errors import ServiceException
from app.parsers import database_url
from app.store.copying import copy_database
from app.store.database import Database

db = AppGroup("db", help="Manage the database.")

SQLITE_KEY = """\
The tokens stay valid with the digest key of SOURCE. If it was in the file token_digest.key beside the database, set
  TOKEN_DIGEST_KEY=hex:$(xxd -p -c 64 token_digest.key)"""


def register_database_commands(app: Flask) -> None:
    """Add the commands to `flask`."""
    app.cli.add_command(db)


class DatabaseUrl(click.ParamType[str]):
    """What DATABASE_URL takes."""

    name = "url"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        try:
            return database_url(value)
        except ValueError as exc:
            self.fail(str(exc), param, ctx)


@db.command("copy")
@click.argument("source", type=DatabaseUrl())
@click.argument("target", type=DatabaseUrl())
def copy(source: str, target: str) -> None:
    """Copy all that is in SOURCE into TARGET, which has to be empty. Stop the server before."""
    databases = Database(source), Database(target)
    try:
        copied = copy_database(*databases)
    except ServiceException as exc:
        field = getattr(exc, "field", None)
        raise click.ClickException(f"{field} {exc.message}" if field else exc.message) from None
    finally:
        for database in databases:
            database.close()
    for table, number in copied.items():
        click.echo(f"{table}: {number}")
    if source.startswith("sqlite"):
        click.echo(SQLITE_KEY, err=True)
