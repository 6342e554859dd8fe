"""StrictBlueprint: flask-smorest's blueprint with declared access and errors, whose views take only what the API says
they take.

flask-smorest's `_store_endpoint_docs` is called because nothing public documents a view later than it is routed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import flask
import marshmallow
import werkzeug
from flask_smorest import Blueprint

from app.failures import FAILURES
from app.json_bytes import dump_json
from app.web.access import Access
from app.web.arguments import parse_argument
from app.web.flask_app import Response
from app.web.middleware import this_request
from app.web.problems import PROBLEM, ErrorDialect

View = TypeVar("View", bound=Callable[..., Any])

EVENT: dict[str, Any] = {
    "type": "object",
    "description": "One server-sent event; `data` is JSON.",
    "properties": {"event": {"type": "string"}, "data": {"type": "string"}},
}
EVENT_STREAM: dict[str, Any] = {"schema": EVENT, "content_type": "text/event-stream", "success": True}
"""What is documented beside the JSON answer of a route that can stream."""

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
    "session_busy",
    "turn_interrupted",
    "session_unreadable",
    "server_shutting_down",
    "no_api_key_available",
    "server_credentials_rejected",
    "server_quota_exhausted",
    "upstream_unavailable",
    "upstream_timeout",
    "upstream_error",
    "upstream_credentials_exhausted",
    "upstream_failed",
    "upstream_bad_response",
    "upstream_connection_error",
    "unauthorized",
    "auth_mode_required",
    "csrf_failed",
    "misdirected_request",
    "model_not_allowed",
    "not_covered",
    "response_not_found",
    "character_not_found",
    "model_price_unknown",
    "free_mode_not_allowed",
    "rate_limited",
    "user_rate_limited",
    "concurrency_limited",
    "budget_exceeded",
    "user_budget_exceeded",
    "store_unavailable",
)
ADMIN_PROBLEMS = ("unauthorized", "forbidden", "system_routes_private", "store_unavailable", "internal_error")


class ServedView:
    """A view as the server calls it, and beside it what flask-smorest makes of it, for the documentation alone.

    Each decorator of flask-smorest puts a function around the view, also those that only document, and most of these
    look for request and application anew; what is told of a view is copied each time. So they wait until somebody asks
    for the specification. What they would do with a request is done here, once: the arguments are read, the view is
    called, and what it gives is written.
    """

    def __init__(self, view: Callable[..., Any]) -> None:
        functools.update_wrapper(self, view)
        self._view = view
        self.documents: list[Callable[..., Any]] = []
        """The decorators of flask-smorest, in the order in which they are applied."""
        self.arguments: list[tuple[str, marshmallow.Schema]] = []
        """Where each is found and what reads it, in the order in which the view takes them."""
        self.status = 200
        self.schema: marshmallow.Schema | None = None

    @property
    def documented(self) -> Callable[..., Any]:
        """The view with all that flask-smorest knows of it."""
        return functools.reduce(lambda view, document: document(view), self.documents, self._view)

    def __call__(self, **of_the_address: Any) -> Any:
        asked = this_request()
        given = [parse_argument(schema, asked, location=location) for location, schema in self.arguments]
        answer = self._view(*given, **of_the_address)
        if self.schema is None or isinstance(answer, werkzeug.Response):
            return answer
        value, status, headers = answer if isinstance(answer, tuple) else (answer, self.status, None)
        body = dump_json(self.schema.dump(value)) + b"\n"
        return Response(body, status, headers, mimetype="application/json")


Decorator = Callable[[Callable[..., Any]], ServedView]


class StrictBlueprint(Blueprint):
    """A blueprint that declares who may use its routes and how it tells a failure.

    `access` holds for all its routes; a route that names its own, `@blp.get("/x", access=…)`, has that. `key_header`: a
    header that may carry a token or a key as `Authorization` does. `takes_cookie`: whether the cookie of the console's
    login opens its routes. Views are documented with every problem they can
    answer.
    """

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
        self.takes_cookie = errors.takes_cookie
        self._access = access
        self._undocumented: list[Callable[[], None]] = []
        super().__init__(name, import_name, **options)

    def route(
        self, rule: str, *, access: Access | None = None, parameters: Any = None, tags: Any = None, **options: Any
    ) -> Callable[[View], View]:
        """As flask-smorest's, with the access to this route where it is not the blueprint's."""
        declared = access or self._access

        def declare(view: View) -> View:
            endpoint = view.__name__
            if declared is not None:
                self.access[f"{self.name}.{endpoint}"] = declared
            # Not flask-smorest's, which documents it at once.
            flask.Blueprint.add_url_rule(self, rule, endpoint, view, **options)

            def document() -> None:
                self._store_endpoint_docs(endpoint, getattr(view, "documented", view), parameters, tags, **options)

            self._undocumented.append(document)
            return view

        return declare

    def register_views_in_doc(self, *args: Any, **options: Any) -> None:
        """As flask-smorest's, which has not been told of the views until now."""
        while self._undocumented:
            # What fails would fail for the next one who asks as well.
            self._undocumented[0]()
            self._undocumented.pop(0)
        super().register_views_in_doc(*args, **options)

    def arguments(self, schema: type[marshmallow.Schema], *, location: str = "json", **options: Any) -> Decorator:
        """As flask-smorest's; `location` is "json", "headers" or "query"."""
        # One schema object for all requests: making one takes longer than using it.
        one = schema()

        def serve(served: ServedView) -> None:
            # Decorators are applied from the last to the first.
            served.arguments.insert(0, (location, one))

        return _served(super().arguments, serve, one, location=location, **options)

    def response(self, status_code: int, schema: Any = None, **options: Any) -> Decorator:
        """As flask-smorest's: what the view gives is written by the schema, unless it is a Response."""
        one = schema() if isinstance(schema, type) else schema

        def serve(served: ServedView) -> None:
            served.status = status_code
            served.schema = one if isinstance(one, marshmallow.Schema) else None

        return _served(super().response, serve, status_code, one, **options)

    def alt_response(self, status_code: int, *args: Any, **options: Any) -> Decorator:
        """As flask-smorest's, which only documents."""
        return _served(super().alt_response, _as_before, status_code, *args, **options)

    def doc(self, **members: Any) -> Decorator:
        """As flask-smorest's, which only documents."""
        return _served(super().doc, _as_before, **members)

    def problems(self, *codes: str) -> Decorator:
        """Document the error codes of a view, grouped by status."""
        return _served(self._problems, _as_before, codes)

    def _problems(self, codes: Sequence[str]) -> Callable[..., Any]:
        by_status: dict[int, list[str]] = {}
        for code in codes:
            by_status.setdefault(FAILURES[code].status, []).append(code)
        found: dict[str, Any] = {str(status): self.errors.response(codes) for status, codes in by_status.items()}
        document: Callable[..., Any] = super().doc(responses=found | {"default": self.errors.other})
        return document


def _served(
    documents: Callable[..., Any], serve: Callable[[ServedView], None], *args: Any, **options: Any
) -> Decorator:
    """The decorator that has the server know by `serve` of a view, and flask-smorest later by `documents` with the
    other arguments."""

    def decorate(view: Callable[..., Any]) -> ServedView:
        served = view if isinstance(view, ServedView) else ServedView(view)
        served.documents.append(lambda documented: documents(*args, **options)(documented))
        serve(served)
        return served

    return decorate


def _as_before(served: ServedView) -> None:
    """What only documents changes nothing for the server."""
