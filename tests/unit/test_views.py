"""How a view is served: its arguments are read, it is called, and what it gives is written, each once."""

from __future__ import annotations

from typing import Any

import flask
import flask_smorest
import pytest
from flask import Flask
from flask.testing import FlaskClient
from marshmallow import Schema, fields

from app.web.access import Access
from app.web.api import ServerApi
from app.web.problems import register_error_handlers
from app.web.strict import ServedView, StrictBlueprint


class HeadersSchema(Schema):
    """One header."""

    kind = fields.String(data_key="X-Kind")


class QuerySchema(Schema):
    """One name."""

    page = fields.Integer()


class ThingSchema(Schema):
    """One member."""

    name = fields.String()


class Looked(ThingSchema):
    """Counts how often it reads and writes."""

    loads = dumps = 0

    def load(self, *given: Any, **options: Any) -> Any:
        Looked.loads += 1
        return super().load(*given, **options)

    def dump(self, *given: Any, **options: Any) -> Any:
        Looked.dumps += 1
        return super().dump(*given, **options)


@pytest.fixture
def caller() -> FlaskClient:
    """Of an application with two routes."""
    blp = StrictBlueprint("things", __name__, access=Access.PUBLIC)

    @blp.post("/things/<shelf>")
    @blp.arguments(HeadersSchema, location="headers")
    @blp.arguments(QuerySchema, location="query")
    @blp.arguments(Looked)
    @blp.response(201, Looked)
    @blp.problems("validation_error")
    def add(headers: dict[str, str], query: dict[str, int], thing: dict[str, str], shelf: str) -> Any:
        thing["name"] += f" {headers.get('kind')} {query.get('page')} {shelf}"
        return (thing, 202, {"X-Later": "yes"}) if "page" in query else thing

    @blp.get("/things")
    @blp.response(200, ThingSchema)
    def show() -> flask.Response:
        return flask.Response("as it is", 203)

    app = Flask("test")

    @app.before_request
    def call() -> None:
        flask.g.call = type("FakeCall", (), {"request_id": "r"})

    app.register_blueprint(blp)
    register_error_handlers(app)
    Looked.loads = Looked.dumps = 0
    return app.test_client()


def test_arguments_come_in_the_order_of_the_decorators(caller: FlaskClient) -> None:
    """Each is read once, and the value is written once, with the documented status."""
    answer = caller.post("/things/top?", json={"name": "é"}, headers={"X-Kind": "red", "X-Other": "1"})
    assert (answer.status_code, answer.content_type) == (201, "application/json")
    assert answer.data == '{"name":"é red None top"}\n'.encode()
    assert (Looked.loads, Looked.dumps) == (1, 1)


def test_a_view_may_give_status_and_headers(caller: FlaskClient) -> None:
    """With the value that is written."""
    answer = caller.post("/things/top?page=2", json={"name": "x"})
    assert (answer.status_code, answer.headers["X-Later"]) == (202, "yes")
    assert answer.get_json() == {"name": "x None 2 top"}


def test_a_response_is_the_answer(caller: FlaskClient) -> None:
    """Nothing is written by a schema."""
    answer = caller.get("/things")
    assert (answer.status_code, answer.data) == (203, b"as it is")


@pytest.mark.parametrize(
    ("query", "body", "location"),
    [("?page=2&size=1", {"name": "x"}, "query"), ("?page=x", {"name": "x"}, "query"), ("", {"nam": "x"}, "json")],
)
def test_what_is_not_documented_is_refused(caller: FlaskClient, query: str, body: Any, location: str) -> None:
    """By the place where it was found."""
    answer = caller.post(f"/things/top{query}", json=body)
    assert answer.status_code == 422
    assert answer.get_json()["errors"].keys() == {location}


def test_a_view_is_documented_when_somebody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker starts sooner for it; once, for however many applications."""
    told: list[dict[str, Any]] = []
    document = flask_smorest.Blueprint.doc
    monkeypatch.setattr(
        flask_smorest.Blueprint, "doc", lambda blp, **members: told.append(members) or document(**members)
    )
    blueprint = StrictBlueprint("watched", __name__, description="of this test", access=Access.PUBLIC)

    @blueprint.get("/x")
    @blueprint.doc(summary="what it does")
    @blueprint.problems("validation_error")
    def view() -> str:
        return ""

    apis = [ServerApi(Flask(__name__), "m") for _ in range(2)]
    for api in apis:
        api.register(blueprint)
    assert told == []
    for api in apis * 2:
        assert api.spec.to_dict()["paths"]["/x"]["get"]["summary"] == "what it does"
    assert [[*members] for members in told] == [["responses"], ["summary"]]


def test_every_documented_view_is_served_without_the_functions_around_it(app: Flask) -> None:
    """flask-smorest's functions are for the documentation; the views below them are not wrapped."""
    documented = [
        endpoint
        for blueprint in app.blueprints.values()
        if isinstance(blueprint, StrictBlueprint) and blueprint.description
        for endpoint in blueprint.access
    ]
    assert "chat.chat" in documented
    for endpoint in documented:
        view = app.view_functions[endpoint]
        assert isinstance(view, ServedView)
        assert not hasattr(view._view, "__wrapped__")
