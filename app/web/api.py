"""ServerApi: flask-smorest's Api with our specification settings.

flask-smorest's two methods that begin with an underscore are overridden because nothing public leaves out or replaces
what they put into the specification: the headers of paginated answers, and its own error responses.
"""

from __future__ import annotations

from flask import Flask
from flask_smorest import Api

from app.version import __version__
from app.web.problems import PROBLEM
from app.web.strict import StrictBlueprint
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

    def register(self, *blueprints: StrictBlueprint) -> None:
        """Register blueprints; only those with a description are in the specification."""
        for blueprint in blueprints:
            (self.register_blueprint if blueprint.description else self._app.register_blueprint)(blueprint)

    def _register_responses(self) -> None:
        """Describe what flask-smorest refers to by name: other problems, and broken rules."""
        content = {PROBLEM.media_type: {"schema": PROBLEM.schema}}
        for name, description in [("DEFAULT_ERROR", "Any other problem"), ("UNPROCESSABLE_ENTITY", "A broken rule")]:
            self.spec.components.response(name, {"description": description, "content": content}, lazy=True)

    def _register_pagination_header(self) -> None:
        """Nothing here comes in pages."""
