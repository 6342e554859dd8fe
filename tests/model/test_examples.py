"""The examples run as they are against a server with the local model."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.model.test_clients import BIN
from tests.server import Server
from tests.unit.test_examples import EXAMPLES


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("examples"), LOCAL_MODEL="demo", patience_seconds=90) as server:
        yield server


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example(demo: Server, path: os.PathLike[str]) -> None:
    """Each checks its own answers and ends with status 0; none needs a key."""
    environ = {"PATH": f"{BIN}:{os.environ['PATH']}", "LLM_SERVER_URL": demo.url}
    ran = subprocess.run([path], env=environ, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stdout + ran.stderr
