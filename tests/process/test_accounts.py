"""A server's key is not for everybody by mistake."""

from __future__ import annotations

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
        ],
    )
    def test_a_public_address(self, tmp_path: Path, settings: dict[str, str | None], ends: bool) -> None:
        """In open mode that nobody asked for, one line says what to do, and the server does not start."""
        server = Server(tmp_path, DATABASE_URL=f"sqlite:///{tmp_path}/x.db", **settings)
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
