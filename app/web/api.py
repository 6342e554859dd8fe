"""ServerApi: flask-smorest's Api with our specification settings.

flask-smorest's two methods that begin with an underscore are overridden because nothing public leaves out or replaces
what they put into the specification: the headers of paginated answers, and its own error responses.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping

from apispec import APISpec
from flask import Flask
from flask_smorest import Api

from app.failures import FAILURES
from app.version import __version__
from app.web.documented import DocumentedRoutes
from app.web.problems import ANTHROPIC, OPENAI, PROBLEM
from app.web.strict import StrictBlueprint
from schemas.chat import SEGMENTS_RULE
from schemas.problem import ProblemSchema

DESCRIPTION = """A self-hosted chat server over OpenAI-compatible models.

Every answer of 400 and above is a problem document (RFC 9457), under `/v1/` an error in OpenAI's shape, under
`/v1/messages` one in Anthropic's; its `code` (`error_code`) is stable. Every answer carries `X-Request-ID`; every 429
and 503 carries `Retry-After`."""


OTHER_CODES = ("bad_request", "method_not_allowed", "internal_error")
"""What any request may be answered with."""
TOKEN = {
    "type": "http",
    "scheme": "bearer",
    "description": "A client's token, `llms_…`; below `/v1/` the caller's own API key where no token is required.",
}


class ServerApi(Api):
    """Serves the specification at /openapi.json.

    The specification is made when it is asked for first: that takes as long as all the rest of making an app.
    """

    ERROR_SCHEMA = ProblemSchema

    def __init__(self, app: Flask, model: str) -> None:
        """`model`: what the examples of requests name."""
        self._undescribed: list[StrictBlueprint] = []
        self._lock = threading.RLock()
        app.config |= {
            "API_TITLE": "LLM Server",
            "API_VERSION": __version__,
            "OPENAPI_VERSION": "3.1.0",
            "OPENAPI_URL_PREFIX": "/",
            "OPENAPI_JSON_PATH": "openapi.json",
        }
        told = {
            "info": {"description": DESCRIPTION},
            # Relative to the specification's own address, so that a prefix in front of it is kept.
            "servers": [{"url": "."}],
            # The empty one says that no token has to be sent where none is required.
            "security": [{"token": []}, {}],
        }
        documented = DocumentedRoutes(app, model)
        self.endpoints: Mapping[str, str] = documented.endpoints
        super().__init__(app, spec_kwargs=told | {"extra_plugins": [documented]})

    def register(self, *blueprints: StrictBlueprint) -> None:
        """Register blueprints; only those with a description are in the specification."""
        for blueprint in blueprints:
            self._app.register_blueprint(blueprint)
        described = [blueprint for blueprint in blueprints if blueprint.description]
        names = self._app.extensions["flask-smorest"]["blp_name_to_api"]
        names.update({blueprint.name: self for blueprint in described})
        self._undescribed += described

    @property
    def spec(self) -> APISpec:
        """The specification, complete."""
        with self._lock:
            if self._undescribed:
                self._register_problems()
            while self._undescribed:
                blueprint = self._undescribed[0]
                blueprint.register_views_in_doc(self, self._app, self._spec, name=blueprint.name, parameters=None)
                self._spec.tag({"name": blueprint.name, "description": blueprint.description})
                if "ChatRequest" in self._spec.components.schemas:
                    self._spec.components.schemas["ChatRequest"].update(SEGMENTS_RULE)
                self._undescribed.pop(0)
            return self._spec

    @spec.setter
    def spec(self, spec: APISpec) -> None:
        self._spec = spec

    def _register_problems(self) -> None:
        """Describe what flask-smorest refers to by name: other problems, and broken rules."""
        broken = PROBLEM.response(["validation_error"]) | {"description": "A broken rule"}
        self._spec.components.response("UNPROCESSABLE_ENTITY", broken, lazy=True)
        for dialect in (PROBLEM, OPENAI, ANTHROPIC):
            other = dialect.response(OTHER_CODES) | {"description": "Any other problem"}
            self._spec.components.response(dialect.other, other, lazy=True)
            for code in FAILURES:
                # apispec overlooks what only a lazy response refers to.
                one = {"value": dialect.example(code)}
                self._spec.components.example(f"{dialect.name}_{code}", one, lazy=code not in OTHER_CODES)
        self._spec.components.security_scheme("token", TOKEN)

    def _register_responses(self) -> None:
        """The answers that are no success are described with the rest."""

    def _register_pagination_header(self) -> None:
        """Nothing here comes in pages."""
