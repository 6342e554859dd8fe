"""What routes have in common whose requests pass through: what is read of a request, and how an answer goes back."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import quote

from app.errors import ValidationException
from app.models import MALFORMED_KEY, Credentials, is_well_formed
from app.services.passed_request import FormField
from app.services.passthrough import PassedResponse, Passthrough
from app.web.access import credentials, key_header, principal
from app.web.bodies import require_json, require_known_coding, whole_body
from app.web.event_stream import stream_answer, stream_passed
from app.web.flask_app import Response
from app.web.forms import form_fields, form_type
from app.web.middleware import call, this_request
from app.web.problems import ErrorDialect
from app.web.services import service

OWN_HEADERS = {
    "organization": "OpenAI-Organization",
    "project": "OpenAI-Project",
    "beta": "OpenAI-Beta",
    "idempotency_key": "Idempotency-Key",
}
"""Headers that belong to a caller's own key, by their names in OpenAIHeadersSchema."""


def json_body() -> bytes:
    """The body as it came, decoded; raises 415 unless it is said to be JSON."""
    asked = this_request()
    require_json(asked)
    return whole_body(asked)


def form_body() -> tuple[bytes, str, dict[str, FormField]]:
    """A form with files as it came, decoded, its media type, and what is decided on of its fields; raises 415."""
    asked = this_request()
    content_type = form_type(asked)
    require_known_coding(asked)
    body = whole_body(asked, is_json=False)
    return body, content_type, form_fields(asked, body)


def query() -> str:
    """The request's query for upstream, as it came; empty, or with its `?`."""
    given = quote(this_request().query_string, safe="!$%&'()*+,-./:;=?@_~")
    return f"?{given}" if given else ""


def passed_credentials(headers: Mapping[str, str], own_headers: Mapping[str, str]) -> Credentials:
    """Whose key is to pay: the caller's own by its header, else by a credential that is no token of ours.

    `headers` are those of OpenAIHeadersSchema; `own_headers` go to upstream with the caller's own key only.
    """
    asked = this_request()
    _, own_key = credentials(asked)
    if own_key and not is_well_formed(own_key):
        name = next((name for name in [key_header(asked)] if asked.headers.get(name)), "Authorization")
        raise ValidationException(f"{name} {MALFORMED_KEY}", name, location="headers")
    free_mode = headers.get("free_mode")
    return service(Passthrough).credentials(
        headers.get("openai_api_key") or own_key,
        None if free_mode is None else free_mode == "true",
        principal(),
        own_headers,
        headers.get("upstream", ""),
    )


def openai_credentials(headers: Mapping[str, str]) -> Credentials:
    """The same with those headers of OpenAI's that belong to a caller's own key."""
    return passed_credentials(
        headers, {name: headers[field] for field, name in OWN_HEADERS.items() if headers.get(field)}
    )


def passed_answer(passed: PassedResponse, errors: ErrorDialect) -> Response:
    """Answer with what upstream answered; `errors` is how a stream that breaks off is told."""
    if not isinstance(passed.body, bytes):
        if passed.is_events:
            return stream_passed(passed, passed.body, call(), errors)
        return stream_answer(passed, passed.body)
    cost = passed.cost_usd()
    headers = dict(passed.headers) | ({} if cost is None else {"X-Cost-USD": cost})
    return Response(passed.body, mimetype="application/json", headers=headers)
