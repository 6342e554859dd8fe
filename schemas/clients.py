"""The wire form of clients: the applications that may call, and their limits."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from marshmallow import Schema, ValidationError, fields, validate

from app.models import CLIENT_COUNT_MAX, CLIENT_NAME_PATTERN, CLIENT_STATES
from schemas.fields import BoundedList, Moment, StrictBoolean, StrictInteger, writable

PATTERNS_MAX = 100
MODEL_PATTERN = r"^[^\s,\u0000-\u001f]+$"
NAME: dict[str, Any] = {"description": "The client's name.", "example": "web"}
NAME_PARAMETER: dict[str, Any] = {
    "in": "path",
    "name": "name",
    "required": True,
    "description": NAME["description"],
    "schema": {"type": "string", "pattern": f"^{CLIENT_NAME_PATTERN}$", "example": NAME["example"]},
}
BUDGET = "US dollars per day, month or for good, as `5/day`, `0.50/month` or `20/total`; null is no limit."


def _showable(moment: datetime) -> None:
    """Refuse what no calendar shows once it is told in UTC."""
    if not 1970 <= moment.year < 9999:
        raise ValidationError("must be from the year 1970 to 9998")


def count(description: str, example: int) -> StrictInteger:
    """A limit that counts."""
    return StrictInteger(
        allow_none=True,
        validate=validate.Range(min=1, max=CLIENT_COUNT_MAX),
        metadata={"description": f"{description}; null is no limit.", "example": example},
    )


class LimitsSchema(Schema):
    """What a client may do. `null` takes a limit away; what is not given stays as it is."""

    class Meta:
        title = "Limits"

    rpm = count("Requests per minute", 60)
    concurrency = count("Requests at once", 20)
    budget_usd = fields.String(allow_none=True, metadata={"description": BUDGET, "example": "5/day"})
    per_user_rpm = count("Requests per minute of each end user", 10)
    per_user_budget_usd = fields.String(
        allow_none=True, metadata={"description": f"Of each end user: {BUDGET}", "example": "0.50/month"}
    )
    models = BoundedList(
        fields.String(validate=[validate.Regexp(MODEL_PATTERN), writable]),
        most=PATTERNS_MAX,
        allow_none=True,
        validate=validate.Length(min=1),
        metadata={"description": "The models that it may use; null is all.", "example": ["gpt-4o*", "o1"]},
    )
    free_mode = StrictBoolean(metadata={"description": "Whether the server's key may pay.", "example": True})
    admin = StrictBoolean(metadata={"description": "Whether it may see and do everything.", "example": False})
    expires_at = Moment(
        allow_none=True,
        validate=_showable,
        metadata={
            "description": "When its token ends, ISO 8601 with offset; null is never.",
            "example": "2027-01-31T00:00:00+00:00",
        },
    )


class NewClientSchema(LimitsSchema):
    """A client that is to be made."""

    class Meta:
        title = "NewClient"

    name = fields.String(required=True, metadata=NAME | {"pattern": f"^{CLIENT_NAME_PATTERN}$"})


class ClientSchema(Schema):
    """A client, its state, and what its budget has spent; null is no limit."""

    class Meta:
        title = "Client"

    name = fields.String(metadata=NAME)
    state = fields.String(
        validate=validate.OneOf(CLIENT_STATES),
        metadata={
            "description": "Whether its token opens anything; `key_changed`: it was made under another digest key.",
            "example": "active",
        },
    )
    rpm = fields.Integer(allow_none=True, metadata={"description": "Requests per minute.", "example": 60, "minimum": 1})
    concurrency = fields.Integer(
        allow_none=True, metadata={"description": "Requests at once.", "example": 20, "minimum": 1}
    )
    budget_usd = fields.String(allow_none=True, metadata={"description": "Dollars per period.", "example": "5/day"})
    spent_usd = fields.String(
        allow_none=True,
        metadata={
            "description": "What the budget has spent in its present period; null without one.",
            "example": "1.2",
        },
    )
    reserved_usd = fields.String(
        allow_none=True, metadata={"description": "What is reserved for requests in flight.", "example": "0"}
    )
    renews_at = fields.String(
        allow_none=True,
        metadata={"description": "When the next period begins; null is never.", "example": "2026-02-01T00:00:00+00:00"},
    )
    per_user_rpm = fields.Integer(
        allow_none=True, metadata={"description": "Requests per minute of each end user.", "example": 10, "minimum": 1}
    )
    per_user_budget_usd = fields.String(
        allow_none=True, metadata={"description": "Budget of each end user.", "example": "0.5/month"}
    )
    models = fields.List(
        fields.String(),
        allow_none=True,
        metadata={"description": "The models that it may use; null is all.", "example": ["gpt-4o*", "o1"]},
    )
    free_mode = fields.Boolean(metadata={"description": "Whether the server's key may pay.", "example": True})
    admin = fields.Boolean(metadata={"description": "Whether it may see and do everything.", "example": False})
    created_at = fields.String(
        metadata={"description": "ISO 8601, UTC.", "example": "2026-01-31T12:00:00+00:00"},
    )
    expires_at = fields.String(
        allow_none=True,
        metadata={"description": "When its token ends; null is never.", "example": "2027-01-31T00:00:00+00:00"},
    )


class ClientWithTokenSchema(ClientSchema):
    """A client with its new token, which is told this once."""

    class Meta:
        title = "ClientWithToken"

    token = fields.String(
        metadata={
            "description": "The token; only a digest is kept.",
            "example": "llms_0123456789abcdefghijklmnopqrstuvw",
        }
    )


class ClientsSchema(Schema):
    """All clients."""

    class Meta:
        title = "Clients"

    clients = fields.List(fields.Nested(ClientSchema), metadata={"description": "By name.", "example": []})
