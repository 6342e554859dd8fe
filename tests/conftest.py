"""Fixtures shared by all tests: a clean environment, a scripted upstream, and a fresh app on top of it."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from app import create_app
from app.config import Config
from tests.server import Server
from tests.upstream import Upstream

SERVER_KEY = "sk-server-0123456789"
CALLER_KEY = "sk-caller-0123456789"


@pytest.fixture(autouse=True)
def _clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy, key or setting of the machine reaches a test."""
    ours = Config.__dataclass_fields__
    for name in list(os.environ):
        if name.lower().endswith("_proxy") or name.startswith("OPENAI_") or name.lower() in ours:
            monkeypatch.delenv(name)


@pytest.fixture
def upstream() -> Iterator[Upstream]:
    with Upstream() as server:
        yield server


@pytest.fixture
def make_app(upstream: Upstream) -> Callable[..., Flask]:
    """Build an app over the scripted upstream; keyword arguments are settings."""

    def make(**settings: Any) -> Flask:
        return create_app(Config(**({"openai_api_key": SERVER_KEY, "openai_base_url": upstream.base_url} | settings)))

    return make


@pytest.fixture
def app(make_app: Callable[..., Flask]) -> Flask:
    return make_app()


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()


@pytest.fixture
def start_server(upstream: Upstream, tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start real gunicorn over the scripted upstream; keyword arguments are settings. All are stopped at the end."""
    with contextlib.ExitStack() as running:

        def start(**settings: Any) -> Server:
            directory = tmp_path / f"server-{len(list(tmp_path.iterdir()))}"
            defaults = {"OPENAI_API_KEY": SERVER_KEY, "OPENAI_BASE_URL": upstream.base_url}
            return running.enter_context(Server(directory, **(defaults | settings)))

        yield start
