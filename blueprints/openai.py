"""The OpenAI door: the routes that every OpenAI client knows. Bodies pass as they come, both ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import cast

from flask import Response, current_app, g, request

from app.services.passthrough import Credentials, Passed
from app.web.event_stream import HEADERS
from app.web.strict import CHAT_PROBLEMS, EVENT_STREAM, StrictBlueprint, require_json, whole_body
from schemas.openai import REQUEST_BODY, DoorHeadersSchema, OpenAIErrorSchema, PassedOnSchema

blp = StrictBlueprint("openai", __name__, url_prefix="/v1", description="OpenAI's own routes, for OpenAI clients")

View = Callable[..., Response]


def documented(view: View) -> View:
    """Document what every route of the door has in common: headers, errors, an answer as upstream gave it."""
    view = blp.problems(*CHAT_PROBLEMS, schema=OpenAIErrorSchema, content_type="application/json")(view)
    view = blp.response(200, PassedOnSchema, description="The answer as upstream gave it")(view)
    return cast(View, blp.arguments(DoorHeadersSchema, location="headers")(view))


@blp.post("/responses")
@blp.doc(requestBody=REQUEST_BODY)
@blp.alt_response(200, **EVENT_STREAM)
@documented
def responses(headers: dict[str, str]) -> Response:
    """Create a model response

    As OpenAI's `POST /v1/responses`, plain or streamed.
    """
    return _create("/responses", headers)


@blp.post("/chat/completions")
@blp.doc(requestBody=REQUEST_BODY)
@blp.alt_response(200, **EVENT_STREAM)
@documented
def chat_completions(headers: dict[str, str]) -> Response:
    """Create a chat completion

    As OpenAI's `POST /v1/chat/completions`, plain or streamed.
    """
    return _create("/chat/completions", headers)


@blp.post("/embeddings")
@blp.doc(requestBody=REQUEST_BODY)
@blp.alt_response(200, **EVENT_STREAM)
@documented
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
    return _response(current_app.extensions["door"].models(g.call, _credentials(headers)))


@blp.get("/models/<model>")
@documented
def model(headers: dict[str, str], model: str) -> Response:
    """Show one of upstream's models

    As OpenAI's `GET /v1/models/{model}`.
    """
    return _response(current_app.extensions["door"].model(model, g.call, _credentials(headers)))


def _create(path: str, headers: dict[str, str]) -> Response:
    require_json(request)
    return _response(current_app.extensions["door"].create(path, whole_body(request), g.call, _credentials(headers)))


def _credentials(headers: dict[str, str]) -> Credentials:
    free_mode = headers.get("free_mode")
    return Credentials(
        authorization=request.headers.get("Authorization", ""),
        own_key=headers.get("openai_api_key", ""),
        free_mode=None if free_mode is None else free_mode == "true",
    )


def _response(passed: Passed) -> Response:
    if not passed.is_stream:
        return Response(passed.body, mimetype="application/json", headers=passed.headers)
    response = Response(passed.body, mimetype="text/event-stream", headers=HEADERS | dict(passed.headers))
    response.call_on_close(passed.close)
    return response
