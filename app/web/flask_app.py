"""The Flask application without what this server does not use: sessions, asynchronous views, joined slashes."""

from __future__ import annotations

from typing import Any

import flask
from flask.json.provider import DefaultJSONProvider
from flask.sessions import NullSession, SessionInterface

from app.config import Config
from app.json_bytes import dump_json


class NoSessions(SessionInterface):
    """No request has a session, so none is looked for, and no answer depends on a cookie."""

    _none = NullSession()

    def open_session(self, app: flask.Flask, request: flask.Request) -> NullSession:
        return self._none

    def is_null_session(self, obj: object) -> bool:
        return True


class JsonProvider(DefaultJSONProvider):
    """Compact JSON by dump_json; with options, or for what is no plain value (a date), by Flask's own way."""

    ensure_ascii = False
    sort_keys = False

    def dumps(self, obj: Any, **kwargs: Any) -> str:
        if kwargs:
            return super().dumps(obj, **kwargs)
        try:
            return dump_json(obj).decode()
        except TypeError:
            return super().dumps(obj)


class FlaskApp(flask.Flask):
    """Flask with the two above."""

    json_provider_class = JsonProvider
    session_interface = NoSessions()

    def ensure_sync(self, func: Any) -> Any:
        """No view here is asynchronous; each decorator of flask-smorest would ask again with every request."""
        return func


def make_flask(config: Config) -> flask.Flask:
    """The application, still without routes and hooks."""
    app = FlaskApp("app", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = config.max_request_bytes
    # werkzeug would redirect `/v1//responses` to an address that begins with http://, a POST with its key included.
    app.url_map.merge_slashes = False
    return app
