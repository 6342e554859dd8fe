"""Anthropic's own routes, which its clients know. Bodies pass as they come, both ways."""

from __future__ import annotations

from typing import Any

from flask import Response

from app.services.passthrough import Passthrough
from app.web.access import Access, principal
from app.web.middleware import call
from app.web.passing import json_body, passed_answer, passed_credentials, query
from app.web.problems import ANTHROPIC
from app.web.services import service
from app.web.strict import CHAT_PROBLEMS, EVENT_STREAM, StrictBlueprint
from schemas import answers
from schemas.messages import MessagesHeadersSchema
from schemas.openai import PassedOnSchema, request_body

blp = StrictBlueprint(
    "messages",
    __name__,
    url_prefix="/v1/messages",
    description="Anthropic's own routes, for Anthropic clients",
    access=Access.ADMITTED,
    errors=ANTHROPIC,
    key_header="x-api-key",
)
TURNS: list[dict[str, Any]] = [{"role": "user", "content": "What is the capital of France?"}]
PASSED_HEADERS = {"version": "anthropic-version", "beta": "anthropic-beta"}
"""Headers that pass on whoever pays, by their names in MessagesHeadersSchema."""


@blp.post("")
@blp.arguments(MessagesHeadersSchema, location="headers")
@blp.response(200, PassedOnSchema, description="The answer as upstream gave it", example=answers.MESSAGE)
@blp.alt_response(200, **EVENT_STREAM)
@blp.problems(*CHAT_PROBLEMS)
@blp.doc(requestBody=request_body("Anthropic", model="claude-haiku-4-5", max_tokens=40, messages=TURNS))
def messages(headers: dict[str, str]) -> Response:
    """Create a message

    As Anthropic's `POST /v1/messages`, plain or streamed.
    """
    return _create("/messages", headers)


@blp.post("/count_tokens")
@blp.arguments(MessagesHeadersSchema, location="headers")
@blp.response(200, PassedOnSchema, description="The answer as upstream gave it", example=answers.TOKEN_COUNT)
@blp.problems(*CHAT_PROBLEMS)
@blp.doc(requestBody=request_body("Anthropic", model="claude-haiku-4-5", messages=TURNS))
def count_tokens(headers: dict[str, str]) -> Response:
    """Count the tokens of a message

    As Anthropic's `POST /v1/messages/count_tokens`.
    """
    return _create("/messages/count_tokens", headers)


@blp.after_request
def name_the_request(response: Response) -> Response:
    """Tell the request's id in the header in which Anthropic's SDKs look for it, too."""
    response.headers["request-id"] = call().request_id
    return response


def _create(path: str, headers: dict[str, str]) -> Response:
    passed = {name: headers[field] for field, name in PASSED_HEADERS.items() if headers.get(field)}
    body, credentials = json_body(), passed_credentials(headers, {})
    answer = service(Passthrough).create(path, body, credentials, principal(), call(), query(), passed)
    return passed_answer(answer, ANTHROPIC)
