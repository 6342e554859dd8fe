"""A bad setting stops the start."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from tests.server import GUNICORN, ROOT, Server


@pytest.mark.parametrize(
    ("name", "raw"),
    [
        ("SERVER_HOST", "no such host"),
        ("SERVER_HOST", "192.0.2.1"),
        ("SERVER_PORT", "no-port"),
        ("OPENAI_API_KEY", "secret value"),
        ("OPENAI_BASE_URL", "not-a-url"),
        ("REQUEST_TIMEOUT", "never"),
        ("LOG_LEVEL", "LOUD"),
        ("LOCAL_MODEL", "/no/such/model.gguf"),
    ],
)
def test_a_bad_setting_stops_the_start(tmp_path: Path, name: str, raw: str) -> None:
    """gunicorn ends within 2 seconds with one line that names the variable and not its value."""
    environ = Server(tmp_path, **{name: raw}).environ
    began = time.monotonic()
    ended = subprocess.run(GUNICORN, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=20, check=False)
    assert time.monotonic() - began < 2
    assert ended.returncode not in {0, None}
    assert len(ended.stderr.splitlines()) == 1
    assert name in ended.stderr
    assert raw not in ended.stderr + ended.stdout
