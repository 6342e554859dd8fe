"""The WSGI entry point: `gunicorn wsgi:app`."""

from __future__ import annotations

from flask.cli import NoAppException

from app import create_app
from app.config import load_env_file
from app.errors import ConfigurationException

try:
    load_env_file()
    app = create_app()
except ConfigurationException as exc:
    # `flask` prints it as one line; gunicorn has checked the settings before.
    raise NoAppException(exc.message) from exc
