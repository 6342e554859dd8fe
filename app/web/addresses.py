"""Addresses that are not there, and what the caller may have meant."""

from __future__ import annotations

import re

from werkzeug import Request

from app.errors import ValidationException

OPENAI_ROUTES = (
    *("/responses", "/chat/completions", "/completions", "/embeddings", "/models"),
    *("/audio/speech", "/audio/transcriptions", "/images/generations", "/moderations", "/rerank"),
)
ANTHROPIC_ROUTES = ("/messages", "/messages/count_tokens")
OTHER_ROUTES = {
    "/chat": "/api/v1/chat",
    "/preview": "/api/v1/chat/preview",
    "/usage": "/api/v1/usage",
    "/health": "/readyz",
    "/healthz": "/readyz",
    "/ready": "/readyz",
    "/readyz": "/readyz",
    "/live": "/livez",
    "/livez": "/livez",
    "/metrics": "/metrics",
    "/swagger": "/docs",
    "/redoc": "/docs",
    "/openapi.json": "/openapi.json",
}
"""Our own routes, by what wrong addresses end with."""


def check_no_websocket(asked: Request) -> None:
    """Raise 426 for a handshake of WebSocket (RFC 6455, section 4.1): a client that gets it asks over HTTP instead."""
    if asked.headers.get("Upgrade", "").strip().lower() == "websocket":
        message = "This server speaks no WebSocket; send the request with POST"
        raise ValidationException(message, error_code="websocket_unsupported")


def not_found(path: str) -> ValidationException:
    """404 with a hint: most wrong addresses are an OpenAI client's, whose `base_url` is wrong by a little."""
    error = ValidationException("There is nothing at this address", error_code="not_found")
    shortened = re.sub("/+", "/", path[:1024]).rstrip("/")
    if meant := next((f"/v1{route}" for route in OPENAI_ROUTES if shortened.endswith(route)), ""):
        error.explain(
            f"Perhaps {meant} is meant: the base_url of an OpenAI client ends with /v1 and nothing behind it",
            f"혹시 {meant}인가요? OpenAI 클라이언트의 base_url은 /v1로 끝나야 합니다.",
        )
    elif meant := next((f"/v1{route}" for route in ANTHROPIC_ROUTES if shortened.endswith(route)), ""):
        error.explain(
            f"Perhaps {meant} is meant: the base_url of an Anthropic client ends before /v1",
            f"혹시 {meant}인가요? Anthropic 클라이언트의 base_url은 /v1 앞에서 끝나야 합니다.",
        )
    elif meant := next((route for end, route in OTHER_ROUTES.items() if shortened.endswith(end)), ""):
        error.explain(f"Perhaps {meant} is meant", f"혹시 {meant}인가요?")
    else:
        error.explain("All addresses are listed at /docs", "주소 목록은 /docs에 있습니다.")
    return error
