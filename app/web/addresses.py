"""Addresses that are not there, and what the caller may have meant."""

from __future__ import annotations

import re

from app.errors import ValidationException

OPENAI_ROUTES = ("/responses", "/chat/completions", "/embeddings", "/models")
NOT_FOUND = "There is nothing at this address"


def not_found(path: str) -> ValidationException:
    """404 with a hint: most wrong addresses are an OpenAI client's, whose `base_url` is wrong by a little."""
    error = ValidationException(NOT_FOUND, error_code="not_found")
    if meant := _meant(path):
        error.explain(
            f"Perhaps {meant} is meant: the base_url of an OpenAI client ends with /v1 and nothing behind it",
            f"혹시 {meant}인가요? OpenAI 클라이언트의 base_url은 /v1로 끝나야 합니다.",
        )
    return error


def _meant(path: str) -> str:
    """The route that a path differs from by a missing, a doubled or another beginning, or by slashes; empty if none."""
    shortened = re.sub("/+", "/", path[:1024]).rstrip("/")
    return next((f"/v1{route}" for route in OPENAI_ROUTES if shortened.endswith(route)), "")
