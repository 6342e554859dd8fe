"""The wire form of what the address of the playground may say."""

from __future__ import annotations

from marshmallow import Schema, fields, validate

from app.models import CHARACTER_MAX_LENGTH, SESSION_ID_MAX_LENGTH


class PlaygroundQuerySchema(Schema):
    """Which conversation goes on, and who speaks."""

    session = fields.String(load_default="", validate=validate.Length(max=SESSION_ID_MAX_LENGTH))
    character = fields.String(load_default="", validate=validate.Length(max=CHARACTER_MAX_LENGTH))
