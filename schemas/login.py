"""The wire form of signing in to the console."""

from __future__ import annotations

from marshmallow import Schema, fields, validate


class LoginSchema(Schema):
    """The token that is exchanged for a cookie."""

    token = fields.String(required=True, validate=validate.Length(min=1, max=256))
