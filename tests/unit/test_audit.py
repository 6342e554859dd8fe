"""docs/audit.md stays true: what it names is there, and each promise names code and a test."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server import ROOT

AUDIT = (ROOT / "docs" / "audit.md").read_text()
FILE = r"`((?:[\w.-]+/)*[\w.-]+\.py)`"
NAMES = r"((?:,? `(?![^`]*\.py`)[A-Za-z_][\w.]*`)*)"
NAMED = [(path, re.findall(r"`([^`]+)`", names)) for path, names in re.findall(FILE + NAMES, AUDIT)]
"""A file in backticks and what is named of it: names in backticks that follow at once, separated by commas."""
TABLES = re.findall(r"^\| (.+) \| (.+) \| (.+) \|$", AUDIT.partition("## Who may call")[2], re.MULTILINE)
PROMISES = [row for row in TABLES if row[0] != "promise"]


def defined(path: Path) -> set[str]:
    """The functions and classes of a module, and the methods of its classes as `Class.method`."""
    return set(_names(ast.parse(path.read_text())))


def _names(parent: ast.AST, prefix: str = "") -> Iterator[str]:
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield prefix + node.name
        if isinstance(node, ast.ClassDef):
            yield from _names(node, f"{prefix}{node.name}.")


@pytest.mark.parametrize("path", sorted({path for path, _ in NAMED}))
def test_what_the_audit_names_is_there(path: str) -> None:
    """Every file that it names exists and defines each function, class and test that is named beside it."""
    named = {name for file, names in NAMED if file == path for name in names}
    assert (ROOT / path).is_file()
    assert named - defined(ROOT / path) == set()


@pytest.mark.parametrize(("promise", "kept", "shown"), PROMISES, ids=[row[0] for row in PROMISES])
def test_every_promise_names_code_and_a_test(promise: str, kept: str, shown: str) -> None:
    """Beside a plain sentence stand functions or classes that keep it, and tests that show it."""
    assert promise.endswith(".")
    for cell, is_test in ((kept, False), (shown, True)):
        parts = re.split("; ", cell)
        assert all(re.fullmatch(FILE + NAMES, part) and part.count("`") > 2 for part in parts), cell
        assert {part.startswith("`tests/") for part in parts} == {is_test}


def test_no_promise_is_overlooked() -> None:
    """The tables are read as they are written: a page in another form would be checked by nothing."""
    assert len(PROMISES) > 60
    assert len(NAMED) > 150
