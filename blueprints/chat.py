"""The chat routes."""

from __future__ import annotations

import dataclasses
from typing import Any

from flask import current_app, g

from app.models import ChatRequest, ChatResponse
from blueprints.strict import StrictBlueprint
from schemas.chat import ChatHeadersSchema, ChatRequestSchema, ChatResponseSchema

blp = StrictBlueprint("chat", __name__, url_prefix="/api/v1", description="Chat turns")


@blp.post("/chat")
@blp.arguments(ChatHeadersSchema, location="headers")
@blp.arguments(ChatRequestSchema)
@blp.response(200, ChatResponseSchema)
@blp.problems(
    *("invalid_json", "validation_error", "unsupported_media_type", "request_too_large"),
    *("api_key_required", "api_key_rejected", "insufficient_quota", "upstream_rate_limited"),
    *("model_not_found", "upstream_rejected_request", "internal_error"),
    *("server_busy", "server_shutting_down", "no_api_key_available", "server_credentials_rejected"),
    *("server_quota_exhausted", "upstream_unavailable", "upstream_timeout", "upstream_error"),
    *("upstream_failed", "upstream_bad_response", "upstream_connection_error"),
)
def chat(headers: dict[str, str], request: ChatRequest) -> tuple[ChatResponse, int, dict[str, Any]]:
    """Answer one chat turn

    The server joins system message, role, memories and instructions to one system message, appends the history and the
    user's message, and asks the model. The caller's key pays, or the server's when `free_mode` is true and the caller's
    is missing or refused.
    """
    request = dataclasses.replace(request, openai_api_key=headers.get("openai_api_key") or request.openai_api_key)
    skip_cache = "no-cache" in headers.get("cache_control", "").lower()
    response = current_app.extensions["chat_service"].process_chat_request(request, g.call, use_cache=not skip_cache)
    return response, 200, {"X-Cache": "hit"} if response.cached else {}
