"""The wire form of every failure: RFC 9457 members and the seed's fields."""

from __future__ import annotations

from marshmallow import Schema, fields, validate

from app.failures import FAILURES


class ProblemSchema(Schema):
    """A problem document, `application/problem+json`."""

    class Meta:
        title = "Problem"

    type = fields.String(required=True, metadata={"description": "Always `about:blank`.", "example": "about:blank"})
    title = fields.String(required=True, metadata={"description": "The status in words.", "example": "Bad Gateway"})
    status = fields.Integer(
        required=True, metadata={"description": "HTTP status.", "example": 502, "minimum": 400, "maximum": 599}
    )
    detail = fields.String(
        required=True,
        metadata={"description": "What went wrong, in English.", "example": "The connection to the AI service failed"},
    )
    code = fields.String(
        required=True,
        validate=validate.OneOf(sorted(FAILURES)),
        metadata={"description": "Stable code for machines.", "example": "upstream_connection_error"},
    )
    success = fields.Boolean(required=True, metadata={"description": "Always `false`.", "example": False})
    session_id = fields.String(
        required=True, metadata={"description": "The request's session id, or empty.", "example": "s-1"}
    )
    error_message = fields.String(
        required=True,
        metadata={
            "description": "A Korean sentence behind a prefix that tells the kind of error; with `Accept-Language: en` "
            "the English one.",
            "example": "AI 서비스 연결 오류: AI 서비스에 연결하지 못했거나 연결이 끊겼습니다.",
        },
    )
    origin = fields.String(
        required=True,
        validate=validate.OneOf(["client", "server", "upstream"]),
        metadata={"description": "Who failed.", "example": "upstream"},
    )
    retryable = fields.Boolean(
        required=True, metadata={"description": "Whether the same request may succeed later.", "example": True}
    )
    request_id = fields.String(
        required=True, metadata={"description": "The `X-Request-ID` of the answer.", "example": "a1b2c3"}
    )
    errors = fields.Dict(
        metadata={
            "description": "Validation only: messages by location (`json`, `headers`) and field.",
            "example": {"json": {"max_tokens": ["must be from 1 to 1000000000"]}},
        }
    )
    param = fields.String(
        metadata={"description": "The request's field that upstream refused.", "example": "temperature"}
    )
    upstream_code = fields.String(
        metadata={"description": "Upstream's own error code, when it gave one.", "example": "server_error"}
    )
    upstream_message = fields.String(
        metadata={
            "description": "Upstream's own words for why it refused, without keys, when it gave any.",
            "example": "Unsupported value: 'temperature' does not support 0.2 with this model.",
            "maxLength": 2000,
        }
    )
