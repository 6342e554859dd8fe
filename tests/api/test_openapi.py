"""The specification and its page: complete, current, true, and served from our own files."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest
from flask import Flask
from flask.testing import FlaskClient

from tests.unit.test_openapi import COMMITTED, SPEC
from tests.upstream import Upstream, error_document, reply, text

CHAT = "/api/v1/chat"


@pytest.fixture(scope="module")
def schema() -> Any:
    """The specification as schemathesis reads it. Each pytest worker would pay half a second for its import."""
    import schemathesis

    return schemathesis.openapi.from_path(COMMITTED)


def test_the_committed_specification_is_current(client: FlaskClient) -> None:
    """`make openapi` was run after the last change."""
    assert client.get("/openapi.json").get_json() == SPEC


def test_every_route_is_in_it(app: Flask) -> None:
    """All routes but the pages, with their methods."""
    pages = ("docs.", "api-docs.", "front.", "console")
    routes = {
        (rule.rule, method.lower())
        for rule in app.url_map.iter_rules()
        for method in rule.methods or ()
        if method not in {"HEAD", "OPTIONS"} and not rule.endpoint.startswith(pages)
    }
    described = {(path, method) for path, item in SPEC["paths"].items() for method in item if method != "parameters"}
    assert described == {(re.sub("<(?:path:)?(.*?)>", r"{\1}", path), method) for path, method in routes}


@pytest.mark.parametrize(
    "answer",
    [
        text("hi", status="incomplete", incomplete_details={"reason": "max_output_tokens"}),
        text("hi", usage=None, temperature=None, model=None, id=None),
        *[reply(status, error_document()) for status in (302, 400, 401, 403, 404, 418, 422, 429, 500, 503)],
        reply(404, error_document("model_not_found", param="model")),
        reply(429, error_document("insufficient_quota")),
        reply(200, b"<html>"),
    ],
)
@pytest.mark.parametrize("caller", [True, False])
def test_answers_to_faults_are_as_documented(
    schema: Any, make_app: Any, upstream: Upstream, answer: Any, caller: bool
) -> None:
    """What upstream does wrong gives an answer that the specification describes."""
    upstream.default = answer
    payer = {"openai_api_key": "sk-12345678"} if caller else {"free_mode": True}
    given = make_app(request_timeout=0.5).test_client().post(CHAT, json={"user_message": "hi"} | payer)
    operation = schema[CHAT]["POST"]
    assert str(given.status_code) in SPEC["paths"][CHAT]["post"]["responses"]
    operation.validate_response(given)


class Assets(HTMLParser):
    """Collects what a page loads, and its inline scripts."""

    def __init__(self) -> None:
        super().__init__()
        self.loaded: list[str] = []
        self.inline = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.loaded += [value for name in ("src", "href") if (value := values.get(name))]
        self.inline += tag == "style" or (tag == "script" and "src" not in values)
        self.inline += any(name.startswith("on") or name == "style" for name in values)


def test_the_page_works_from_local_files(client: FlaskClient) -> None:
    """Everything the page loads is ours and is there: it works with the network off."""
    page = client.get("/docs")
    assert (page.status_code, page.mimetype) == (200, "text/html")
    assets = Assets()
    assets.feed(page.get_data(as_text=True))
    assert len(assets.loaded) >= 5
    assert assets.inline == 0
    types = {".css": "text/css", ".js": "text/javascript", ".png": "image/png", ".json": "application/json"}
    for address in set(assets.loaded) - {"./"}:
        # Relative, so that it works behind a prefix too.
        assert re.match(r"\w", address)
        with client.get(f"/{address}") as answer:
            assert (answer.status_code, answer.mimetype) == (200, types[Path(address).suffix])


@pytest.mark.parametrize("path", ["/docs/"])
@pytest.mark.parametrize("prefix", ["", "/behind/a/proxy"])
def test_a_browser_finds_the_page(client: FlaskClient, path: str, prefix: str) -> None:
    """Relative, so that neither a prefix nor https is lost."""
    answer = client.get(path)
    assert answer.status_code == 302
    assert not answer.location.startswith(("/", "http"))
    assert urljoin(f"https://name{prefix}{path}", answer.location) == f"https://name{prefix}/docs"


def test_a_browser_finds_an_icon(client: FlaskClient) -> None:
    """At the address that it asks for unbidden."""
    with client.get("/favicon.ico") as answer:
        assert (answer.status_code, answer.mimetype) == (200, "image/png")


def test_the_page_keeps_its_policy(client: FlaskClient) -> None:
    """The content security policy allows this server and no other, and no inline script."""
    policy = dict(
        part.strip().split(" ", 1) for part in client.get("/docs").headers["Content-Security-Policy"].split(";")
    )
    assert (policy["default-src"], policy["script-src"], policy["connect-src"]) == ("'none'", "'self'", "'self'")
    assert policy["frame-ancestors"] == "'none'"
    assert "http" not in str(policy)
    with client.get("/docs/swagger-ui.css") as style:
        urls = re.findall(r"url\(\s*[\"']?([^\"')]{0,40})", style.get_data(as_text=True))
    assert all(url.startswith(("data:", "#")) for url in urls)
    assert "http" not in client.get("/docs/start.js").get_data(as_text=True)


def test_every_query_is_read_strictly(client: FlaskClient) -> None:
    """A parameter that a route does not know is refused on each route that has some: else it would be ignored."""
    queried = [
        path
        for path, item in SPEC["paths"].items()
        if any(parameter["in"] == "query" for parameter in item.get("get", {}).get("parameters", ()))
    ]
    assert len(queried) >= 3
    for path in queried:
        answer = client.get(re.sub(r"\{.*?\}", "x", path), query_string={"unknown": "1"})
        assert (answer.status_code, list(answer.get_json()["errors"]["query"])) == (422, ["unknown"]), path
