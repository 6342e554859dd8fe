"""Documents stay true: settings, routes, error codes, fields and links are what the code has."""

from __future__ import annotations

import os
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from dotenv import dotenv_values

from app.config import Config
from app.failures import FAILURES
from schemas.chat import ChatRequestSchema, ChatResponseSchema
from schemas.problem import ProblemSchema
from tests.server import ROOT

READMES = [ROOT / "README.md", ROOT / "README.ko.md"]
REFERENCES = [ROOT / "docs" / "reference.md", ROOT / "docs" / "reference.ko.md"]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
API = ROOT / "docs" / "api" / "README.md"

both = pytest.mark.parametrize("page", REFERENCES, ids=lambda path: path.name)


def rows(path: Path, pattern: str) -> dict[str, list[str]]:
    """The rows of the document's tables whose first cell is in backticks and matches, as cells by that cell's text."""
    found = re.findall(rf"^\| `({pattern})` \|(.*)\|$", path.read_text(), re.MULTILINE)
    return {name: [cell.strip() for cell in rest.split("|")] for name, rest in found}


def shown(value: Any) -> str:
    """A setting's default as the tables write it."""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`{','.join(value)}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


@both
def test_every_setting_is_listed_with_its_default(page: Path) -> None:
    """The settings tables have every setting, no other, in the order of the code, with the default of the code."""
    listed = {name: cells[0] for name, cells in rows(page, "[A-Z_]+").items()}
    assert list(listed) == [item.name.upper() for item in fields(Config)]
    for item in fields(Config):
        default = listed[item.name.upper()]
        if item.name == "web_concurrency":
            assert "`" not in default
        else:
            assert default == (shown(item.default) if item.default not in ("", ()) else "–")


@both
def test_every_error_code_is_listed(page: Path) -> None:
    """The error table has every code with its status and who failed."""
    listed = {code: (cells[0], cells[1]) for code, cells in rows(page, "[a-z_]+").items() if cells[0].isdigit()}
    assert listed == {code: (str(failure.status), failure.origin) for code, failure in FAILURES.items()}


def test_retryable_is_listed() -> None:
    """The table says which failures another try may cure."""
    listed = {code: cells[2] for code, cells in rows(REFERENCES[0], "[a-z_]+").items() if cells[0].isdigit()}
    assert listed == {code: "yes" if failure.retryable else "no" for code, failure in FAILURES.items()}


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.name)
def test_a_readme_is_short_and_names_what_exists(readme: Path) -> None:
    """At most 220 lines; each setting and route that it names is in the reference."""
    text, reference = readme.read_text(), REFERENCES[0].read_text()
    assert len(text.splitlines()) <= 220
    named = re.findall(r"`((?:GET|POST) /[^`\s]*)`", text) + re.findall(r"`([A-Z]+(?:_[A-Z]+)+)\b[^`]*`", text)
    assert [name for name in named if f"`{name}`" not in reference] == []


def test_the_example_environment_is_the_default_one(tmp_path: Path) -> None:
    """.env.example has every setting, commented out; with the comments taken away nothing changes."""
    example = (ROOT / ".env.example").read_text()
    assert not dotenv_values(ROOT / ".env.example")
    opened = tmp_path / "env"
    opened.write_text(re.sub(r"^#([A-Z_]+=)", r"\1", example, flags=re.MULTILINE))
    values = dotenv_values(opened)
    assert list(values) == [item.name.upper() for item in fields(Config)]
    assert Config.from_env({name: value or "" for name, value in values.items()}) == Config.from_env({})


@pytest.mark.parametrize("schema", [ChatRequestSchema, ChatResponseSchema, ProblemSchema])
def test_every_field_is_in_the_api_document(schema: type[Any]) -> None:
    """docs/api names each field of the wire."""
    text = API.read_text()
    assert [name for name in schema().fields if f"`{name}`" not in text and f'"{name}"' not in text] == []


def anchors(path: Path) -> set[str]:
    """The fragments that a document's headings answer to."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    """Every relative link names a file of the project, and its fragment a heading."""
    for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text()):
        if re.match(r"[a-z]+:", link):
            continue
        name, _, fragment = link.partition("#")
        target = (document.parent / name).resolve() if name else document
        assert target.exists(), link
        assert target.is_relative_to(ROOT), link
        assert not fragment or fragment in anchors(target), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_documents_name_files_that_exist(document: Path) -> None:
    """Paths of our own in backticks are there; but `make test-fast` does not install what Node's programs need."""
    ours = r"`((?:app|blueprints|schemas|tests|docs|examples|deploy|bench)/[\w./-]+)`"
    named = {*re.findall(ours, document.read_text())} - {"tests/clients/node_modules"}
    assert {path for path in named if not (ROOT / path).exists()} == set()


def test_no_machine_shows_in_the_documents() -> None:
    """Documents are about any machine, not about the one they were written on."""
    home = os.path.dirname(str(ROOT))
    assert [document.name for document in DOCUMENTS if f"{home}/" in document.read_text()] == []
