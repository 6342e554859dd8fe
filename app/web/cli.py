"""The operator's commands: `flask clients …` and `flask usage report`."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import click
from flask import Flask
from flask.cli import AppGroup

from app.errors import ServiceException
from app.ledger.accounts import Accounts, Limits
from app.ledger.client_limits import describe, read_limits
from app.ledger.reports import Period, UsageReports
from app.models import CLIENT_COUNT_MAX, USAGE_GROUPS
from app.units import MICROSECONDS, iso
from app.web.csv_text import csv_text
from app.web.services import service

NO_LIMIT = object()
SHOWN = (
    *("name", "state", "rpm", "concurrency", "budget_usd", "per_user_rpm", "per_user_budget_usd"),
    *("models", "free_mode", "admin", "created", "expires"),
)
KEY_HINT = """\
key changed: the token was made under another TOKEN_DIGEST_KEY (or token_digest.key) and opens nothing. Give that key as
TOKEN_DIGEST_KEY_OLD, or give the client a new token: clients rotate NAME"""
UNITS = {"h": 3600, "d": 86_400, "w": 604_800}

clients = AppGroup("clients", help="Manage the applications that may call, and their tokens.")
usage = AppGroup("usage", help="Read the ledger.")


def register_commands(app: Flask) -> None:
    """Add the commands to `flask`."""
    app.cli.add_command(clients)
    app.cli.add_command(usage)


class Span(click.ParamType[int]):
    """A span of time such as 12h, 7d or 4w; gives seconds."""

    name = "span"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        match = re.fullmatch(r"(\d{1,5})([hdw])", str(value))
        if not match:
            self.fail("must be like 12h, 7d or 4w", param, ctx)
        return int(match[1]) * UNITS[match[2]]


class Unlimited(click.ParamType[Any]):
    """A limit of another type, or `none` for no limit. An empty value is refused: it is a slip, not a wish."""

    def __init__(self, inner: click.ParamType[Any] | Callable[[str], Any]) -> None:
        self.name = "limit"
        self._inner = inner

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        text = str(value).strip()
        if not text:
            self.fail("must not be empty; `none` means no limit", param, ctx)
        if text == "none":
            return NO_LIMIT
        return self._inner.convert(text, param, ctx) if isinstance(self._inner, click.ParamType) else self._inner(text)


def limit_options(command: Callable[..., None]) -> Callable[..., None]:
    """The options that `clients add` and `clients set` share; one that is not given is None."""
    count = Unlimited(click.IntRange(1, CLIENT_COUNT_MAX))
    for option in reversed(
        [
            click.option("--budget-usd", type=Unlimited(str), help="US dollars, as 5/day, 100/month or 20/total."),
            click.option("--rpm", type=count, help="Requests per minute."),
            click.option("--concurrency", type=count, help="Requests at once."),
            click.option("--per-user-rpm", type=count, help="Requests per minute of each end user (`user`)."),
            click.option("--per-user-budget-usd", type=Unlimited(str), help="Budget of each end user, as 0.50/month."),
            click.option("--models", type=Unlimited(str), help="Allowed models, as o1,gpt-4o*."),
            click.option("--free-mode/--no-free-mode", default=None, help="Whether the server's key may pay."),
            click.option("--admin/--no-admin", default=None, help="May read system, metrics and all usage."),
            click.option("--expires", type=Unlimited(Span()), help="Life of the token from now on, as 90d."),
        ]
    ):
        command = option(command)
    return command


@clients.command("add")
@click.argument("name")
@limit_options
def add(name: str, **options: Any) -> None:
    """Create a client and print its token, once."""
    with told():
        _print_token(service(Accounts).add(name, Limits(**_limits(options))))


@clients.command("set")
@click.argument("name")
@limit_options
def set_limits(name: str, **options: Any) -> None:
    """Change a client's limits; what is not named stays, and `none` takes a limit away."""
    with told():
        if changes := _limits(options):
            service(Accounts).change(name, **changes)
        _show(name)


@clients.command("list")
def list_clients() -> None:
    """List the clients."""
    with told():
        accounts = service(Accounts)
        rows = [_told(client, SHOWN) for client in describe(accounts, accounts.all())]
        table(rows)
        if any(row["state"] == "key changed" for row in rows):
            click.echo(KEY_HINT, err=True)


@clients.command("show")
@click.argument("name")
def show(name: str) -> None:
    """Show one client, and what its budget has spent in the present period."""
    with told():
        _show(name)


@clients.command("rotate")
@click.argument("name")
def rotate(name: str) -> None:
    """Give a client a new token; the old one ends now."""
    with told():
        _print_token(service(Accounts).rotate(name))


@clients.command("revoke")
@click.argument("name")
def revoke(name: str) -> None:
    """End a client's token; its ledger stays."""
    with told():
        service(Accounts).revoke(name)
        click.echo(f"{name}: token revoked")


@clients.command("delete")
@click.argument("name")
def delete(name: str) -> None:
    """Remove a client; its ledger rows keep its name."""
    with told():
        service(Accounts).delete(name)
        click.echo(f"{name}: deleted")


@usage.command("report")
@click.option("--since", type=Span(), default="7d", show_default=True, help="How far back, as 12h, 7d or 4w.")
@click.option("--by", type=click.Choice(USAGE_GROUPS), default="client", show_default=True)
@click.option("--csv", "as_csv", is_flag=True, help="Comma-separated values instead of a table.")
def report(since: int, by: str, as_csv: bool) -> None:
    """Sum up requests, tokens and cost."""
    with told():
        totals = service(UsageReports).totals(by, Period(since=int((time.time() - since) * MICROSECONDS)))
        rows = [{by: row.pop("key") or "-", **row, "cost_usd": row["cost_usd"] or "unknown"} for row in totals]
        if as_csv:
            sys.stdout.write(csv_text(list(rows[0]) if rows else [by], rows))
        else:
            table(rows)


class told:
    """Turns our exceptions into one line on standard error and exit status 1."""

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, exc: BaseException | None, trace: object) -> None:
        if isinstance(exc, ServiceException):
            field = getattr(exc, "field", None)
            raise click.ClickException(f"{field} {exc.message}" if field else exc.message) from None


def _limits(options: dict[str, Any]) -> dict[str, Any]:
    """The fields of Limits that the options name."""
    given = {name: None if value is NO_LIMIT else value for name, value in options.items() if value is not None}
    if models := given.get("models"):
        given["models"] = models.replace(" ", "").split(",")
    if "expires" in given:
        seconds = given.pop("expires")
        given["expires_at"] = None if seconds is None else int((time.time() + seconds) * MICROSECONDS)
    return read_limits(given)


def _show(name: str) -> None:
    accounts = service(Accounts)
    (client,) = describe(accounts, [accounts.show(name)])
    amounts = ("spent_usd", "reserved_usd") if client["budget_usd"] else ()
    for field, value in _told(client, (*SHOWN, *amounts)).items():
        click.echo(f"{field:19} {value}")


def _print_token(token: str) -> None:
    click.echo("The token, shown this once:", err=True)
    click.echo(token)


def _told(client: dict[str, Any], names: Sequence[str]) -> dict[str, str]:
    """A client in the words of its options."""
    moments = {name: iso(at)[:19] if (at := client[f"{name}_at"]) else "-" for name in ("created", "expires")}
    models = {"models": ",".join(client["models"] or "*"), "state": client["state"].replace("_", " ")}
    words = {True: "yes", False: "no", None: "-"}
    told = client | moments | models
    return {name: words[told[name]] if isinstance(told[name], bool | None) else str(told[name]) for name in names}


def table(rows: Sequence[dict[str, Any]]) -> None:
    """Print rows under their names."""
    if not rows:
        click.echo("nothing yet")
        return
    texts = [{name: printable(row[name]) for name in rows[0]} for row in [{name: name for name in rows[0]}, *rows]]
    widths = {name: max(len(row[name]) for row in texts) for name in rows[0]}
    for row in texts:
        click.echo("  ".join(row[name].ljust(width) for name, width in widths.items()).rstrip())


def printable(value: object) -> str:
    """A value without what would command a terminal: callers choose the names of models and sessions."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in str(value))
