"""Our application takes fewer steps than Flask's own, with the same result: both are asked here."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable
from typing import Any

import flask
import pytest
from flask import Flask
from werkzeug.exceptions import HTTPException
from werkzeug.routing import Map, RequestRedirect, Rule
from werkzeug.test import EnvironBuilder

from app import create_app
from app.config import Config
from app.web.flask_app import Response, Routes

METHODS = ("GET", "POST", "HEAD", "OPTIONS", "PUT")
HOSTS = (
    "localhost",
    "LOCALHOST:8000",
    "[::1]:80",
    "",
    "a..b",
    "x" * 64,
    "a b",
    "é",
    "evil.example:99999999",
    ".",
    "a_b",
)


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Flask:
    """One for all tests here, which only ask what it would do."""
    return create_app(Config(database_url=f"sqlite:///{tmp_path_factory.mktemp('store')}/llm_server.db"))


def outcome(match: Callable[[], Any]) -> Any:
    """The rule and its arguments, or what was raised."""
    try:
        rule, arguments = match()
    except RequestRedirect as exc:
        return type(exc), exc.new_url
    except HTTPException as exc:
        return type(exc), sorted(getattr(exc, "valid_methods", None) or ())
    return rule.rule, rule.endpoint, dict(arguments)


def both(app: Flask, **request: Any) -> tuple[Any, Any]:
    """What Flask's own adapter and ours make of a request."""
    host = request.pop("host", "localhost")
    environ = EnvironBuilder(**request).get_environ() | {"HTTP_HOST": host}
    asked = app.request_class(environ)
    theirs = outcome(lambda: flask.Flask.create_url_adapter(app, asked).match(return_rule=True))  # type: ignore[union-attr]
    return theirs, outcome(lambda: app.create_url_adapter(asked).match(return_rule=True))  # type: ignore[union-attr]


def test_both_find_the_same_route(app: Flask) -> None:
    """For each address that there is, and for others that are like it, by each method."""
    rules = {text for rule in app.url_map.iter_rules() for text in (rule.rule, re.sub("<.*?>", "x", rule.rule))}
    found = set()
    for rule, method in itertools.product(rules, METHODS):
        for path in (rule, f"{rule}/", rule.rstrip("/"), f"/{rule}", rule.upper(), f"{rule}%2f", f"{rule}?a=b", "/v1"):
            theirs, ours = both(app, path=path, method=method)
            assert ours == theirs
            found.add(theirs[0])
    assert len(found) > 20


def test_an_address_is_written_as_werkzeug_does(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing is compiled for it before: it was most of what it takes to make an app."""
    rules = list(app.url_map.iter_rules())
    monkeypatch.delattr(Rule, "_compile_builder")
    ours = [rule.empty() for rule in rules]
    Map(ours)
    monkeypatch.undo()
    theirs = [Rule(rule.rule, methods=rule.methods, endpoint=rule.endpoint) for rule in rules]
    Map(theirs)
    for rule, other in zip(ours, theirs, strict=True):
        values = {name: f"a/{name} é" for name in rule.arguments} | {"more": "x&y"}
        for append_unknown in (True, False):
            assert rule.build(values, append_unknown) == other.build(values, append_unknown) is not None


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("upgrade", [{}, {"Connection": "Upgrade", "Upgrade": "websocket"}, {"Upgrade": "websocket"}])
@pytest.mark.parametrize("path", ["/api/v1/chat", "/v1/models/x", "/nope"])
def test_a_host_that_is_none_is_refused_by_both(app: Flask, host: str, upgrade: dict[str, str], path: str) -> None:
    """And a websocket is found nowhere."""
    theirs, ours = both(app, path=path, method="POST", host=host, headers=upgrade)
    assert ours == theirs


def test_a_usual_request_needs_no_adapter(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is what takes the time."""
    monkeypatch.delattr(flask.Flask, "create_url_adapter")
    asked = app.request_class(EnvironBuilder(path="/api/v1/chat", method="POST").get_environ())
    rule, arguments = Routes(app, asked).match(return_rule=True)  # type: ignore[arg-type]
    assert (rule.endpoint, arguments) == ("chat.chat", {})


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("status", [200, 201, 204, 304, 404, 500])
@pytest.mark.parametrize("body", [b"x", "é", b"", [b"a", b"b"], None], ids=repr)
@pytest.mark.parametrize("headers", [{}, {"Location": "/é"}, {"Content-Location": "/é"}, {"X-A": "b", "Etag": "c"}])
def test_both_send_the_same_headers(method: str, status: int, body: Any, headers: dict[str, str]) -> None:
    """Whatever is answered to whatever method."""
    environ = EnvironBuilder(method=method).get_environ()
    ours, theirs = (kind(body, status, headers).get_wsgi_response(environ) for kind in (Response, flask.Response))
    assert ours[1:] == theirs[1:]
    assert list(ours[0]) == list(theirs[0])


def test_an_answer_of_flasks_own_kind_is_sent_as_ours(app: Flask) -> None:
    """Views make flask.Response."""
    with app.test_request_context("/livez"):
        assert type(app.make_response(flask.Response(b"x"))) is Response
