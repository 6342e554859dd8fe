"""The wire form of sessions. The rules of what a caller writes are in app/sessions/rules.py."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, fields, validate

from app.models import (
    METADATA_KEY_MAX_LENGTH,
    METADATA_MAX,
    METADATA_VALUE_MAX_LENGTH,
    SESSION_ID_MAX_LENGTH,
    SESSION_PAGE_MAX,
    SUMMARY_MAX_LENGTH,
    TITLE_MAX_LENGTH,
)
from schemas.fields import StrictInteger, beginning

TRIED_NAME = "docs-1"
"""The session that the example of a chat request begins, for those of the other routes."""
EXPORTED = """\
{"format":"llm-server-session","version":1,"title":"About Seoul"}
{"turn":1,"user_message":"I am Mina.","response_text":"Hello Mina."}
"""
TURNS_MAX = 2**31 - 1
TITLE: dict[str, Any] = {
    "example": "About Seoul",
    "maxLength": TITLE_MAX_LENGTH,
    "pattern": r"^[^\u0000-\u001f\u007f-\u009f]*$",
}
CURSOR = r"^[0-9]{1,16}-[0-9]{1,16}$"
TEXT = r"^[^\u0000]*$"
METADATA: dict[str, Any] = {
    "example": {"place": "Seoul"},
    "maxProperties": METADATA_MAX,
    "patternProperties": {
        rf"^[^\u0000]{{1,{METADATA_KEY_MAX_LENGTH}}}$": {
            "type": "string",
            "maxLength": METADATA_VALUE_MAX_LENGTH,
            "pattern": TEXT,
        }
    },
    "additionalProperties": False,
}
LIMIT: dict[str, Any] = {"load_default": 100, "validate": validate.Range(min=1, max=SESSION_PAGE_MAX)}
NAME_PARAMETER: dict[str, Any] = {
    "in": "path",
    "name": "session_id",
    "required": True,
    "description": "The session's name: the `session_id` of requests that had `remember`.",
    "schema": {"type": "string", "minLength": 1, "example": TRIED_NAME},
}
NEW_NAME_PARAMETER: dict[str, Any] = NAME_PARAMETER | {
    "description": "The new session's name, which no session has yet.",
    "schema": NAME_PARAMETER["schema"] | {"example": f"{TRIED_NAME}-again"},
}
MOMENT = {"example": "2026-01-31T12:00:00+00:00"}
SPEAKER = {"description": "The character that spoke last.", "example": None}


class SessionsQuerySchema(Schema):
    """Which page of the sessions."""

    cursor = fields.String(
        validate=validate.Regexp(CURSOR, error="must be the `next_cursor` of the page before"),
        metadata={"description": "`next_cursor` of the page before."},
    )
    limit = fields.Integer(**LIMIT, metadata={"description": "Sessions per page.", "example": 100})
    search = beginning("Only sessions whose id begins with this.", SESSION_ID_MAX_LENGTH)


class SessionQuerySchema(Schema):
    """Which turns of a session."""

    order = fields.String(
        load_default="oldest",
        validate=validate.OneOf(["oldest", "newest"]),
        metadata={"description": "Which turns come first."},
    )
    cursor = fields.Integer(
        validate=validate.Range(min=0, max=TURNS_MAX),
        metadata={"description": "`next_cursor` of the page before: the number of its last turn."},
    )
    limit = fields.Integer(**LIMIT, metadata={"description": "Turns per page.", "example": 100})


class SessionChangeSchema(Schema):
    """What an owner writes on a session; what is not given stays."""

    class Meta:
        title = "SessionChange"

    title = fields.String(metadata={"description": "A name for people, without control characters.", **TITLE})
    metadata = fields.Dict(
        metadata={"description": "Pairs of texts in the place of those that the session has.", **METADATA}
    )


class SummaryRequestSchema(Schema):
    """A summary of the first turns."""

    class Meta:
        title = "SummaryRequest"

    text = fields.String(
        required=True,
        metadata={
            "description": "What a model is told in the place of these turns; not blank.",
            "example": "Mina lives in Seoul and likes tea.",
            "minLength": 1,
            "maxLength": SUMMARY_MAX_LENGTH,
            "pattern": r"^[^\u0000]*[^\s\u0000\u001c-\u001f\u0085][^\u0000]*$",
        },
    )
    covers = StrictInteger(
        required=True,
        metadata={
            "description": "How many turns it stands for, from the first on.",
            "example": 12,
            "minimum": 1,
            "maximum": TURNS_MAX,
        },
    )


class SummarySchema(Schema):
    """What stands for the first turns of a session."""

    class Meta:
        title = "Summary"

    text = fields.String(metadata={"description": "The summary.", "example": "Mina lives in Seoul and likes tea."})
    covers = fields.Integer(
        metadata={"description": "How many turns it stands for, from the first on.", "example": 12, "minimum": 1}
    )
    by = fields.String(allow_none=True, metadata={"description": "Who made it.", "example": "caller"})
    model = fields.String(allow_none=True, metadata={"description": "The model that made it.", "example": None})
    created_at = fields.String(allow_none=True, metadata={"description": "ISO 8601, UTC.", **MOMENT})


class SessionTurnSchema(Schema):
    """What the user said and what was answered."""

    class Meta:
        title = "SessionTurn"

    turn = fields.Integer(metadata={"description": "Its number, from 1 on.", "example": 1, "minimum": 1})
    created_at = fields.String(metadata={"description": "When it was kept, ISO 8601, UTC.", **MOMENT})
    user_message = fields.String(
        allow_none=True,
        metadata={"description": "`null` where a conversation begins with an answer.", "example": "I am Mina."},
    )
    response_text = fields.String(
        allow_none=True, metadata={"description": "`null` where nothing was answered.", "example": "Hello Mina."}
    )
    interrupted = fields.Boolean(metadata={"description": "Whether the answer was cut.", "example": False})
    model = fields.String(allow_none=True, metadata={"description": "The model that answered.", "example": "gpt-4o"})
    character = fields.String(allow_none=True, metadata={"description": "The character that spoke.", "example": None})
    request_id = fields.String(
        allow_none=True, metadata={"description": "Its row in the ledger; `null` of an import.", "example": "a1b2c3"}
    )


OWNERS = "As its owner wrote it; `null` in a list where it cannot be read."


class SessionSchema(Schema):
    """A session without its texts."""

    class Meta:
        title = "Session"

    session_id = fields.String(metadata={"description": "Its name.", "example": "s-1"})
    title = fields.String(allow_none=True, metadata={"description": OWNERS, "example": "About Seoul"})
    metadata = fields.Dict(allow_none=True, metadata={"description": OWNERS, "example": {"place": "Seoul"}})
    character = fields.String(allow_none=True, metadata=SPEAKER)
    turn_count = fields.Integer(metadata={"description": "How many turns it has.", "example": 12, "minimum": 1})
    created_at = fields.String(metadata={"description": "When it began, ISO 8601, UTC.", **MOMENT})
    updated_at = fields.String(metadata={"description": "When its last turn was kept, ISO 8601, UTC.", **MOMENT})
    input_tokens = fields.Integer(metadata={"description": "Of all its prompts.", "example": 2400, "minimum": 0})
    output_tokens = fields.Integer(metadata={"description": "Of all its answers.", "example": 300, "minimum": 0})
    cost_usd = fields.String(metadata={"description": "US dollars so far, decimal.", "example": "0.00054"})
    requests_of_unknown_cost = fields.Integer(
        metadata={"description": "Requests whose cost is not in the sum, as it is unknown.", "example": 0, "minimum": 0}
    )


class SessionWithTurnsSchema(SessionSchema):
    """A session, its summary and a page of its turns."""

    class Meta:
        title = "SessionWithTurns"

    summary = fields.Nested(SummarySchema, allow_none=True, metadata={"description": "`null` where there is none."})
    turns = fields.List(fields.Nested(SessionTurnSchema), metadata={"description": "A page of them.", "example": []})
    next_cursor = fields.Integer(
        allow_none=True, metadata={"description": "Pass as `cursor` for the next page.", "example": 100, "minimum": 1}
    )


class SessionsSchema(Schema):
    """A page of sessions."""

    class Meta:
        title = "Sessions"

    sessions = fields.List(
        fields.Nested(SessionSchema), metadata={"description": "That of the last turn first.", "example": []}
    )
    next_cursor = fields.String(
        allow_none=True,
        metadata={"description": "Pass as `cursor` for the next page.", "example": "1769860800000000-42"},
    )
