"""Error handlers: every failure, of ours or of the framework, becomes one problem document (RFC 9457)."""

from __future__ import annotations

import http
import itertools
import logging
from typing import Any

from flask import Flask, Response, current_app, g, request
from gunicorn.http.errors import ParseException
from werkzeug.exceptions import BadRequest, HTTPException

from app.errors import ERRORS_MAX, ChatServiceException, ServiceException, ValidationException
from app.services.passthrough import openai_error
from app.web.access import unless_unknown

logger = logging.getLogger(__name__)

PROBLEM_MEDIA_TYPE = "application/problem+json"
OPENAI_DOOR = "/v1/"
NATIVE_FIELDS = {
    "model": "model",
    "temperature": "temperature",
    "instructions": "instructions",
    "max_output_tokens": "max_tokens",
    "max_tokens": "max_tokens",
}
"""Upstream's names for what it may refuse, and the native route's."""
FIELD_NAME_MAX_LENGTH = 64
HTTP_ERRORS = {
    404: ("not_found", "There is nothing at this address"),
    405: ("method_not_allowed", "This address does not answer this method"),
    413: ("request_too_large", "The request body is larger than the server accepts"),
    415: ("unsupported_media_type", "The body must be application/json in UTF-8, without content encoding"),
    422: ("validation_error", "The request breaks a rule"),
    500: ("internal_error", "The server failed to handle the request"),
}


def register_error_handlers(app: Flask) -> None:
    """Register on the app, not on a blueprint: a blueprint's handlers never see an unknown address."""
    app.register_error_handler(ServiceException, handle_service_exception)
    app.register_error_handler(HTTPException, handle_http_exception)
    app.register_error_handler(ParseException, handle_bad_framing)
    app.register_error_handler(Exception, handle_bug)


def handle_service_exception(error: ServiceException) -> Response:
    """Answer one of our own exceptions."""
    error = unless_unknown(error)
    g.call.error_code = error.error_code
    if request.path.startswith(OPENAI_DOOR):
        response = Response(current_app.json.dumps(openai_error(error)), error.status, mimetype="application/json")
        response.headers.update(error.details.get("upstream_headers", {}))
    else:
        document = problem(error, session_id=g.get("session_id", ""), request_id=g.request_id)
        response = Response(current_app.json.dumps(document), error.status, mimetype=PROBLEM_MEDIA_TYPE)
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(error.retry_after)
    for name, value in error.details.get("headers", {}).items():
        response.headers[name] = value
    if error.error_code in {"api_key_required", "unauthorized"}:
        response.headers["WWW-Authenticate"] = 'Bearer realm="llm-server"'
    return response


def handle_http_exception(error: HTTPException) -> Response:
    """Answer what Flask, flask-smorest or webargs refused; their text is not passed on."""
    status = error.code or 500
    code, message = HTTP_ERRORS.get(status, ("bad_request", "The request cannot be handled"))
    if status >= 500:
        translated: ServiceException = ChatServiceException(message, "internal_error")
    else:
        translated = ValidationException(message, error_code=code)
        translated.details["status"] = status
    response = handle_service_exception(translated)
    for name, value in error.get_headers():
        if name in {"Allow", "Retry-After"}:
            response.headers[name] = value
    return response


def handle_bad_framing(error: ParseException) -> Response:
    """Answer a request whose chunked body gunicorn cannot read; it closes the connection afterwards."""
    return handle_http_exception(BadRequest())


def handle_bug(error: Exception) -> Response:
    """Answer an exception nobody expected; the log gets its type and place."""
    logger.error("unhandled exception", exc_info=error)
    return handle_service_exception(ChatServiceException(HTTP_ERRORS[500][1], "internal_error"))


def problem(error: ServiceException, *, session_id: str, request_id: str) -> dict[str, Any]:
    """The problem document of `error`, with the seed's fields beside RFC 9457's."""
    document = {
        "type": "about:blank",
        "title": _phrase(error.status),
        "status": error.status,
        "detail": error.message,
        "code": error.error_code,
        "success": False,
        "session_id": session_id,
        "error_message": error.error_message,
        "origin": error.failure.origin,
        "retryable": error.failure.retryable,
        "request_id": request_id,
    }
    if isinstance(error, ValidationException) and error.errors:
        document["errors"] = {error.location: _shortened(error.errors)}
    if error.details.get("param") in NATIVE_FIELDS:
        document["param"] = NATIVE_FIELDS[error.details["param"]]
    if "upstream_code" in error.details:
        document["upstream_code"] = error.details["upstream_code"]
    return document


def _shortened(errors: Any) -> Any:
    """The first errors with every name cut: a caller's field names are echoed, so both are bounded."""
    if not isinstance(errors, dict):
        return errors
    return {_name(name): _shortened(inner) for name, inner in itertools.islice(errors.items(), ERRORS_MAX)}


def _name(name: object) -> str:
    return str(name)[:FIELD_NAME_MAX_LENGTH].encode("utf-8", "replace").decode()


def _phrase(status: int) -> str:
    return "Client Closed Request" if status == 499 else http.HTTPStatus(status).phrase
