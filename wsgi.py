"""The WSGI entry point: `gunicorn wsgi:app`."""

from __future__ import annotations

import sys

from app import create_app
from app.config import load_env_file
from app.errors import ConfigurationException

try:
    load_env_file()
    app = create_app()
except ConfigurationException as exc:
    # One line for `flask`, which would else go on and say that it has no such command. gunicorn has checked before.
    sys.exit(f"Error: {exc.message}")
