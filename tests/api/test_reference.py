"""The generated documents: current, and complete in both languages."""

from __future__ import annotations

import re
from dataclasses import fields

import pytest
from flask import Flask

from app.config import Config
from app.failures import FAILURES
from docs.generate import accepted, documents, in_korean
from docs.languages import ACCEPTED_KO, PAGES_EN, ROUTES_KO, SECTIONS
from tests.server import ROOT

SETTINGS = fields(Config)
TEXTS = {
    **{item.name.upper(): (item.metadata["meaning"], item.metadata["ko"]) for item in SETTINGS},
    **{code: (failure.meaning, failure.ko) for code, failure in FAILURES.items()},
}


@pytest.mark.parametrize("name", ["docs/reference.md", "docs/reference.ko.md", ".env.example"])
def test_the_committed_documents_are_current(app: Flask, name: str) -> None:
    """`make docs` was run after the last change."""
    assert (ROOT / name).read_text() == documents(app)[name]


@pytest.mark.parametrize("name", TEXTS)
def test_every_meaning_is_there_in_both_languages(name: str) -> None:
    """A setting and an error code are explained by sentences in English and in Korean."""
    english, korean = TEXTS[name]
    assert english.isascii()
    assert re.fullmatch(r"[A-Z`].*\.", english)
    assert re.search("[가-힣]", korean)
    assert korean.endswith(".")


def test_every_route_is_there_in_both_languages(app: Flask) -> None:
    """Each route has a Korean summary, and an English one in the specification or among the pages."""
    routes = {rule.endpoint for rule in app.url_map.iter_rules() if not rule.rule.startswith("/console")}
    assert set(ROUTES_KO) == routes
    described = {name for name in routes if name.split(".")[0] not in {"api-docs", "docs", "front"}}
    assert set(PAGES_EN) == routes - described
    assert [name for name in described if not (app.view_functions[name].__doc__ or "").strip()] == []


def test_what_a_setting_accepts_is_there_in_both_languages() -> None:
    """The Korean for each parser's rule is there, and none that no parser has."""
    rules = {accepted(item.metadata["parse"]) for item in SETTINGS}
    assert [rule for rule in rules if not re.search("[가-힣]", in_korean(rule))] == []
    assert [pattern for pattern in ACCEPTED_KO if not any(re.fullmatch(pattern, rule) for rule in rules)] == []


def test_every_section_begins_with_a_setting() -> None:
    """No section is lost because its first setting was renamed, and the first setting begins one."""
    assert set(SECTIONS) <= {item.name for item in SETTINGS}
    assert SETTINGS[0].name in SECTIONS
