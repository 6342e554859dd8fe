"""The wire form of usage reports."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, fields, validate

from app.models import (
    MODEL_MAX_LENGTH,
    SESSION_ID_MAX_LENGTH,
    USAGE_GROUPS,
    USAGE_PAGE_MAX,
    USAGE_SORTS,
    USAGE_STEPS_SECONDS,
)
from schemas.fields import Moment, writable

REQUEST_ID_PARAMETER: dict[str, Any] = {
    "in": "path",
    "name": "request_id",
    "required": True,
    "description": "The `X-Request-ID` of an answer, or the `request_id` of a row of `GET /api/v1/usage`.",
    "schema": {"type": "string", "minLength": 1},
}
WRITABLE = {"pattern": r"^[^\u0000]*$"}
UPSTREAM_MAX_LENGTH = 64
USER_QUERY_MAX_LENGTH = 1024
"""Longer names are written down shorter (app/ledger/end_users.py), and still found by what the request had."""


class PeriodQuerySchema(Schema):
    """Whose requests a report covers, and when."""

    since = Moment(metadata={"description": "First moment, ISO 8601 with offset, such as 2026-01-01T00:00:00+00:00."})
    until = Moment(
        metadata={"description": "Moment after the last, ISO 8601 with offset, such as 2026-02-01T00:00:00+00:00."}
    )
    client = fields.String(
        validate=[validate.Length(max=64), writable],
        metadata={"description": "Admin only: one client's rows. Default: everybody's."} | WRITABLE,
    )
    user = fields.String(
        validate=[validate.Length(min=1, max=USER_QUERY_MAX_LENGTH), writable],
        metadata={"description": "One end user's rows, by the name that the requests gave."} | WRITABLE,
    )
    session_id = fields.String(
        validate=[validate.Length(max=SESSION_ID_MAX_LENGTH), writable],
        metadata={"description": "Only requests with this session id."} | WRITABLE,
    )
    model = fields.String(
        validate=[validate.Length(max=MODEL_MAX_LENGTH), writable],
        metadata={"description": "Only requests for this model."} | WRITABLE,
    )
    upstream = fields.String(
        validate=[validate.Length(max=UPSTREAM_MAX_LENGTH), writable],
        metadata={"description": "Only requests for which this upstream was asked."} | WRITABLE,
    )


class UsageQuerySchema(PeriodQuerySchema):
    """What a report covers."""

    by = fields.String(
        validate=validate.OneOf(USAGE_GROUPS),
        metadata={"description": "Sums by this; without it the rows themselves, newest first."},
    )
    sort = fields.String(
        validate=validate.OneOf(USAGE_SORTS),
        metadata={
            "description": "Sums in this order, the largest first (`key`: from A to Z), and at most `limit` of them.",
        },
    )
    cursor = fields.Integer(
        validate=validate.Range(min=1, max=2**62),
        metadata={"description": "`next_cursor` of the page before."},
    )
    limit = fields.Integer(
        load_default=100,
        validate=validate.Range(min=1, max=USAGE_PAGE_MAX),
        metadata={
            "description": "Rows, or sums by session, per page; by user, or with `sort`, how many sums.",
            "example": 100,
        },
    )


class SeriesQuerySchema(PeriodQuerySchema):
    """What a series covers."""

    step_seconds = fields.Integer(
        validate=validate.OneOf(USAGE_STEPS_SECONDS),
        metadata={
            "description": "Seconds between two points; more where there would be too many points. Default: the least "
            "that gives no more than 200.",
            "example": 3600,
        },
    )


class SumsSchema(Schema):
    """The sums of some requests."""

    requests = fields.Integer(metadata={"description": "Accepted requests.", "example": 12, "minimum": 0})
    ok = fields.Integer(metadata={"description": "Those that were answered.", "example": 11, "minimum": 0})
    failed = fields.Integer(
        metadata={
            "description": "Those that failed; not those whose caller left before.",
            "example": 1,
            "minimum": 0,
        }
    )
    input_tokens = fields.Integer(metadata={"description": "Tokens of the prompts.", "example": 2400, "minimum": 0})
    cached_tokens = fields.Integer(metadata={"description": "Those upstream had cached.", "example": 0, "minimum": 0})
    output_tokens = fields.Integer(metadata={"description": "Tokens of the answers.", "example": 300, "minimum": 0})
    cost_usd = fields.String(
        allow_none=True, metadata={"description": "US dollars, decimal; `null` when unknown.", "example": "0.00054"}
    )
    requests_of_unknown_cost = fields.Integer(
        metadata={"description": "Requests whose cost is not in the sum, as it is unknown.", "example": 0, "minimum": 0}
    )

    p50_ms = fields.Float(
        allow_none=True,
        metadata={
            "description": "Median time of those that were answered, right to 5 % and a millisecond.",
            "example": 412.5,
            "minimum": 0,
        },
    )
    p95_ms = fields.Float(
        allow_none=True,
        metadata={"description": "95 % of them were not slower.", "example": 1150.0, "minimum": 0},
    )


class UsageTotalSchema(SumsSchema):
    """The sums of one group."""

    key = fields.String(
        metadata={"description": "Day, model, client, user, session, key source, upstream.", "example": "2026-01-31"}
    )


class SeriesSumsSchema(SumsSchema):
    """The sums of some requests, and how soon their texts began."""

    class Meta:
        title = "SeriesSums"

    first_token_p50_ms = fields.Float(
        allow_none=True,
        metadata={
            "description": "Median time until the first text of those that were streamed.",
            "example": 210.0,
            "minimum": 0,
        },
    )


class PointSchema(SeriesSumsSchema):
    """The sums of one step."""

    class Meta:
        title = "Point"

    at = fields.String(
        metadata={"description": "When the step begins, ISO 8601, UTC.", "example": "2026-01-31T12:00:00+00:00"}
    )


class SeriesSchema(Schema):
    """Sums over time."""

    class Meta:
        title = "Series"

    step_seconds = fields.Integer(
        metadata={"description": "Seconds between two points.", "example": 3600, "minimum": 60}
    )
    since = fields.String(
        metadata={"description": "The first moment that is told of.", "example": "2026-01-31T12:00:00+00:00"}
    )
    until = fields.String(
        metadata={"description": "The last moment that is told of.", "example": "2026-02-01T12:00:00+00:00"}
    )
    points = fields.List(
        fields.Nested(PointSchema), metadata={"description": "One for each step, oldest first.", "example": []}
    )
    sums = fields.Nested(SeriesSumsSchema, metadata={"description": "Of all of them together."})


class AttemptSchema(Schema):
    """One attempt to have a request answered, where the server has several upstreams."""

    class Meta:
        title = "Attempt"

    upstream = fields.String(metadata={"description": "Its name in the file.", "example": "openai"})
    model = fields.String(metadata={"description": "The model's name there.", "example": "gpt-4o-mini"})
    model_answered = fields.String(allow_none=True, metadata={"description": "Who answered.", "example": "gpt-4o-mini"})
    api_key_fingerprint = fields.String(
        allow_none=True, metadata={"description": "Tells keys apart.", "example": "0f3a5c7e9b1d2f4a"}
    )
    outcome = fields.String(metadata={"description": "`ok`, or the code of what failed.", "example": "upstream_error"})
    ms = fields.Float(
        allow_none=True, metadata={"description": "Until it began or failed.", "example": 12.5, "minimum": 0}
    )
    input_tokens = fields.Integer(metadata={"description": "Tokens of the prompt.", "example": 24, "minimum": 0})
    cached_tokens = fields.Integer(metadata={"description": "Those upstream had cached.", "example": 0, "minimum": 0})
    output_tokens = fields.Integer(metadata={"description": "Tokens of the answer.", "example": 0, "minimum": 0})
    estimated = fields.Boolean(metadata={"description": "Whether the tokens are estimated.", "example": False})
    cost_usd = fields.String(
        allow_none=True, metadata={"description": "US dollars, decimal; `null` when unknown.", "example": "0"}
    )


class UsageRowSchema(Schema):
    """One request's row of the ledger."""

    request_id = fields.String(metadata={"description": "`X-Request-ID`.", "example": "a1b2c3"})
    client = fields.String(allow_none=True, metadata={"description": "Who called.", "example": "web"})
    created_at = fields.String(metadata={"description": "ISO 8601, UTC.", "example": "2026-01-31T12:00:00+00:00"})
    settled_at = fields.String(
        allow_none=True, metadata={"description": "ISO 8601, UTC.", "example": "2026-01-31T12:00:01+00:00"}
    )
    route = fields.String(metadata={"description": "Matched route.", "example": "/api/v1/chat"})
    session_id = fields.String(metadata={"description": "As in the request.", "example": "s-1"})
    user = fields.String(
        allow_none=True, metadata={"description": "End user that the request named.", "example": "player-42"}
    )
    model = fields.String(allow_none=True, metadata={"description": "Model asked for.", "example": "gpt-4o-mini"})
    model_answered = fields.String(
        allow_none=True, metadata={"description": "Model that answered.", "example": "gpt-4o-mini-2024-07-18"}
    )
    api_key_source = fields.String(allow_none=True, metadata={"description": "Whose key paid.", "example": "default"})
    api_key_fingerprint = fields.String(
        allow_none=True, metadata={"description": "Keyed digest of that key.", "example": "9f86d081884c7d65"}
    )
    status = fields.String(
        validate=validate.OneOf(["pending", "ok", "error", "cancelled", "timeout", "abandoned"]),
        metadata={"description": "How it ended.", "example": "ok"},
    )
    code = fields.String(allow_none=True, metadata={"description": "Error code.", "example": None})
    streamed = fields.Boolean(metadata={"description": "Asked for as a stream.", "example": False})
    cached = fields.Boolean(metadata={"description": "Served from the response cache.", "example": False})
    estimated = fields.Boolean(
        metadata={"description": "Upstream did not count; tokens are estimates.", "example": False}
    )
    input_tokens = fields.Integer(metadata={"description": "Tokens of the prompt.", "example": 24, "minimum": 0})
    cached_tokens = fields.Integer(metadata={"description": "Those upstream had cached.", "example": 0, "minimum": 0})
    output_tokens = fields.Integer(metadata={"description": "Tokens of the answer.", "example": 3, "minimum": 0})
    reasoning_tokens = fields.Integer(metadata={"description": "Those spent on reasoning.", "example": 0, "minimum": 0})
    cost_usd = fields.String(
        allow_none=True, metadata={"description": "US dollars, decimal; `null` when unknown.", "example": "0.0000054"}
    )
    price_version = fields.String(
        allow_none=True, metadata={"description": "Price list used.", "example": "genai-prices 0.2.3"}
    )
    queue_ms = fields.Float(
        allow_none=True, metadata={"description": "Waiting, milliseconds.", "example": 0.1, "minimum": 0}
    )
    upstream_ms = fields.Float(
        allow_none=True, metadata={"description": "Upstream, milliseconds.", "example": 410.0, "minimum": 0}
    )
    first_token_ms = fields.Float(
        allow_none=True,
        metadata={"description": "Until the first text of a stream, milliseconds.", "example": 210.0, "minimum": 0},
    )
    total_ms = fields.Float(
        allow_none=True, metadata={"description": "In all, milliseconds.", "example": 412.3, "minimum": 0}
    )
    upstream_request_id = fields.String(
        allow_none=True, metadata={"description": "Upstream's request id.", "example": "req_1"}
    )
    character = fields.String(
        allow_none=True, metadata={"description": "Who spoke, in which version.", "example": "mina@3"}
    )


class OneUsageRowSchema(UsageRowSchema):
    """One request's row of the ledger with its attempts, oldest first."""

    attempts = fields.List(
        fields.Nested(AttemptSchema),
        metadata={"description": "Empty where the server has one upstream: the row says it all then.", "example": []},
    )


class UsageSchema(Schema):
    """A report: `totals` when it was asked for by a group, else a page of `rows`."""

    totals = fields.List(fields.Nested(UsageTotalSchema), metadata={"description": "Sums per group.", "example": []})
    rows = fields.List(fields.Nested(UsageRowSchema), metadata={"description": "Rows, newest first.", "example": []})
    next_cursor = fields.Integer(
        allow_none=True, metadata={"description": "Pass as `cursor` for the next page.", "example": 4611, "minimum": 1}
    )
