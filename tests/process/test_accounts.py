"""A server's key is not for everybody by mistake."""

from __future__ import annotations

import shlex
import socket
import stat
import subprocess
from pathlib import Path

import pytest

from tests.conftest import SERVER_KEY
from tests.server import GUNICORN, ROOT, Server


class TestExposure:
    """A server's key is not for everybody by mistake."""

    @pytest.mark.parametrize(
        ("settings", "ends"),
        [
            ({"SERVER_HOST": "0.0.0.0", "OPENAI_API_KEY": SERVER_KEY}, True),
            ({"SERVER_HOST": "0.0.0.0", "OPENAI_API_KEY": SERVER_KEY, "AUTH_MODE": "open"}, False),
            ({"SERVER_HOST": "0.0.0.0", "OPENAI_API_KEY": SERVER_KEY, "AUTH_MODE": "token"}, False),
            ({"SERVER_HOST": "0.0.0.0", "OPENAI_API_KEY": None}, False),
            ({"SERVER_HOST": "127.0.0.1", "OPENAI_API_KEY": SERVER_KEY}, False),
            ({"SERVER_HOST": "0.0.0.0", "OPENAI_BASE_URL": "http://127.0.0.1:1/v1"}, True),
            ({"GUNICORN_CMD_ARGS": "--bind 0.0.0.0:{port}", "OPENAI_API_KEY": SERVER_KEY}, True),
            ({"GUNICORN_CMD_ARGS": "--bind 127.0.0.1:{port}", "OPENAI_API_KEY": SERVER_KEY}, False),
            (
                {
                    "SERVER_HOST": "0.0.0.0",
                    "OPENAI_API_KEY": SERVER_KEY,
                    "GUNICORN_CMD_ARGS": "--bind 127.0.0.1:{port}",
                },
                False,
            ),
        ],
    )
    def test_a_public_address(self, tmp_path: Path, settings: dict[str, str | None], ends: bool) -> None:
        """In open mode that nobody asked for, one line says what to do, and the server does not start."""
        server = Server(tmp_path, DATABASE_URL=f"sqlite:///{tmp_path}/x.db")
        server.configure({name: value and value.format(port=server.port) for name, value in settings.items()})
        if not ends:
            with server:
                return
        ended = subprocess.run(
            GUNICORN, cwd=ROOT, env=server.environ, capture_output=True, text=True, timeout=20, check=False
        )
        assert ended.returncode == 2
        (line,) = ended.stderr.splitlines()
        assert all(word in line for word in ("AUTH_MODE", "token", "open", "flask clients add"))
        assert SERVER_KEY not in line

    def test_a_socket_that_is_inherited(self, tmp_path: Path) -> None:
        """As from systemd: the server looks at what it really listens on."""
        server = Server(tmp_path, DATABASE_URL=f"sqlite:///{tmp_path}/x.db", OPENAI_API_KEY=SERVER_KEY)
        with socket.create_server(("0.0.0.0", server.port)) as listener:
            script = f"exec 3<&{listener.fileno()}; LISTEN_PID=$$ LISTEN_FDS=1 exec {shlex.join(GUNICORN)}"
            ended = subprocess.run(
                ["bash", "-c", script],
                cwd=ROOT,
                env=server.environ,
                pass_fds=[listener.fileno()],
                capture_output=True,
                text=True,
                timeout=20,
                check=False,
            )
        assert ended.returncode == 2
        assert "AUTH_MODE must be set" in ended.stderr

    def test_a_unix_socket(self, tmp_path: Path) -> None:
        """It is for the server's user and group only, and its callers are not taken for local ones."""
        path = tmp_path / "llm.sock"
        settings = {"OPENAI_API_KEY": SERVER_KEY, "GUNICORN_CMD_ARGS": f"--bind unix:{path}"}
        with Server(tmp_path / "server", ready=None, **settings) as server:
            server.wait_for(path.exists)
            assert stat.S_IMODE(path.stat().st_mode) == 0o660
            with socket.socket(socket.AF_UNIX) as connection:
                connection.settimeout(20)
                connection.connect(str(path))
                connection.sendall(b"GET /api/v1/system/info HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
                assert b"system_routes_private" in b"".join(iter(lambda: connection.recv(65536), b""))
