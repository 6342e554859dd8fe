"""The wire form of interrupting a session."""

from __future__ import annotations

from marshmallow import Schema, fields, validate

from schemas.fields import StrictInteger

REQUEST_ID_MAX_LENGTH = 64
HEARD_MAX = 2**53 - 1
"""What every JSON reader takes for a whole number."""


class InterruptSchema(Schema):
    """How much of the answer was heard."""

    class Meta:
        title = "Interrupt"

    request_id = fields.String(
        load_default=None,
        validate=validate.Length(1, REQUEST_ID_MAX_LENGTH),
        metadata={
            "description": "The turn that is meant, by the `request_id` of its `start` event or its `X-Request-ID`. "
            "Without it: the one that goes on, else the last one.",
            "example": "a1b2c3",
        },
    )
    heard_characters = StrictInteger(
        load_default=None,
        validate=validate.Range(0, HEARD_MAX),
        metadata={
            "description": "So many characters (Unicode code points) of `response_text` were heard. Without it: all "
            "that was delivered.",
            "example": 42,
        },
    )


class InterruptionSchema(Schema):
    """What is remembered of the last turn now."""

    class Meta:
        title = "Interruption"

    turn = fields.Integer(
        allow_none=True,
        metadata={
            "description": "Its number; `null` where the turn that was running failed and left nothing.",
            "example": 7,
            "minimum": 1,
        },
    )
    answer_text = fields.String(
        allow_none=True,
        metadata={"description": "Its answer; `null` where nothing of it was heard.", "example": "The capital of"},
    )
    interrupted = fields.Boolean(metadata={"description": "The answer is not whole.", "example": True})
    was_running = fields.Boolean(metadata={"description": "The turn was still running, and was cut.", "example": True})
