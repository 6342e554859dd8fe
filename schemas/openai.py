"""The wire form of OpenAI's own routes. Their bodies pass as they come; only what we look at is described."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, fields, validate

from schemas.chat import KEY, upstream_header, well_formed_key
from schemas.quick import QuickSchema

MODEL = "gpt-4o-mini"
"""In an example: the model that this server asks where nothing is said."""
MODEL_PARAMETER: dict[str, Any] = {
    "in": "path",
    "name": "model",
    "required": True,
    "description": "The `id` of a model of `GET /v1/models`.",
    "schema": {"type": "string", "example": MODEL},
}
STREAM = {
    "type": ["boolean", "null"],
    "description": "Whether the answer is an event stream.",
    "default": False,
    "example": False,
}


def request_body(whose: str = "OpenAI", **example: Any) -> dict[str, Any]:
    """The body of one of OpenAI's requests, or of another vendor's, with one to try."""
    schema: dict[str, Any] = {
        "type": "object",
        "description": f"{whose}'s request body; passed on as it comes.",
        "properties": {"stream": STREAM},
        "additionalProperties": True,
    }
    if whose == "OpenAI":
        # Another spelling of `n`, as of every member on which something is decided, is refused.
        schema["propertyNames"] = {"not": {"enum": ["N"]}}
    return {"required": True, "content": {"application/json": {"schema": schema, "example": example}}}


def form_body() -> dict[str, Any]:
    """The form of a request with a file."""
    properties = {
        "file": {"type": "string", "format": "binary", "description": "The sound."},
        "model": {"description": "All fields are texts.", "example": "gpt-4o-mini-transcribe"},
    }
    names = {"pattern": r"^[A-Za-z0-9_.\[\]-]{1,64}$"}
    schema = {"type": "object", "properties": properties, "propertyNames": names}
    description = "OpenAI's form; passed on as it comes."
    return {"required": True, "content": {"multipart/form-data": {"schema": schema | {"description": description}}}}


def own_header(name: str) -> fields.String:
    """A header of OpenAI's that passes with the caller's own key and with no other."""
    pattern = r"^[\x20-\x7e]{0,256}$"
    return fields.String(
        data_key=name,
        validate=validate.Regexp(pattern, error="must be at most 256 printable ASCII characters"),
        metadata={"description": "Passed on with the caller's own key only.", "pattern": pattern},
    )


def own_key_header(description: str) -> fields.String:
    """The header that carries the caller's own key on every route."""
    metadata = {"description": description, "pattern": KEY}
    return fields.String(data_key="X-OpenAI-Api-Key", validate=well_formed_key, metadata=metadata)


def free_mode_header() -> fields.String:
    """The header that asks for free mode where the body has no member for it."""
    return fields.String(
        data_key="X-Free-Mode",
        validate=validate.OneOf(["true", "false"]),
        metadata={
            "description": "Let the server's key pay when the caller's is missing or refused. "
            "Default: `true` for a client's token without an own key, else setting OPENAI_DOOR_FREE_MODE.",
            "example": "true",
        },
    )


class OpenAIHeadersSchema(QuickSchema):
    """Headers that choose whose key pays."""

    openai_api_key = own_key_header("The caller's own key; wins over `Authorization: Bearer`.")
    free_mode = free_mode_header()
    upstream = upstream_header()
    organization = own_header("OpenAI-Organization")
    project = own_header("OpenAI-Project")
    beta = own_header("OpenAI-Beta")
    idempotency_key = own_header("Idempotency-Key")


class PassedOnSchema(Schema):
    """An answer of upstream's, as it came."""

    class Meta:
        title = "PassedOn"
        unknown = "include"


class OpenAIErrorObjectSchema(Schema):
    """What went wrong."""

    message = fields.String(metadata={"description": "What went wrong.", "example": "These fields break a rule: model"})
    type = fields.String(metadata={"description": "OpenAI's kind of error.", "example": "invalid_request_error"})
    param = fields.String(
        allow_none=True, metadata={"description": "The field that upstream refused.", "example": "model"}
    )
    code = fields.String(metadata={"description": "Our stable code.", "example": "validation_error"})


class OpenAIErrorSchema(Schema):
    """A failure in OpenAI's shape."""

    class Meta:
        title = "OpenAIError"

    error = fields.Nested(OpenAIErrorObjectSchema, metadata={"description": "What went wrong."})
