"""There is an example for every scenario, and `make` says what it can do."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

from tests.server import ROOT

EXAMPLES = sorted(path for path in (ROOT / "examples").glob("*.*") if path.suffix != ".html")
"""The page, talk.html, is for a browser; tests/model/test_talk_page.py runs what can be run without."""


def test_there_are_examples() -> None:
    """One for each scenario of the seed; each can be run as it is."""
    assert len(EXAMPLES) >= 8
    assert all(os.access(path, os.X_OK) for path in EXAMPLES)


def test_make_lists_its_targets() -> None:
    """`make` alone prints every target with a word about it, and makes nothing."""
    ran = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    listed = {line.split()[0] for line in ran.stdout.splitlines()}
    assert {"install", "run", "test", "check", "format", "lock", "openapi"} <= listed
    assert all(len(line.split()) > 1 for line in ran.stdout.splitlines())


def test_an_old_python_is_refused_with_a_sentence(tmp_path: Path) -> None:
    """Before anything is made; pip would say that no version of a package fits."""
    old = tmp_path / "python3.10"
    old.write_text('#!/bin/sh\nexec python3 -c "import sys; sys.version_info = (3, 10); exec(sys.argv[1])" "$2"\n')
    old.chmod(0o755)
    command = ["make", f"VENV={tmp_path}/venv", f"PYTHON={old}", "install"]
    ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert ran.returncode == 2
    assert ran.stderr.startswith("Python 3.11 or later is needed")
    assert not (tmp_path / "venv").exists()
