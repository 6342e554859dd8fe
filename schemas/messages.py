"""The wire form of Anthropic's own routes. Their bodies pass as they come; only what we look at is described."""

from __future__ import annotations

from marshmallow import Schema, fields, validate

from schemas.chat import upstream_header
from schemas.openai import free_mode_header, own_key_header
from schemas.quick import QuickSchema


def passed_header(name: str, length: int, **example: str) -> fields.String:
    """A header of Anthropic's that passes on, whoever pays; the documentation's page sends its example."""
    pattern = rf"^[\x20-\x7e]{{0,{length}}}$"
    return fields.String(
        data_key=name,
        validate=validate.Regexp(pattern, error=f"must be at most {length} printable ASCII characters"),
        metadata={"description": "Passed on.", "pattern": pattern} | example,
    )


class MessagesHeadersSchema(QuickSchema):
    """Headers that choose whose key pays, and those of Anthropic's API."""

    openai_api_key = own_key_header("The caller's own key; wins over `x-api-key` and `Authorization: Bearer`.")
    free_mode = free_mode_header()
    upstream = upstream_header()
    version = passed_header("anthropic-version", 64, example="2023-06-01")
    beta = passed_header("anthropic-beta", 4096)


class AnthropicDetailsSchema(Schema):
    """What a program can look at."""

    error_code = fields.String(metadata={"description": "Our stable code.", "example": "validation_error"})


class AnthropicErrorObjectSchema(Schema):
    """What went wrong."""

    type = fields.String(metadata={"description": "Anthropic's kind of error.", "example": "invalid_request_error"})
    message = fields.String(metadata={"description": "What went wrong.", "example": "These fields break a rule: model"})
    details = fields.Nested(AnthropicDetailsSchema, metadata={"description": "The cause."})


class AnthropicErrorSchema(Schema):
    """A failure in Anthropic's shape."""

    class Meta:
        title = "AnthropicError"

    type = fields.String(metadata={"description": "Always `error`.", "example": "error"})
    error = fields.Nested(AnthropicErrorObjectSchema, metadata={"description": "What went wrong."})
    request_id = fields.String(metadata={"description": "The answer's `X-Request-ID`.", "example": "a1b2"})
