"""What the addresses of the console's lists say: which page of what."""

from __future__ import annotations

from marshmallow import Schema, fields, validate

from app.characters.character import NAME_MAX_LENGTH, NAME_PATTERN, VERSION_MAX
from app.models import SESSION_ID_MAX_LENGTH
from schemas.characters import VersionsQuerySchema
from schemas.fields import beginning
from schemas.sessions import CURSOR, TURNS_MAX


class BrowseSessionsSchema(Schema):
    """Which page of the sessions whose ids begin with what."""

    cursor = fields.String(load_default=None, validate=validate.Regexp(CURSOR))
    search = beginning("What the ids begin with.", "s-", SESSION_ID_MAX_LENGTH)


class BrowseTurnsSchema(Schema):
    """Which page of a session's turns."""

    order = fields.String(load_default="newest", validate=validate.OneOf(["oldest", "newest"]))
    cursor = fields.Integer(load_default=None, validate=validate.Range(min=0, max=TURNS_MAX))


class BrowseCharactersSchema(Schema):
    """Which page of the characters whose names begin with what."""

    cursor = fields.String(load_default=None, validate=validate.Regexp(NAME_PATTERN))
    search = beginning("What the names begin with.", "mi", NAME_MAX_LENGTH)


class BrowseCharacterSchema(VersionsQuerySchema):
    """Which version of whose character, and which page of its versions."""

    version = fields.Integer(load_default=None, validate=validate.Range(min=1, max=VERSION_MAX))
