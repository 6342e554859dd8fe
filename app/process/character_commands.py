"""The operator's commands for characters: `flask characters import`, `list`, `export` and `delete`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from flask import Flask
from flask.cli import AppGroup

from app.characters.cards import written_card
from app.characters.character import parse_reference
from app.characters.characters import EVERYBODYS, Characters, not_found
from app.characters.files import FILE_MAX_BYTES, kind_of, read_file
from app.characters.rules import PAGE_MAX, document_of, read_name
from app.errors import ServiceException, ValidationException
from app.ledger.accounts import Accounts
from app.units import iso
from app.web.services import service

characters = AppGroup("characters", help="Manage characters, whom the model plays.")
of_client = click.option("--client", help="A client's own characters. Default: those that everybody sees.")


def register_character_commands(app: Flask) -> None:
    """Add the commands to `flask`."""
    app.cli.add_command(characters)


@characters.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--name", help="Another name than the file gives.")
@of_client
def bring(file: Path, name: str | None, client: str | None) -> None:
    """Keep the character in FILE: JSON, TOML, or a character card as JSON or PNG."""
    with _told():
        with file.open("rb") as opened:
            raw = opened.read(FILE_MAX_BYTES + 1)
        character, left_out = read_file(raw, kind_of(raw, file.suffix.lower()), name and read_name(name))
        kept = service(Characters).put(character, _owner(client))
        click.echo(f"{kept.name}: version {kept.version}")
        if left_out:
            click.echo(f"left out, as it has no use here: {', '.join(left_out)}", err=True)


@characters.command("list")
@of_client
def list_characters(client: str | None) -> None:
    """List the characters: name, version, when that was made, and whose it is."""
    with _told():
        for one in _all(_owner(client)):
            whose = "everybody's" if one["shared"] else str(client)
            click.echo(f"{one['name']}  {one['version']}  {iso(one['created_at'])[:19]}  {whose}")


@characters.command("export")
@click.argument("name")
@click.option("--card", is_flag=True, help='As a character card ("chara_card_v2").')
@of_client
def export(name: str, card: bool, client: str | None) -> None:
    """Print the character NAME, or a version of it as NAME@3, as JSON that can be imported again."""
    with _told():
        parsed = parse_reference(name)
        if parsed is None:
            raise not_found()
        found = service(Characters).show(parsed[0], _owner(client), version=parsed[1])
        document = written_card(found) if card else {"name": found.name} | document_of(found)
        click.echo(json.dumps(document, ensure_ascii=False, indent=2))


@characters.command("delete")
@click.argument("name")
@of_client
def delete(name: str, client: str | None) -> None:
    """Remove a character with all its versions."""
    with _told():
        service(Characters).delete(read_name(name), _owner(client))
        click.echo(f"{name}: deleted")


def _owner(client: str | None) -> int:
    return EVERYBODYS if client is None else service(Accounts).show(client).id


def _all(owner: int) -> Iterator[dict[str, Any]]:
    found, after = service(Characters).page(owner, limit=PAGE_MAX)
    yield from found
    while after is not None:
        found, after = service(Characters).page(owner, after=after, limit=PAGE_MAX)
        yield from found


@contextmanager
def _told() -> Iterator[None]:
    """Turn our exceptions into one line on standard error and exit status 1."""
    try:
        yield
    except ValidationException as exc:
        raise click.ClickException(_first_rule(exc.errors) or exc.message) from None
    except ServiceException as exc:
        raise click.ClickException(exc.message) from None
    except OSError as exc:
        raise click.ClickException(f"the file cannot be read ({exc.strerror})") from None


def _first_rule(errors: Any) -> str:
    """The first broken rule with the way to it, as `lore 3 keywords 0 must be plain text`."""
    way = []
    while isinstance(errors, dict) and errors:
        name, errors = next(iter(errors.items()))
        way.append(str(name)[:64])
    return f"{' '.join(way)} {errors[0]}" if isinstance(errors, list) and errors else ""
