"""There is an example for every scenario, and `make` says what it can do."""

from __future__ import annotations

import os
import subprocess

from tests.server import ROOT

EXAMPLES = sorted((ROOT / "examples").glob("*.sh"))


def test_there_are_examples() -> None:
    """One script for each scenario of the seed; each can be run as it is."""
    assert len(EXAMPLES) >= 8
    assert all(os.access(path, os.X_OK) for path in EXAMPLES)


def test_make_lists_its_targets() -> None:
    """`make` alone prints every target with a word about it, and makes nothing."""
    ran = subprocess.run(["make"], cwd=ROOT, capture_output=True, text=True, timeout=30, check=True)
    listed = {line.split()[0] for line in ran.stdout.splitlines()}
    assert {"install", "run", "test", "check", "format", "lock", "openapi"} <= listed
    assert all(len(line.split()) > 1 for line in ran.stdout.splitlines())
