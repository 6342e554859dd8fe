"""A bad setting stops the start."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.server import GUNICORN, ROOT, Server, free_port
from tests.upstream import Upstream


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


@pytest.mark.parametrize("arguments", [["clients", "list"], ["db", "copy", "a", "b"], ["--help"]])
def test_a_bad_setting_is_one_line_for_commands_too(tmp_path: Path, arguments: list[str]) -> None:
    """And not that there is no such command."""
    environ = Server(tmp_path, REQUEST_TIMEOUT="never").environ
    command = [sys.executable, "-m", "flask", "--app", "wsgi", *arguments]
    ended = subprocess.run(command, cwd=ROOT, env=environ, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode != 0
    assert ended.stderr == "Error: REQUEST_TIMEOUT must be a number from 0.1 to 3600\n"


def test_the_banner_has_the_address_that_is_listened_on(tmp_path: Path, upstream: Upstream) -> None:
    """gunicorn's own option wins over the settings."""
    server = Server(tmp_path, OPENAI_BASE_URL=upstream.base_url, SERVER_PORT=free_port())
    server.configure({"GUNICORN_CMD_ARGS": f"--bind 127.0.0.1:{server.port}"})
    with server:
        server.wait_for(lambda: "is ready at" in server.output())
        assert f"LLM Server is ready at {server.url} " in server.output()


@pytest.mark.parametrize("command", [GUNICORN, (sys.executable, "-m", "app")], ids=["gunicorn", "app"])
@pytest.mark.parametrize(
    "later", ["DEFAULT_MODEL=two\nDEFAULT_MAX_TOKENS=2", "DEFAULT_MODEL=two\nREQUEST_TIMEOUT=never"]
)
def test_a_reload_changes_no_setting(
    start_server: Callable[..., Server], tmp_path: Path, command: tuple[str, ...], later: str
) -> None:
    """`.env` is read at the start: what has been changed in it or added to it since counts for nobody, and a bad value
    ends no server."""
    root = tmp_path / "program"
    for room in ("app", "blueprints", "schemas"):
        shutil.copytree(ROOT / room, root / room, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ("wsgi.py", "gunicorn.conf.py"):
        shutil.copy(ROOT / file, root)
    (root / ".env").write_text("DEFAULT_MODEL=one\n")
    server = start_server(root=root, command=command, PYTHON_DOTENV_DISABLED="0")
    old, asked = server.worker_pids, {"user_message": "hi", "free_mode": True}
    before = server.request("POST", "/api/v1/chat/preview", asked).json["upstream_body"]
    assert '"model":"one"' in before
    (root / ".env").write_text(later)
    server.send_signal(signal.SIGHUP)
    server.wait_for(lambda: server.worker_pids and not set(old) & set(server.worker_pids))
    server.wait_ready()
    assert server.request("POST", "/api/v1/chat/preview", asked).json["upstream_body"] == before
