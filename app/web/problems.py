"""Every failure's shape on the wire, and the handlers that answer with it.

There are three error dialects: problem documents (RFC 9457), and on OpenAI's and Anthropic's own routes their shapes. A
blueprint declares its own.
"""

from __future__ import annotations

import http
import itertools
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import marshmallow
from flask import Flask, Response, current_app, g, request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import BadRequest, HTTPException

from app.errors import ERRORS_MAX, ChatServiceException, ServiceException, ValidationException
from app.failures import FAILURES
from app.web.access import key_header
from app.web.middleware import this_request
from app.web.misplaced import UNAUTHENTICATED, explain_misplaced
from schemas.messages import AnthropicErrorSchema
from schemas.openai import OpenAIErrorSchema
from schemas.problem import ProblemSchema

logger = logging.getLogger(__name__)

NATIVE_FIELDS = {
    "model": "model",
    "temperature": "temperature",
    "instructions": "instructions",
    "max_output_tokens": "max_tokens",
    "max_tokens": "max_tokens",
}
"""Upstream's names for what it may refuse, and the native route's."""
FIELD_NAME_MAX_LENGTH = 64
FIELDS_NAMED_MAX = 5
HTTP_ERRORS = {
    404: ("not_found", "There is nothing at this address"),
    405: ("method_not_allowed", "This address does not answer this method"),
    413: ("request_too_large", "The request body is larger than the setting MAX_REQUEST_BYTES allows"),
    500: ("internal_error", "The server failed to handle the request"),
}
ANTHROPIC_TYPES = {
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
}
"""Anthropic's API reference, "Errors"."""
OTHER_ANTHROPIC_TYPES = {"invalid_request_error", "conflict_error", "api_error", "overloaded_error"}
OPENAI_TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


@dataclass(frozen=True)
class ErrorDialect:
    """How a blueprint tells a failure: `document` is given the error, the session id and the request id.

    `event` gives the data of the `error` event that ends a stream, where it is another document. `write` makes the
    answer of a document; else it is sent as JSON. `takes_cookie`: spoken where browsers call, signed in to the console.
    """

    name: str
    media_type: str
    schema: type[marshmallow.Schema]
    document: Callable[[ServiceException, str, str], dict[str, Any]]
    passes_upstream_headers: bool = False
    event: Callable[[ServiceException], dict[str, Any]] | None = None
    write: Callable[[dict[str, Any]], Response] | None = None
    takes_cookie: bool = False

    def last_event(self, error: ServiceException, request_id: str) -> dict[str, Any]:
        """The data of the event with which a stream breaks off."""
        return self.document(error, "", request_id) if self.event is None else self.event(error)

    @property
    def other(self) -> str:
        """The specification's name for the errors that a route does not list."""
        return "DEFAULT_ERROR" if self.name == "problem" else f"{self.name.upper()}_ERROR"

    def response(self, codes: Sequence[str]) -> dict[str, Any]:
        """The specification's response of one status, with an example of each code."""
        examples = {code: f"{self.name}_{code}" for code in codes}
        content = {self.media_type: {"schema": self.schema, "examples": examples}}
        return {"description": " or ".join(f"`{code}`" for code in codes), "content": content}

    def example(self, code: str) -> dict[str, Any]:
        """What an error of this code looks like, for the specification: its meaning's first sentence as plain text."""
        meaning = FAILURES[code].meaning.partition(". ")[0].removesuffix(".").replace("`", "")
        if code == "validation_error":
            broken = {"max_tokens": ["must be from 1 to 1000000000"]}
            return self.document(
                ValidationException("These fields break a rule: max_tokens", errors=broken), "s-1", "a1b2"
            )
        return self.document(ServiceException(meaning, code), "s-1", "a1b2")


def problem(error: ServiceException, session_id: str, request_id: str, *, in_english: bool = False) -> dict[str, Any]:
    """The problem document of `error`, with the seed's fields beside RFC 9457's.

    `error_message` is a Korean sentence; `in_english`: as `detail`, which is always English.
    """
    document = {
        "type": "about:blank",
        "title": _phrase(error.status),
        "status": error.status,
        "detail": error.message,
        "code": error.error_code,
        "success": False,
        "session_id": session_id,
        "error_message": error.message if in_english else _korean(error),
        "origin": error.failure.origin,
        "retryable": error.retryable,
        "request_id": request_id,
    }
    if isinstance(error, ValidationException) and error.errors:
        document["errors"] = {error.location: _shortened(error.errors)}
    if error.param in NATIVE_FIELDS:
        document["param"] = NATIVE_FIELDS[error.param]
    if upstream_code := error.upstream_code or error.upstream_type:
        document["upstream_code"] = upstream_code
    if error.upstream_message:
        document["upstream_message"] = error.upstream_message
    return document


def openai_error(error: ServiceException, session_id: str = "", request_id: str = "") -> dict[str, Any]:
    """A failure in OpenAI's shape; the SDKs choose their exception by status.

    A refusal of upstream's keeps upstream's words where it has any: programs look for its codes, and people for what
    they have to change.
    """
    kind = OPENAI_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "server_error")
    param, message, code = error.param, error.message, error.error_code
    if isinstance(error, ValidationException):
        param = error.field or next(iter(error.errors), None)
    elif error.status < 500:
        kind = error.upstream_type or kind
        code = code if code == "model_not_found" else error.upstream_code or code
        message = error.upstream_message or message
    return {"error": {"message": message, "type": kind, "param": param, "code": code}}


def openai_event(error: ServiceException) -> dict[str, Any]:
    """A failure as the last event of a stream, as OpenAI's SDKs know it of either API."""
    document = openai_error(error)
    return {"sequence_number": 0, **document["error"], "type": "error", **document}


def anthropic_error(error: ServiceException, session_id: str = "", request_id: str = "") -> dict[str, Any]:
    """A failure in Anthropic's shape; `error_code` is ours, or upstream's. Its words are kept as in OpenAI's shape."""
    kind = ANTHROPIC_TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    if error.status in {503, 529} and error.retryable:
        kind = "overloaded_error"
    message, code = error.message, error.error_code
    if error.status < 500:
        known = {*ANTHROPIC_TYPES.values(), *OTHER_ANTHROPIC_TYPES}
        kind = error.upstream_type if error.upstream_type in known else kind
        code = code if code == "model_not_found" else error.upstream_code or code
        message = error.upstream_message or message
    told = {"type": kind, "message": message, "details": {"error_code": code}}
    return {"type": "error", "error": told, "request_id": request_id}


PROBLEM = ErrorDialect("problem", "application/problem+json", ProblemSchema, problem, takes_cookie=True)
OPENAI = ErrorDialect("openai", "application/json", OpenAIErrorSchema, openai_error, True, openai_event)
ANTHROPIC = ErrorDialect("anthropic", "application/json", AnthropicErrorSchema, anthropic_error, True)


def register_error_handlers(app: Flask) -> None:
    """Register on the app, not on a blueprint: a blueprint's handlers never see an unknown address."""
    app.register_error_handler(ServiceException, _answer)
    app.register_error_handler(HTTPException, _answer_http)
    # A chunked body that gunicorn cannot read; it closes the connection afterwards.
    app.register_error_handler(ParseException, lambda error: _answer_http(BadRequest()))
    app.register_error_handler(Exception, _answer_bug)


def prefers_english() -> bool:
    """Whether the caller's `Accept-Language` asks for English rather than Korean, the default."""
    return request.accept_languages.best_match(["ko", "en"], default="ko") == "en"


def _korean(error: ServiceException) -> str:
    """What is wrong, in Korean; with the names of the fields, where it is about fields."""
    own = NATIVE_FIELDS.get(error.param or "")
    fields = named(error.errors if isinstance(error, ValidationException) else [own] if own else [])
    return f"{error.told} ({fields})" if fields else error.told


def named(fields: Iterable[str]) -> str:
    """The first of the fields in a sentence."""
    names = [_name(field) for field in fields if field != marshmallow.exceptions.SCHEMA]
    return ", ".join([*names[:FIELDS_NAMED_MAX], *(["…"] if len(names) > FIELDS_NAMED_MAX else [])])


def _answer(error: ServiceException) -> Response:
    g.error_code, dialect = error.error_code, _declared_dialect()
    explain_misplaced(error, this_request(), key_header(this_request()))
    document = dialect.document(error, g.get("session_id", ""), g.call.request_id)
    if dialect.document is problem and prefers_english():
        document["error_message"] = error.message
    if dialect.write is not None:
        response = dialect.write(document)
    else:
        response = Response(f"{current_app.json.dumps(document)}\n", error.status, mimetype=dialect.media_type)
    if dialect.passes_upstream_headers:
        response.headers.update(error.upstream_headers)
    # OpenAI's SDKs ask this header first; without it they would repeat every 409, 429 and 5xx.
    response.headers["X-Should-Retry"] = "true" if error.retryable else "false"
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(error.retry_after)
    for name, value in error.headers.items():
        response.headers[name] = value
    if error.error_code in UNAUTHENTICATED:
        response.headers["WWW-Authenticate"] = 'Bearer realm="llm-server"'
    return response


def _answer_http(error: HTTPException) -> Response:
    response = _answer(_translated(error))
    for name, value in error.get_headers():
        if name in {"Allow", "Retry-After"}:
            response.headers[name] = value
    return response


def _answer_bug(error: Exception) -> Response:
    logger.error("unhandled exception", exc_info=error)
    return _answer(ChatServiceException(HTTP_ERRORS[500][1], "internal_error"))


def _declared_dialect() -> ErrorDialect:
    """What the route's blueprint declares; for an unknown address the one below whose prefix it lies, the longest."""
    blueprints = current_app.blueprints
    if request.blueprint is not None:
        return getattr(blueprints[request.blueprint], "errors", PROBLEM)
    path = f"{request.path}/"
    above = [found for found in blueprints.values() if found.url_prefix and path.startswith(f"{found.url_prefix}/")]
    nearest = max(above, key=lambda found: len(found.url_prefix or ""), default=None)
    return getattr(nearest, "errors", PROBLEM)


def _translated(error: HTTPException) -> ServiceException:
    """What Flask or werkzeug refused; their text is not passed on."""
    status = error.code or 500
    code, message = HTTP_ERRORS.get(status, ("bad_request", "The request cannot be handled"))
    if status >= 500:
        return ChatServiceException(message, "internal_error")
    return ValidationException(message, error_code=code, status=status)


def _shortened(errors: Any) -> Any:
    """The first errors with every name cut: a caller's field names are echoed, so both are bounded."""
    if not isinstance(errors, dict):
        return errors
    return {_name(name): _shortened(inner) for name, inner in itertools.islice(errors.items(), ERRORS_MAX)}


def _name(name: object) -> str:
    return str(name)[:FIELD_NAME_MAX_LENGTH].encode("utf-8", "replace").decode()


def _phrase(status: int) -> str:
    return "Client Closed Request" if status == 499 else http.HTTPStatus(status).phrase
