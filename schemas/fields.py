"""Fields that accept exactly their JSON type: marshmallow's own read `"5"` as a number and `"yes"` as true."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from marshmallow import Schema, ValidationError, fields, missing, validate

from app.errors import ERRORS_MAX
from app.json_bytes import is_writable
from app.models import UNWRITABLE


class StrictBoolean(fields.Boolean):
    """`true` or `false`."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        if not isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return value


class StrictFloat(fields.Float):
    """A JSON number; not `true`, not `"0.5"`."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        if isinstance(value, str):
            raise self.make_error("invalid", input=value)
        return super()._deserialize(value, attr, data, **kwargs)


class StrictInteger(fields.Integer):
    """A JSON number without a fraction; not `true`, not `"5"`, not `5.5`."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        if isinstance(value, str) or (isinstance(value, float) and not value.is_integer()):
            raise self.make_error("invalid", input=value)
        return super()._deserialize(value, attr, data, **kwargs)


def writable(text: str) -> None:
    """Refuse what no database can hold, and so cannot be looked for."""
    if not is_writable(text):
        raise ValidationError(UNWRITABLE)


def beginning(description: str, most: int) -> fields.String:
    """What the names of a list begin with; empty for all of them."""
    metadata = {"description": description, "pattern": r"^[^\u0000]*$"}
    return fields.String(load_default="", validate=[validate.Length(max=most), writable], metadata=metadata)


class LeftOut(fields.Field[Any]):
    """Left out of what is written where there is none."""

    def _serialize(self, value: Any, attr: str | None, obj: Any, **kwargs: Any) -> Any:
        return missing if value is None else super()._serialize(value, attr, obj, **kwargs)


class OptionalInteger(LeftOut, fields.Integer):
    """A whole number, or nothing at all."""


class OptionalString(LeftOut, fields.String):
    """A text, or nothing at all."""


class BoundedList(fields.List[Any]):
    """A list of at most `most` entries that names its first wrong ones only, by index.

    Its length is looked at before its entries are: half a million of them would hold a worker for seconds.
    """

    def __init__(self, inner: fields.Field[Any], *, most: int, metadata: dict[str, Any], **options: Any) -> None:
        super().__init__(inner, metadata=metadata | {"maxItems": most}, **options)
        self._most = most

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        if not isinstance(value, list):
            raise self.make_error("invalid")
        if len(value) > self._most:
            raise ValidationError(f"must be at most {self._most} long")
        entries, errors = [], {}
        for index, entry in enumerate(value):
            try:
                entries.append(self.inner.deserialize(entry, **kwargs))
            except ValidationError as error:
                errors[index] = error.messages
            if len(errors) == ERRORS_MAX:
                break
        if errors:
            raise ValidationError(errors)
        return entries


MALFORMED_MOMENT = "must be ISO 8601 with offset, such as 2026-01-31T09:00:00+09:00"


class Moment(fields.AwareDateTime):
    """A moment, ISO 8601 with offset. In a query a `+` means a space, so a space before the offset is a `+`."""

    default_error_messages = dict.fromkeys(("invalid", "invalid_awareness"), MALFORMED_MOMENT)

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        if isinstance(value, str):
            value = re.sub(r" (?=\d\d:?\d\d\Z)", "+", value[:64]) if "T" in value[:64] else value
        return super()._deserialize(value, attr, data, **kwargs)


class Turn(fields.Field[Any]):
    """One past turn, `"user: text"` or `{"role": …, "content": …}`; which of them is a rule of the service."""

    default_error_messages = {"invalid": "Not a string or an object."}

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> Any:
        if not isinstance(value, str | dict):
            raise self.make_error("invalid")
        return value


class NothingSchema(Schema):
    """An empty object: the request says all by its address. A page of another origin cannot send one unasked."""

    class Meta:
        title = "Nothing"
