"""The Flask application without what this server does not use: sessions, asynchronous views, joined slashes; and with
fewer steps for what nearly every request has: an address without variable parts, an answer with its length. Nor does it
compile, at the start, what writes addresses."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping
from typing import Any, cast

import flask
from flask.json.provider import DefaultJSONProvider
from flask.sessions import NullSession, SessionInterface
from werkzeug.datastructures import Headers
from werkzeug.routing import MapAdapter, Rule

from app.config import Config
from app.json_bytes import dump_json

HOST = re.compile(r"[A-Za-z0-9-]{1,63}(\.[A-Za-z0-9-]{1,63})*(:[0-9]{1,5})?")
"""A `Host` that werkzeug has nothing against."""


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


class Response(flask.Response):
    """An answer whose headers are sent as they are, where werkzeug would only copy them, one by one."""

    def get_wsgi_headers(self, environ: Any) -> Headers:
        names = {name.lower() for name, _ in self.headers}
        has_body = self.status_code >= 200 and self.status_code not in {204, 304}
        if has_body and "content-length" in names and not names & {"location", "content-location"}:
            return self.headers
        return super().get_wsgi_headers(environ)


class Routes:
    """What Flask asks of werkzeug's MapAdapter about one request. A known address is looked up by method and path.

    werkzeug makes an adapter for each request, from host, scheme, path and query, and then goes through the path part
    by part. It still does for all that is not in `known`, and so decides what is not found, redirected or refused.
    """

    def __init__(self, app: FlaskApp, asked: flask.Request) -> None:
        self._app, self._asked = app, asked

    def match(self, **options: Any) -> Any:
        environ = self._asked.environ
        rule = self._app.known_routes.get((environ["REQUEST_METHOD"], environ.get("PATH_INFO", "")))
        if rule is None or "HTTP_UPGRADE" in environ or not HOST.fullmatch(environ.get("HTTP_HOST", "")):
            return self._adapter.match(**options)
        return rule, {}

    @functools.cached_property
    def _adapter(self) -> MapAdapter:
        return cast(MapAdapter, flask.Flask.create_url_adapter(self._app, self._asked))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)


class Route(Rule):
    """A rule that compiles how its address is written when it is asked for one, which no request does.

    werkzeug compiles two functions for each rule at once, which was four fifths of the time to make an app.
    """

    def _compile_builder(self, append_unknown: bool = True) -> Callable[..., tuple[str, str]]:
        return lambda rule, **values: Rule._compile_builder(rule, append_unknown)(rule, **values)


class FlaskApp(flask.Flask):
    """Flask with the five above."""

    json_provider_class = JsonProvider
    response_class = Response
    session_interface = NoSessions()
    url_rule_class = Route

    @functools.cached_property
    def known_routes(self) -> Mapping[tuple[str, str], Rule]:
        """The rules without variable parts, by method and path; made with the first request."""
        self.url_map.update()
        rules = [rule for rule in self.url_map.iter_rules() if not rule.arguments]
        return {(method, rule.rule): rule for rule in reversed(rules) for method in rule.methods or ()}

    def create_url_adapter(self, request: flask.Request | None) -> Any:
        return Routes(self, request) if request is not None else super().create_url_adapter(None)

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
