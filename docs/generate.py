"""Writes docs/reference.md, docs/reference.ko.md and .env.example from the code: `make docs`.

What a setting or an error code means stands beside it, in app/config.py and app/failures.py, in both languages. What a
parser accepts is what it says itself when it refuses a value. A route's English summary is the first line of its view's
docstring; docs/languages.py has the rest: the words of the pages, and the Korean for routes and parsers.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from dataclasses import Field, fields
from pathlib import Path
from typing import Any

from flask import Flask
from werkzeug.routing import Rule

from app import create_app
from app.config import Config
from app.failures import FAILURES, Failure
from app.parsers import Parse
from app.web.access import Access, declared_access
from docs.languages import (
    ACCEPTED_KO,
    ERROR_COLUMNS,
    PAGE,
    PAGES_EN,
    ROUTE_COLUMNS,
    ROUTES_KO,
    SECRET,
    SECTIONS,
    SETTING_COLUMNS,
    WHETHER,
    WHO,
    Cells,
    Language,
    Words,
)

ROOT = Path(__file__).parent.parent
NONE = "–"
REFUSED = "\x00"
"""A value that every parser with a rule refuses."""

Setting = Field[Any]


ENV_HEADER = """\
# Settings of the server, with their defaults. Copy this file to .env, and remove the # in front of what you set.
# An environment variable wins over .env. An empty value means the default, except for LOG_FILE.
# `make docs` writes this file from app/config.py.
"""


def main() -> None:
    """Write every generated file."""
    for name, text in documents(create_app(Config(token_digest_key="only to read the routes"))).items():
        (ROOT / name).write_text(text)


def documents(app: Flask) -> dict[str, str]:
    """The generated files: their text by their path in the project."""
    return {
        "docs/reference.md": reference(app, Language.ENGLISH),
        "docs/reference.ko.md": reference(app, Language.KOREAN),
        ".env.example": env_example(),
    }


def reference(app: Flask, language: Language) -> str:
    """The page of all tables in one language."""
    return PAGE[language].format(
        settings="\n\n".join(
            f"### {headings[language]}\n\n"
            + table(SETTING_COLUMNS[language], [setting_row(item, language) for item in items])
            for headings, items in sections()
        ),
        errors=table(ERROR_COLUMNS[language], [error_row(*failure, language) for failure in FAILURES.items()]),
        routes=table(ROUTE_COLUMNS[language], list(route_rows(app, language))),
    )


def table(columns: Cells, rows: list[Cells]) -> str:
    """A Markdown table."""
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join("|".join(["", *(f" {cell} " for cell in line), ""]) for line in lines).replace(" --- ", "---")


def sections() -> Iterator[tuple[Words, list[Setting]]]:
    """The settings by section: both headings, and the fields of Config."""
    settings = list(fields(Config))
    starts = [place for place, item in enumerate(settings) if item.name in SECTIONS]
    for start, end in zip(starts, [*starts[1:], len(settings)], strict=True):
        yield SECTIONS[settings[start].name], settings[start:end]


def setting_row(item: Setting, language: Language) -> Cells:
    """A setting's name, default, accepted values and meaning."""
    meaning = (item.metadata["meaning"], item.metadata["ko"])[language]
    secret = f" {SECRET[language]}" if item.metadata["secret"] else ""
    accepts = accepted(item.metadata["parse"])
    return (
        f"`{item.name.upper()}`",
        shown_default(item, language),
        (accepts, in_korean(accepts))[language],
        meaning + secret,
    )


def shown_default(item: Setting, language: Language) -> str:
    """A setting's default for the table."""
    if item.metadata["computed"]:
        return str(item.metadata["computed"][language])
    return f"`{default_text(item)}`" if default_text(item) else NONE


def default_text(item: Setting) -> str:
    """A setting's default as its environment variable would say it; empty where the machine or nothing says it."""
    if item.metadata["computed"]:
        return ""
    if isinstance(item.default, tuple):
        return ",".join(item.default)
    if isinstance(item.default, bool):
        return str(item.default).lower()
    return f"{item.default:g}" if isinstance(item.default, float) else str(item.default)


def accepted(parse: Parse) -> str:
    """What a parser accepts, in the words of its refusal, with numbers written out and words to type in backticks."""
    try:
        parse(REFUSED)
    except ValueError as exc:
        said = str(exc).removeprefix("must be ")
        said = re.sub(r"\d+e\+\d+", lambda number: f"{float(number[0]):.0f}", said)
        said = re.sub(r"(?<=^one of ).+", lambda words: f"`{words[0].replace(', ', '`, `')}`", said)
        return re.sub(r"\b(true|false|direct|(sqlite|postgresql|http):\S+|postgresql\S+)", r"`\1`", said)
    return "any text"


def in_korean(accepts: str) -> str:
    """The Korean for what a parser accepts. Raises KeyError when it is missing."""
    for pattern, korean in ACCEPTED_KO.items():
        if match := re.fullmatch(pattern, accepts):
            return match.expand(korean)
    raise KeyError(accepts)


def error_row(code: str, failure: Failure, language: Language) -> Cells:
    """An error code's status, origin, retryability, default Retry-After and meaning."""
    return (
        f"`{code}`",
        str(failure.status),
        failure.origin,
        WHETHER[failure.retryable][language],
        str(failure.retry_after or NONE),
        (failure.meaning, failure.ko)[language],
    )


def route_rows(app: Flask, language: Language) -> Iterator[Cells]:
    """Each route's method and path, who may call it, and its summary; without the console's pages."""
    routes = (rule for rule in app.url_map.iter_rules() if not rule.rule.startswith("/console"))
    for rule in sorted(routes, key=lambda rule: rule.endpoint in PAGES_EN):
        for method in sorted((rule.methods or set()) - {"HEAD", "OPTIONS"}):
            summary = (english_summary(app, rule), ROUTES_KO[rule.endpoint])[language]
            yield f"`{method} {rule.rule}`", WHO[access(app, rule.endpoint)][language], summary


def english_summary(app: Flask, rule: Rule) -> str:
    """The first line of the view's docstring, which is the specification's summary as well."""
    if rule.endpoint in PAGES_EN:
        return PAGES_EN[rule.endpoint]
    return (app.view_functions[rule.endpoint].__doc__ or "").strip().split("\n")[0]


def access(app: Flask, endpoint: str) -> str:
    """Who may call the route, as its blueprint declares it, in a word of WHO."""
    named = {Access.PUBLIC: "public", Access.ADMIN: "admin", Access.OPERATOR: "operator"}
    declared = declared_access(app, endpoint)
    return named.get(declared, "client") if declared else "client"


def env_example() -> str:
    """The example environment: every setting, commented out, with its default."""
    parts = [ENV_HEADER]
    for headings, items in sections():
        parts += [f"\n# == {headings[0]} ==\n", *(env_entry(item) for item in items)]
    return "".join(parts)


def env_entry(item: Setting) -> str:
    """A setting's meaning and accepted values as a comment, and the line to open."""
    accepts = accepted(item.metadata["parse"])
    said = item.metadata["meaning"] + ("" if accepts == "any text" else f" Accepted: {accepts}.")
    comment = textwrap.fill(said.replace("`", ""), 118, initial_indent="# ", subsequent_indent="# ")
    value = default_text(item)
    quote = '"' if re.search("[ #]", value) else ""
    return f"{comment}\n#{item.name.upper()}={quote}{value}{quote}\n"


if __name__ == "__main__":
    main()
