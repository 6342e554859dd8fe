"""OpenAI's own routes, which every OpenAI client knows. Bodies pass as they come, both ways."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from app.services.model_list import ModelList
from app.services.passthrough import Passthrough
from app.web.access import Access, principal
from app.web.flask_app import Response
from app.web.middleware import call
from app.web.passing import json_body, openai_credentials, passed_answer, query
from app.web.problems import OPENAI
from app.web.services import service
from app.web.strict import CHAT_PROBLEMS, EVENT_STREAM, StrictBlueprint
from schemas import answers
from schemas.openai import MODEL, MODEL_PARAMETER, OpenAIHeadersSchema, PassedOnSchema, request_body

blp = StrictBlueprint(
    "openai",
    __name__,
    url_prefix="/v1",
    description="OpenAI's own routes, for OpenAI clients",
    access=Access.ADMITTED,
    errors=OPENAI,
)

MESSAGES = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": "What is the capital of France?"},
]
View = Callable[..., Response]


def documented(answer: answers.Answer) -> Callable[[View], View]:
    """Document what all these routes have in common: headers, errors, an answer as upstream gave it, as `answer`."""

    def decorator(view: View) -> View:
        view = blp.problems(*CHAT_PROBLEMS)(view)
        view = blp.response(200, PassedOnSchema, description="The answer as upstream gave it", example=answer)(view)
        return cast(View, blp.arguments(OpenAIHeadersSchema, location="headers")(view))

    return decorator


def documented_with_body(answer: answers.Answer, **example: Any) -> Callable[[View], View]:
    """The same of a route that takes a body, as `example`, and can answer it with a stream."""

    def decorator(view: View) -> View:
        view = blp.alt_response(200, **EVENT_STREAM)(documented(answer)(view))
        return cast(View, blp.doc(requestBody=request_body(**example))(view))

    return decorator


@blp.post("/responses")
@documented_with_body(answers.RESPONSE, model=MODEL, input=MESSAGES, max_output_tokens=40, temperature=0)
def responses(headers: dict[str, str]) -> Response:
    """Create a model response

    As OpenAI's `POST /v1/responses`, plain or streamed.
    """
    return _create("/responses", headers)


@blp.post("/chat/completions")
@documented_with_body(answers.CHAT_COMPLETION, model=MODEL, messages=MESSAGES, max_tokens=40, temperature=0)
def chat_completions(headers: dict[str, str]) -> Response:
    """Create a chat completion

    As OpenAI's `POST /v1/chat/completions`, plain or streamed.
    """
    return _create("/chat/completions", headers)


@blp.post("/embeddings")
@documented_with_body(answers.EMBEDDINGS, model="text-embedding-3-small", input="Paris")
def embeddings(headers: dict[str, str]) -> Response:
    """Create embeddings

    As OpenAI's `POST /v1/embeddings`.
    """
    return _create("/embeddings", headers)


@blp.get("/models")
@documented(answers.MODELS)
def models(headers: dict[str, str]) -> Response:
    """List upstream's models

    As OpenAI's `GET /v1/models`.
    """
    return passed_answer(service(ModelList).all(openai_credentials(headers), principal(), call(), query()), OPENAI)


@blp.get("/models/<path:model>", parameters=[MODEL_PARAMETER])
@documented(answers.MODEL_KNOWN)
def model(headers: dict[str, str], model: str) -> Response:
    """Show one of upstream's models

    As OpenAI's `GET /v1/models/{model}`.
    """
    return passed_answer(service(ModelList).one(model, openai_credentials(headers), principal(), call()), OPENAI)


def _create(path: str, headers: dict[str, str]) -> Response:
    body, credentials = json_body(), openai_credentials(headers)
    return passed_answer(service(Passthrough).create(path, body, credentials, principal(), call(), query()), OPENAI)
