"""The API's documentation page: Swagger UI from the server's own files, so it works offline and under a strict CSP."""

from __future__ import annotations

from pathlib import Path

import flask_swagger_ui
from flask import Response, redirect, send_from_directory
from werkzeug import Response as Redirect

from app.web.access import Access
from app.web.problems import PROBLEM
from app.web.strict import StrictBlueprint

# Without a description: these are pages, not routes of the API.
blp = StrictBlueprint("docs", __name__, access=Access.PUBLIC, errors=PROBLEM)

SWAGGER_UI = Path(flask_swagger_ui.__file__).parent / "dist"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>LLM Server API</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="stylesheet" href="docs/swagger-ui.css">
<link rel="icon" type="image/png" href="docs/favicon-32x32.png">
</head>
<body>
<div id="swagger-ui"></div>
<noscript>This page needs JavaScript. The specification is at <a href="openapi.json">/openapi.json</a>.</noscript>
<script src="docs/swagger-ui-bundle.js"></script>
<script src="docs/start.js"></script>
</body>
</html>
"""
START = """// What deletes stands last, the innermost first: who tries one after the other finds what was made before.
const rank = (operation) => operation.get("method") === "delete" ? 1000 - operation.get("path").length : 0;
// Swagger UI writes a text in quotes where a media type has "json" in its name, and so lines of JSON as one string.
const lines = () => ({
    afterLoad() {
        const sample = this.fn.getSampleSchema;
        this.fn.getSampleSchema = (schema, type, config, example) => {
            const asItIs = type === "application/x-ndjson" && typeof example === "string";
            return asItIs ? example : sample(schema, type, config, example);
        };
    },
});
SwaggerUIBundle({
    url: "openapi.json",
    dom_id: "#swagger-ui",
    deepLinking: true,
    displayRequestDuration: true,
    plugins: [lines],
    operationsSorter: (one, other) => rank(one) - rank(other),
    validatorUrl: null,
});
"""


@blp.get("/docs")
def page() -> Response:
    """The page itself."""
    return Response(PAGE, mimetype="text/html", headers={"Content-Security-Policy": POLICY})


@blp.get("/docs/")
def page_with_slash() -> Redirect:
    """To the page, whose own links would lead astray from here."""
    return redirect("../docs")


@blp.get("/docs/start.js")
def start() -> Response:
    """The line that starts Swagger UI; a file of its own because the page's policy forbids inline scripts."""
    return Response(START, mimetype="text/javascript")


@blp.get("/favicon.ico")
def icon() -> Response:
    """The page's icon, which browsers ask for at every address."""
    return _file("favicon-32x32.png")


@blp.get("/docs/<path:name>")
def asset(name: str) -> Response:
    """One of Swagger UI's files."""
    return _file(name)


def _file(name: str) -> Response:
    response = send_from_directory(SWAGGER_UI, name)
    response.headers.remove("Cache-Control")
    # Handed to the worker as a file, the answer would never be closed, and so not logged.
    response.direct_passthrough = False
    return response
