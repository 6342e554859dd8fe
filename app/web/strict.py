"""StrictBlueprint: flask-smorest's blueprint with a parser that takes only what the API says it takes."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from typing import Any, Literal, cast

import flask
import marshmallow
from flask_smorest import Blueprint
from werkzeug.exceptions import RequestEntityTooLarge, UnsupportedMediaType

from app.errors import FAILURES, ValidationException
from app.models import SESSION_ID_MAX_LENGTH
from app.services.rules import is_writable
from app.web.problems import PROBLEM_MEDIA_TYPE
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


class StrictParser:
    """Reads what a view's `arguments` ask for, in place of webargs, or says clearly what is wrong with it.

    A JSON body has to be UTF-8 `application/json` without content encoding, and holds nothing unknown.
    """

    DEFAULT_VALIDATION_STATUS = 422

    def use_args(self, schema: marshmallow.Schema, *, location: str) -> Callable[[Any], Any]:
        """Give a view what it asks for as its next argument; flask-smorest calls this."""
        read = {"json": _json_body, "headers": _headers, "query": _query}[location]
        unknown: Literal["raise", "exclude"] = "raise" if location == "json" else "exclude"

        def decorator(view: Callable[..., Any]) -> Callable[..., Any]:
            @functools.wraps(view)
            def wrapper(*args: Any, **path: Any) -> Any:
                try:
                    loaded = schema.load(read(schema), unknown=unknown)
                except marshmallow.ValidationError as error:
                    errors = error.normalized_messages()  # type: ignore[no-untyped-call]
                    raise ValidationException("The request breaks a rule", errors=errors, location=location) from None
                return view(*args, loaded, **path)

            return wrapper

        return decorator


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


def _json_body(schema: marshmallow.Schema) -> Any:
    require_json(flask.request)
    try:
        body = json.loads(whole_body(flask.request).decode())
    except (ValueError, RecursionError):
        raise ValidationException("The body is not JSON that can be read", error_code="invalid_json") from None
    _remember_session_id(body)
    return body


def _headers(schema: marshmallow.Schema) -> dict[str, str]:
    given = flask.request.headers
    names = [field.data_key or name for name, field in schema.fields.items()]
    return {name: given[name] for name in names if name in given}


def _query(schema: marshmallow.Schema) -> dict[str, str]:
    return flask.request.args.to_dict()


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
