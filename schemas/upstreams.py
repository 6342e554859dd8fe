"""The wire form of how the upstreams do."""

from __future__ import annotations

from marshmallow import Schema, fields, validate

STATES = ["well", "rests", "probed"]

NAME_PARAMETER = {
    "in": "path",
    "name": "name",
    "required": True,
    "description": "The upstream's name; `default` where the server has one upstream and no file of them.",
    "schema": {"type": "string", "minLength": 1, "example": "default"},
}


class StateSchema(Schema):
    """Whether something may be asked."""

    state = fields.String(
        validate=validate.OneOf(STATES),
        metadata={
            "description": "`well`, `rests` (asked last), or `probed` (one request finds out how it does).",
            "example": "well",
        },
    )
    due_in_seconds = fields.Float(
        metadata={"description": "Seconds until it may be asked again.", "example": 0.0, "minimum": 0}
    )
    reason = fields.String(
        allow_none=True, metadata={"description": "The error code for which it rests.", "example": "upstream_error"}
    )
    in_flight = fields.Integer(metadata={"description": "Attempts under way.", "example": 3, "minimum": 0})


class KeyStateSchema(StateSchema):
    """How one of the server's keys does, in the order of the file."""

    class Meta:
        title = "KeyState"


class UpstreamStateSchema(StateSchema):
    """How one upstream does; the figures are those of the worker that answers."""

    class Meta:
        title = "UpstreamState"

    name = fields.String(metadata={"description": "Its name in the file.", "example": "openai"})
    dialects = fields.List(
        fields.String(), metadata={"description": "The APIs that it speaks.", "example": ["responses"]}
    )
    recent_attempts = fields.Integer(
        metadata={"description": "Attempts of the last 5 minutes, 500 at most.", "example": 120, "minimum": 0}
    )
    success_rate = fields.Float(
        allow_none=True,
        metadata={"description": "The share of them that was answered.", "example": 0.99, "minimum": 0, "maximum": 1},
    )
    p50_ms = fields.Float(
        allow_none=True,
        metadata={"description": "Until their answers began, median.", "example": 310.0, "minimum": 0},
    )
    keys = fields.List(fields.Nested(KeyStateSchema), metadata={"description": "The server's keys.", "example": []})


class UpstreamStatesSchema(Schema):
    """All upstreams."""

    class Meta:
        title = "UpstreamStates"

    upstreams = fields.List(
        fields.Nested(UpstreamStateSchema), metadata={"description": "In the order of the file.", "example": []}
    )


class KeyTrialSchema(Schema):
    """What came of asking for the list of models with one key."""

    class Meta:
        title = "KeyTrial"

    outcome = fields.String(
        allow_none=True,
        metadata={
            "description": "`answers`, or the error code of what failed; null when no time was left to ask.",
            "example": "answers",
        },
    )
    ms = fields.Float(
        allow_none=True, metadata={"description": "Until it answered or failed.", "example": 84.2, "minimum": 0}
    )


class UpstreamTrialSchema(Schema):
    """An upstream whose rests were ended, and how it answered."""

    class Meta:
        title = "UpstreamTrial"

    upstream = fields.Nested(UpstreamStateSchema, metadata={"description": "How it does now."})
    keys = fields.List(
        fields.Nested(KeyTrialSchema), metadata={"description": "In the order of the file.", "example": []}
    )
