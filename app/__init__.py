"""The application: `create_app()` makes it.

gunicorn's master reads settings from this package before it forks, and must not load what a gevent worker still has to
patch. So the factory is imported when an app is made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask

    from app.config import Config


def create_app(config: Config | None = None) -> Flask:
    """Make the WSGI application that `config` describes (default: the environment); raises ConfigurationException."""
    from app.config import Config
    from app.factory import make_app

    return make_app(config or Config.from_env())
