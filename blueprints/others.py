"""Routes of OpenAI's API, and of servers like it, that need no dialect: what they answer passes as it comes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, cast

from flask import Response

from app.services.passthrough import Passthrough
from app.web.access import Access, principal
from app.web.middleware import call
from app.web.passing import form_body, json_body, openai_credentials, passed_answer, query
from app.web.problems import OPENAI
from app.web.services import service
from app.web.strict import CHAT_PROBLEMS, EVENT_STREAM, StrictBlueprint
from schemas import answers
from schemas.openai import OpenAIHeadersSchema, PassedOnSchema, request_body
from schemas.openai import form_body as documented_form

blp = StrictBlueprint(
    "others",
    __name__,
    url_prefix="/v1",
    description="More of OpenAI's routes: sound, pictures, rankings, moderation",
    access=Access.ADMITTED,
    errors=OPENAI,
)
ANYTHING: dict[str, Any] = {"schema": {}, "content_type": "*/*", "success": True}
View = Callable[..., Response]


def documented(
    body: dict[str, Any], answer: answers.Answer | None = None, other: Mapping[str, Any] = ANYTHING
) -> Callable[[View], View]:
    """Document headers, errors and an answer as upstream gave it, in JSON, such as `answer`, or as `other` says."""

    def decorator(view: View) -> View:
        view = blp.alt_response(200, **other)(blp.problems(*CHAT_PROBLEMS)(view))
        view = blp.response(200, PassedOnSchema, description="The answer as upstream gave it", example=answer)(view)
        return cast(View, blp.doc(requestBody=body)(blp.arguments(OpenAIHeadersSchema, location="headers")(view)))

    return decorator


@blp.post("/completions")
@documented(
    request_body(model="gpt-3.5-turbo-instruct", prompt="The capital of France is", max_tokens=16),
    answers.COMPLETION,
    EVENT_STREAM,
)
def completions(headers: dict[str, str]) -> Response:
    """Complete a text

    As OpenAI's older `POST /v1/completions`, plain or streamed.
    """
    return _create("/completions", headers)


@blp.post("/audio/speech")
@documented(request_body(model="gpt-4o-mini-tts", input="Hello.", voice="alloy"))
def speech(headers: dict[str, str]) -> Response:
    """Speak a text

    As OpenAI's `POST /v1/audio/speech`; the sound passes as it comes.
    """
    return _create("/audio/speech", headers)


@blp.post("/audio/transcriptions")
@documented(documented_form(), answers.TRANSCRIPTION)
def transcriptions(headers: dict[str, str]) -> Response:
    """Write down what is spoken

    As OpenAI's `POST /v1/audio/transcriptions`, with a form.
    """
    body, content_type, fields = form_body()
    credentials = openai_credentials(headers)
    answer = service(Passthrough).upload(
        "/audio/transcriptions", body, content_type, fields, credentials, principal(), call(), query()
    )
    return passed_answer(answer, OPENAI)


@blp.post("/images/generations")
@documented(request_body(model="gpt-image-1", prompt="A cat"), answers.IMAGES)
def images(headers: dict[str, str]) -> Response:
    """Draw pictures

    As OpenAI's `POST /v1/images/generations`.
    """
    return _create("/images/generations", headers)


@blp.post("/moderations")
@documented(request_body(model="omni-moderation-latest", input="Hello."), answers.MODERATION)
def moderations(headers: dict[str, str]) -> Response:
    """Judge a text

    As OpenAI's `POST /v1/moderations`.
    """
    return _create("/moderations", headers)


@blp.post("/rerank")
@documented(
    request_body(model="rerank-v3.5", query="Where is Paris?", documents=["In France.", "In Texas."]), answers.RANKING
)
def rerank(headers: dict[str, str]) -> Response:
    """Rank documents by a question

    As `POST /v1/rerank` of Jina, Cohere, vLLM and llama.cpp.
    """
    return _create("/rerank", headers)


def _create(path: str, headers: dict[str, str]) -> Response:
    body, credentials = json_body(), openai_credentials(headers)
    return passed_answer(service(Passthrough).create(path, body, credentials, principal(), call(), query()), OPENAI)
