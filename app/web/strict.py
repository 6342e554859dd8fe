"""StrictBlueprint: flask-smorest's blueprint with declared access and errors, and a parser that takes only what the API
says it takes."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar, cast

import flask
import marshmallow
from flask_smorest import Blueprint
from webargs.flaskparser import FlaskParser

from app.errors import ValidationException
from app.failures import FAILURES
from app.models import SESSION_ID_MAX_LENGTH
from app.services.rules import is_writable
from app.web.access import Access
from app.web.bodies import require_json, whole_body
from app.web.middleware import this_request
from app.web.problems import PROBLEM, ErrorDialect, named

View = TypeVar("View", bound=Callable[..., Any])

EVENT: dict[str, Any] = {
    "type": "object",
    "description": "One server-sent event; `data` is JSON.",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
}
EVENT_STREAM: dict[str, Any] = {"schema": EVENT, "content_type": "text/event-stream", "success": True}
"""What is documented beside the JSON answer of a route that can stream."""

MEMBERS_MAX = 1000
"""Of so many members of a body those that the schema does not have are named."""

CHAT_PROBLEMS = (
    "invalid_json",
    "validation_error",
    "max_tokens_too_small",
    "unsupported_media_type",
    "request_too_large",
    "api_key_required",
    "api_key_rejected",
    "insufficient_quota",
    "upstream_rate_limited",
    "model_not_found",
    "upstream_rejected_request",
    "upstream_forbidden",
    "internal_error",
    "server_busy",
    "server_shutting_down",
    "no_api_key_available",
    "server_credentials_rejected",
    "server_quota_exhausted",
    "upstream_unavailable",
    "upstream_timeout",
    "upstream_error",
    "upstream_failed",
    "upstream_bad_response",
    "upstream_connection_error",
    "unauthorized",
    "auth_mode_required",
    "misdirected_request",
    "model_not_allowed",
    "not_covered",
    "response_not_found",
    "model_price_unknown",
    "free_mode_not_allowed",
    "rate_limited",
    "concurrency_limited",
    "budget_exceeded",
    "store_unavailable",
)
ADMIN_PROBLEMS = ("unauthorized", "forbidden", "system_routes_private", "store_unavailable", "internal_error")


class StrictParser(FlaskParser):
    """Reads what a view's `arguments` ask for, or says clearly what is wrong with it.

    A JSON body has to be UTF-8 `application/json`, and holds nothing unknown.
    """

    # A name that a report does not know would silently widen it to everything.
    DEFAULT_UNKNOWN_BY_LOCATION = FlaskParser.DEFAULT_UNKNOWN_BY_LOCATION | {"query": marshmallow.RAISE}

    def load_json(self, req: flask.Request, schema: marshmallow.Schema) -> Any:
        """The body; 415 and 400 tell what is wrong with it, before its fields are looked at."""
        asked = this_request()
        require_json(asked)
        try:
            body = json.loads(whole_body(asked).decode())
        except (ValueError, RecursionError):
            raise ValidationException("The body is not JSON that can be read", error_code="invalid_json") from None
        _remember_session_id(body)
        # More members than the schema has are refused for the first of those that it does not have.
        return body if not isinstance(body, dict) else dict(itertools.islice(body.items(), MEMBERS_MAX))

    def load_headers(self, req: flask.Request, schema: marshmallow.Schema) -> dict[str, str]:
        """The headers that the schema names."""
        given = req.headers
        names = (field.data_key or name for name, field in schema.fields.items())
        return {name: value for name in names if (value := given.get(name)) is not None}

    def load_querystring(self, req: flask.Request, schema: marshmallow.Schema) -> dict[str, str]:
        """The query; of a name that is given twice the first value."""
        return req.args.to_dict()

    def handle_error(self, error: marshmallow.ValidationError, req: flask.Request, *_: Any, **__: Any) -> NoReturn:
        """Name the broken rules by location and field."""
        ((location, errors),) = error.normalized_messages().items()  # type: ignore[no-untyped-call]
        raise _broken_rules(errors, location) from None


def _broken_rules(errors: dict[str, Any], location: str) -> ValidationException:
    if marshmallow.exceptions.SCHEMA not in errors:
        return ValidationException(f"These fields break a rule: {named(errors)}", errors=errors, location=location)
    error = ValidationException("The request breaks a rule", errors=errors, location=location)
    error.explain("The body must be a JSON object", "본문은 JSON 객체여야 합니다.")
    return error


class StrictBlueprint(Blueprint):
    """A blueprint that declares who may use its routes and how it tells a failure.

    `access` holds for all its routes; a route that names its own, `@blp.get("/x", access=…)`, has that. `key_header`: a
    header that may carry a token or a key as `Authorization` does. Views are documented with every problem they can
    answer.
    """

    ARGUMENTS_PARSER = StrictParser()

    def __init__(
        self,
        name: str,
        import_name: str,
        *,
        access: Access | None = None,
        errors: ErrorDialect = PROBLEM,
        key_header: str = "",
        **options: Any,
    ) -> None:
        self.access: dict[str, Access] = {}
        self.errors = errors
        self.key_header = key_header
        self._access = access
        super().__init__(name, import_name, **options)

    def route(self, rule: str, *, access: Access | None = None, **options: Any) -> Callable[[View], View]:
        """As flask-smorest's, with the access to this route where it is not the blueprint's."""
        decorator = super().route(rule, **options)
        declared = access or self._access

        def declare(view: View) -> View:
            if declared is not None:
                self.access[f"{self.name}.{view.__name__}"] = declared
            return cast(View, decorator(view))

        return declare

    def arguments(self, schema: type[marshmallow.Schema], **options: Any) -> Callable[[View], View]:
        """As flask-smorest's, with one schema object for all requests: making one takes longer than using it."""
        return cast(Callable[[View], View], super().arguments(schema(), **options))

    def problems(self, *codes: str) -> Callable[[View], View]:
        """Document the error codes of a view, grouped by status."""
        by_status: dict[int, list[str]] = {}
        for code in codes:
            by_status.setdefault(FAILURES[code].status, []).append(code)
        responses = {str(status): self._documented(found) for status, found in by_status.items()}
        return cast(Callable[[View], View], self.doc(responses=responses))

    def _documented(self, codes: list[str]) -> dict[str, Any]:
        """The response of one status, with an example of each code."""
        examples = {code: f"{self.errors.name}_{code}" for code in codes}
        content = {self.errors.media_type: {"schema": self.errors.schema, "examples": examples}}
        return {"description": " or ".join(f"`{code}`" for code in codes), "content": content}


def _remember_session_id(body: Any) -> None:
    """Problems echo the session id, if it is one that a good request could have."""
    given = body.get("session_id") if isinstance(body, dict) else None
    if isinstance(given, str) and len(given) <= SESSION_ID_MAX_LENGTH and is_writable(given):
        flask.g.session_id = given
