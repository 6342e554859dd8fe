"""What the specification says of each route that no decorator of flask-smorest can say."""

from __future__ import annotations

import re
from typing import Any

from apispec import BasePlugin
from flask import Flask
from werkzeug.routing import Rule

from app.web.access import Access, declared_access
from schemas.openai import MODEL


class DocumentedRoutes(BasePlugin):
    """Takes the token from routes that everybody may use, and puts `model` where an example names a model, so that what
    the documentation's page offers to send can be answered by this server."""

    def __init__(self, app: Flask, model: str) -> None:
        self._app = app
        self._model = model
        self.endpoints: dict[str, str] = {}
        """The routes' endpoints by operation id."""

    def path_helper(
        self,
        path: str | None = None,
        operations: dict[str, Any] | None = None,
        parameters: list[dict[str, Any]] | None = None,
        **known: Any,
    ) -> None:
        """Called by apispec for each route; `known` has flask-smorest's `rule`."""
        rule: Rule = known["rule"]
        for method, operation in (operations or {}).items():
            words = re.findall(r"[a-z0-9]+", rule.rule.replace("<path:", "<"))
            # In the page's links, where Swagger UI complains of an underscore.
            operation["operationId"] = "-".join([method, *words])
            self.endpoints[operation["operationId"]] = rule.endpoint
            if declared_access(self._app, rule.endpoint) is Access.PUBLIC:
                operation["security"] = []
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example", {})
            if body.get("model") == MODEL:
                body["model"] = self._model
        for parameter in parameters or ():
            if parameter["schema"].get("example") == MODEL:
                parameter["schema"]["example"] = self._model
