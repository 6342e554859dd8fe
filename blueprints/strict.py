"""StrictBlueprint: flask-smorest's blueprint with a parser that takes only what the API says it takes."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any, NoReturn, cast

import flask
import marshmallow
from flask_smorest import Blueprint
from webargs.flaskparser import FlaskParser
from werkzeug.exceptions import RequestEntityTooLarge, UnsupportedMediaType

from app.errors import FAILURES, ValidationException
from app.handlers import PROBLEM_MEDIA_TYPE
from app.models import SESSION_ID_MAX_LENGTH
from app.services.rules import is_writable
from schemas.problem import ProblemSchema

EVENT: dict[str, Any] = {
    "type": "object",
    "description": "One server-sent event; `data` is JSON.",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
}
EVENT_STREAM: dict[str, Any] = {"schema": EVENT, "content_type": "text/event-stream", "success": True}
"""What is documented beside the JSON answer of a route that can stream."""

CHAT_PROBLEMS = (
    *("invalid_json", "validation_error", "unsupported_media_type", "request_too_large"),
    *("api_key_required", "api_key_rejected", "insufficient_quota", "upstream_rate_limited"),
    *("model_not_found", "upstream_rejected_request", "internal_error"),
    *("server_busy", "server_shutting_down", "no_api_key_available", "server_credentials_rejected"),
    *("server_quota_exhausted", "upstream_unavailable", "upstream_timeout", "upstream_error"),
    *("upstream_failed", "upstream_bad_response", "upstream_connection_error"),
    *("unauthorized", "model_not_allowed", "model_price_unknown", "free_mode_not_allowed"),
    *("rate_limited", "concurrency_limited", "budget_exceeded", "store_unavailable"),
)


class StrictParser(FlaskParser):
    """Reads JSON bodies: UTF-8 `application/json` without content encoding, or a clear error."""

    DEFAULT_UNKNOWN_BY_LOCATION = {**FlaskParser.DEFAULT_UNKNOWN_BY_LOCATION, "json": marshmallow.RAISE}

    def load_json(self, req: flask.Request, schema: marshmallow.Schema) -> Any:
        """The parsed body. Raises 415 for another media type and ValidationException `invalid_json`."""
        require_json(req)
        try:
            body = json.loads(whole_body(req).decode())
        except (ValueError, RecursionError):
            raise ValidationException("The body is not JSON that can be read", error_code="invalid_json") from None
        _remember_session_id(body)
        return body

    def handle_error(
        self,
        error: marshmallow.ValidationError,
        req: flask.Request,
        schema: marshmallow.Schema,
        *,
        error_status_code: int | None,
        error_headers: Mapping[str, str] | None,
    ) -> NoReturn:
        """Raise our own exception for what marshmallow found."""
        location, errors = next(iter(error.messages_dict.items()))
        raise ValidationException("The request breaks a rule", errors=errors, location=location) from None


class StrictBlueprint(Blueprint):
    """A blueprint whose views are documented with every problem they can answer."""

    ARGUMENTS_PARSER = StrictParser()

    def arguments(self, schema: type[marshmallow.Schema], **options: Any) -> Callable[[Any], Any]:
        """As flask-smorest's, with one schema object for all requests: making one takes longer than using it."""
        return cast(Callable[[Any], Any], super().arguments(schema(), **options))

    def problems(
        self,
        *codes: str,
        schema: type[marshmallow.Schema] = ProblemSchema,
        content_type: str = PROBLEM_MEDIA_TYPE,
    ) -> Callable[[Any], Any]:
        """Document the error codes of a view, grouped by status."""

        by_status: dict[int, list[str]] = {}
        for code in codes:
            by_status.setdefault(FAILURES[code].status, []).append(f"`{code}`")
        responses = {
            str(status): {
                "description": " or ".join(names),
                "content": {content_type: {"schema": schema}},
            }
            for status, names in by_status.items()
        }
        return cast(Callable[[Any], Any], self.doc(responses=responses))


def require_json(req: flask.Request) -> None:
    """Raise 415 unless the body is said to be `application/json` in UTF-8 without content encoding."""
    charset = req.mimetype_params.get("charset", "utf-8").lower()
    if req.mimetype != "application/json" or charset != "utf-8" or "Content-Encoding" in req.headers:
        raise UnsupportedMediaType


def whole_body(req: flask.Request) -> bytes:
    """The body. Werkzeug cuts a chunked one at the limit where it has to refuse it."""
    raw = req.get_data()
    if req.content_length is None and len(raw) == req.max_content_length and req.environ["wsgi.input"].read(1):
        raise RequestEntityTooLarge
    return raw


def _remember_session_id(body: Any) -> None:
    """Problems echo the session id, if it is one that a good request could have."""
    given = body.get("session_id") if isinstance(body, dict) else None
    if isinstance(given, str) and len(given) <= SESSION_ID_MAX_LENGTH and is_writable(given):
        flask.g.session_id = given
