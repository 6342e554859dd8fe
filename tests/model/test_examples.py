"""The examples run as they are against a server with the local model, and `make` says what it can do."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.server import ROOT, Server

EXAMPLES = sorted((ROOT / "examples").glob("*.sh"))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("examples"), LOCAL_MODEL="demo", patience_seconds=90) as server:
        yield server


@pytest.mark.model
@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(demo: Server, path: os.PathLike[str]) -> None:
    """Each checks its own answers and ends with status 0; none needs a key."""
    environ = {"PATH": os.environ["PATH"], "LLM_SERVER_URL": demo.url}
    ran = subprocess.run([path], env=environ, capture_output=True, text=True, timeout=120)
    assert ran.returncode == 0, ran.stdout + ran.stderr


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
