"""JSON Lines: a body of them, and an answer that is made while it is sent."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from app.errors import ValidationException
from app.web.bodies import require_known_coding, whole_body
from app.web.flask_app import Response
from app.web.middleware import this_request

JSON_LINES = "application/x-ndjson"
ALSO_JSON_LINES = frozenset({JSON_LINES, "application/jsonl", "application/json-lines"})
"""None of these is registered; programs use all of them."""


def documented(example: str) -> dict[str, Any]:
    """A body of lines, for the specification."""
    return {JSON_LINES: {"schema": {"type": "string"}, "example": example}}


def lines_body() -> bytes:
    """The body, decoded; raises 415 unless it is said to be JSON Lines."""
    asked = this_request()
    if asked.mimetype not in ALSO_JSON_LINES:
        error = ValidationException(f"The body must be {JSON_LINES}", error_code="unsupported_media_type")
        error.told = f"본문은 {JSON_LINES}이어야 합니다."
        raise error
    require_known_coding(asked)
    return whole_body(asked)


def lines_answer(lines: Iterator[bytes]) -> Response:
    """Answer with lines. What fails before the first is raised, and so answered with an ordinary status; what fails
    later ends the answer without the end that HTTP would give it."""
    first = next(lines)
    return Response(itertools.chain([first], lines), mimetype=JSON_LINES)
