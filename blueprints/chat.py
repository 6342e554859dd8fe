"""The chat routes."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

from flask import Response

from app.models import ChatPreview, ChatRequest, ChatResponse
from app.services.chat import ChatService
from app.web.access import Access, principal
from app.web.event_stream import stream_turn
from app.web.middleware import call
from app.web.problems import PROBLEM
from app.web.services import service
from app.web.strict import CHAT_PROBLEMS, EVENT_STREAM, StrictBlueprint
from schemas.chat import ChatHeadersSchema, ChatPreviewSchema, ChatRequestSchema, ChatResponseSchema
from schemas.sessions import TRIED_NAME

blp = StrictBlueprint(
    "chat", __name__, url_prefix="/api/v1", description="Chat turns", access=Access.ADMITTED, errors=PROBLEM
)


TRY = {
    "session_id": TRIED_NAME,
    "user_message": "What is the capital of France?",
    "max_tokens": 40,
    "temperature": 0,
    "free_mode": True,
    "remember": True,
}
TRY_PREVIEW = TRY | {"role": "You are a teacher.", "memory_context": ["Mina likes tea"], "instructions": "Be brief."}
"""What the documentation's page offers to send. The routes of sessions offer the session that this begins."""


@blp.post("/chat")
@blp.arguments(ChatHeadersSchema, location="headers")
@blp.arguments(ChatRequestSchema, example=TRY)
@blp.response(200, ChatResponseSchema)
@blp.alt_response(200, **EVENT_STREAM)
@blp.problems(*CHAT_PROBLEMS)
def chat(headers: dict[str, str], request: ChatRequest) -> Response | tuple[ChatResponse, int, dict[str, Any]]:
    """Answer one chat turn

    The server joins system message, role, memories and instructions to one system message, appends the history and the
    user's message, and asks the model. The caller's key pays, or the server's when `free_mode` is true and the caller's
    is missing or refused. With `stream: true` the answer is `text/event-stream`: `start`, `delta` (and
    `segment`, where asked for), then one `done` or `error`.
    """
    answer = functools.partial(
        service(ChatService).process_chat_request,
        _with_headers(request, headers),
        call(),
        principal=principal(),
        use_cache="no-cache" not in headers.get("cache_control", "").lower(),
    )
    if request.stream:
        return stream_turn(request, lambda listener: answer(listener=listener), call())
    response = answer()
    return response, 200, {"X-Cache": "hit"} if response.cached else {}


@blp.post("/chat/preview", access=Access.CLIENT)
@blp.arguments(ChatHeadersSchema, location="headers")
@blp.arguments(ChatRequestSchema, example=TRY_PREVIEW)
@blp.response(200, ChatPreviewSchema)
@blp.problems(
    "invalid_json",
    "validation_error",
    "unsupported_media_type",
    "request_too_large",
    "api_key_required",
    "api_key_rejected",
    "no_api_key_available",
    "unauthorized",
    "model_not_allowed",
    "free_mode_not_allowed",
    "session_unreadable",
    "internal_error",
)
def preview(headers: dict[str, str], request: ChatRequest) -> ChatPreview:
    """Show what a chat turn would send upstream

    Takes the chat request, calls nothing and pays nothing.
    """
    return service(ChatService).preview(_with_headers(request, headers), principal())


def _with_headers(request: ChatRequest, headers: dict[str, str]) -> ChatRequest:
    """The key in the header wins over the body's."""
    key, upstream = headers.get("openai_api_key"), headers.get("upstream")
    if not key and not upstream:
        return request
    return dataclasses.replace(request, openai_api_key=key or request.openai_api_key, upstream=upstream)
