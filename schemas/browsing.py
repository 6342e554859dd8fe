"""What the addresses of the console's lists say: which page of what."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, fields, pre_load, validate

from app.characters.character import NAME_MAX_LENGTH, NAME_PATTERN, VERSION_MAX
from app.models import MODEL_MAX_LENGTH, SESSION_ID_MAX_LENGTH, USAGE_GROUPS, USAGE_SORTS
from schemas.characters import VersionsQuerySchema
from schemas.fields import beginning, writable
from schemas.sessions import CURSOR, TURNS_MAX
from schemas.usage import UPSTREAM_MAX_LENGTH, USER_QUERY_MAX_LENGTH

USAGE_PERIODS = ("1h", "24h", "7d", "30d")


class BrowseSessionsSchema(Schema):
    """Which page of the sessions whose ids begin with what."""

    cursor = fields.String(load_default=None, validate=validate.Regexp(CURSOR))
    search = beginning("What the ids begin with.", SESSION_ID_MAX_LENGTH)


class BrowseTurnsSchema(Schema):
    """Which page of a session's turns."""

    order = fields.String(load_default="newest", validate=validate.OneOf(["oldest", "newest"]))
    cursor = fields.Integer(load_default=None, validate=validate.Range(min=0, max=TURNS_MAX))


class BrowseCharactersSchema(Schema):
    """Which page of the characters whose names begin with what."""

    cursor = fields.String(load_default=None, validate=validate.Regexp(NAME_PATTERN))
    search = beginning("What the names begin with.", NAME_MAX_LENGTH)


class BrowseCharacterSchema(VersionsQuerySchema):
    """Which version of whose character, and which page of its versions."""

    version = fields.Integer(load_default=None, validate=validate.Range(min=1, max=VERSION_MAX))


class BrowseUsageSchema(Schema):
    """Which requests the page of the usage is about, and how its table is made. A form sends empty fields as well."""

    period = fields.String(load_default="24h", validate=validate.OneOf(USAGE_PERIODS))
    since = fields.Date(load_default=None)
    until = fields.Date(load_default=None)
    client = fields.String(load_default=None, validate=[validate.Length(max=64), writable])
    model = fields.String(load_default=None, validate=[validate.Length(max=MODEL_MAX_LENGTH), writable])
    upstream = fields.String(load_default=None, validate=[validate.Length(max=UPSTREAM_MAX_LENGTH), writable])
    session = fields.String(load_default=None, validate=[validate.Length(max=SESSION_ID_MAX_LENGTH), writable])
    user = fields.String(load_default=None, validate=[validate.Length(max=USER_QUERY_MAX_LENGTH), writable])
    by = fields.String(load_default="model", validate=validate.OneOf(USAGE_GROUPS))
    sort = fields.String(load_default="requests", validate=validate.OneOf(USAGE_SORTS))
    cursor = fields.Integer(load_default=None, validate=validate.Range(min=1, max=2**62))

    @pre_load
    def _without_empty(self, given: dict[str, str], **_: Any) -> dict[str, str]:
        return {name: value.strip() for name, value in given.items() if value.strip()}
