"""ServerApi: flask-smorest's Api with our specification settings and our error format."""

from __future__ import annotations

from flask import Flask, Response
from flask_smorest import Api
from werkzeug.exceptions import HTTPException

from app import __version__
from app.web.problems import PROBLEM_MEDIA_TYPE, handle_http_exception
from schemas.problem import ProblemSchema

DESCRIPTION = """A self-hosted chat server over OpenAI-compatible models.

Every answer of 400 and above is a problem document (RFC 9457), under `/v1/` an error in OpenAI's shape; its `code` is
stable. Every answer carries `X-Request-ID`; every 429 and 503 carries `Retry-After`."""


class ServerApi(Api):
    """Serves the specification at /openapi.json."""

    ERROR_SCHEMA = ProblemSchema

    def __init__(self, app: Flask) -> None:
        app.config |= {
            "API_TITLE": "LLM Server",
            "API_VERSION": __version__,
            "OPENAPI_VERSION": "3.1.0",
            "OPENAPI_URL_PREFIX": "/",
            "OPENAPI_JSON_PATH": "openapi.json",
        }
        super().__init__(app, spec_kwargs={"info": {"description": DESCRIPTION}})

    def handle_http_exception(self, error: HTTPException) -> Response:
        """Answer framework errors as problems."""
        return handle_http_exception(error)

    def _register_responses(self) -> None:
        """Describe what flask-smorest refers to by name: other problems, and broken rules."""
        content = {PROBLEM_MEDIA_TYPE: {"schema": ProblemSchema}}
        for name, description in [("DEFAULT_ERROR", "Any other problem"), ("UNPROCESSABLE_ENTITY", "A broken rule")]:
            self.spec.components.response(name, {"description": description, "content": content}, lazy=True)

    def _register_pagination_header(self) -> None:
        """Nothing here comes in pages."""
