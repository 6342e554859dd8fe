"""OpenAI's own routes, which every OpenAI client knows. Bodies pass as they come, both ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast
from urllib.parse import quote

from app.errors import ValidationException
from app.models import MALFORMED_KEY, Credentials, is_well_formed
from app.services.passthrough import PassedResponse, Passthrough
from app.web.access import Access, bearer, principal
from app.web.bodies import require_json, whole_body
from app.web.event_stream import stream_answer, stream_passed
from app.web.flask_app import Response
from app.web.middleware import call, this_request
from app.web.problems import OPENAI
from app.web.services import service
from app.web.strict import CHAT_PROBLEMS, EVENT_STREAM, StrictBlueprint
from schemas.openai import OpenAIHeadersSchema, PassedOnSchema, request_body

blp = StrictBlueprint(
    "openai",
    __name__,
    url_prefix="/v1",
    description="OpenAI's own routes, for OpenAI clients",
    access=Access.ADMITTED,
    errors=OPENAI,
)

OWN_HEADERS = {
    "organization": "OpenAI-Organization",
    "project": "OpenAI-Project",
    "beta": "OpenAI-Beta",
    "idempotency_key": "Idempotency-Key",
}
"""Headers that belong to a caller's own key, by their names in OpenAIHeadersSchema."""
MESSAGES = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "What is the capital of France?"},
]
View = Callable[..., Response]


def documented(view: View) -> View:
    """Document what all these routes have in common: headers, errors, an answer as upstream gave it."""
    view = blp.problems(*CHAT_PROBLEMS)(view)
    view = blp.response(200, PassedOnSchema, description="The answer as upstream gave it")(view)
    return blp.arguments(OpenAIHeadersSchema, location="headers")(view)


def documented_with_body(**example: Any) -> Callable[[View], View]:
    """The same of a route that takes a body, as `example`, and can answer it with a stream."""

    def decorator(view: View) -> View:
        view = blp.alt_response(200, **EVENT_STREAM)(documented(view))
        return cast(View, blp.doc(requestBody=request_body(**example))(view))

    return decorator


@blp.post("/responses")
@documented_with_body(model="gpt-4o-mini", input=MESSAGES, max_output_tokens=40, temperature=0)
def responses(headers: dict[str, str]) -> Response:
    """Create a model response

    As OpenAI's `POST /v1/responses`, plain or streamed.
    """
    return _create("/responses", headers)


@blp.post("/chat/completions")
@documented_with_body(model="gpt-4o-mini", messages=MESSAGES, max_tokens=40, temperature=0)
def chat_completions(headers: dict[str, str]) -> Response:
    """Create a chat completion

    As OpenAI's `POST /v1/chat/completions`, plain or streamed.
    """
    return _create("/chat/completions", headers)


@blp.post("/embeddings")
@documented_with_body(model="text-embedding-3-small", input="Paris")
def embeddings(headers: dict[str, str]) -> Response:
    """Create embeddings

    As OpenAI's `POST /v1/embeddings`.
    """
    return _create("/embeddings", headers)


@blp.get("/models")
@documented
def models(headers: dict[str, str]) -> Response:
    """List upstream's models

    As OpenAI's `GET /v1/models`.
    """
    return _response(service(Passthrough).models(_credentials(headers), principal(), call(), _query()))


@blp.get("/models/<path:model>")
@documented
def model(headers: dict[str, str], model: str) -> Response:
    """Show one of upstream's models

    As OpenAI's `GET /v1/models/{model}`.
    """
    return _response(service(Passthrough).model(model, _credentials(headers), principal(), call()))


def _create(path: str, headers: dict[str, str]) -> Response:
    asked = this_request()
    require_json(asked)
    body = whole_body(asked)
    return _response(service(Passthrough).create(path, body, _credentials(headers), principal(), call(), _query()))


def _query() -> str:
    """The request's query for upstream, as it came; empty, or with its `?`."""
    query = quote(this_request().query_string, safe="!$%&'()*+,-./:;=?@_~")
    return f"?{query}" if query else ""


def _credentials(headers: dict[str, str]) -> Credentials:
    """Whose key is to pay: the caller's own by its header, else by a bearer credential that is no token of ours."""
    _, own_key = bearer(this_request().environ.get("HTTP_AUTHORIZATION", ""))
    if own_key and not is_well_formed(own_key):
        raise ValidationException(f"Authorization {MALFORMED_KEY}", "Authorization", location="headers")
    free_mode = headers.get("free_mode")
    return service(Passthrough).credentials(
        headers.get("openai_api_key") or own_key,
        None if free_mode is None else free_mode == "true",
        principal(),
        {name: headers[field] for field, name in OWN_HEADERS.items() if headers.get(field)},
        headers.get("upstream", ""),
    )


def _response(passed: PassedResponse) -> Response:
    if not isinstance(passed.body, bytes):
        is_events = passed.is_events
        return stream_passed(passed, passed.body, call()) if is_events else stream_answer(passed, passed.body)
    cost = passed.cost_usd()
    headers = dict(passed.headers) | ({} if cost is None else {"X-Cost-USD": cost})
    return Response(passed.body, mimetype="application/json", headers=headers)
