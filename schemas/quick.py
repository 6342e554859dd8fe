"""QuickSchema: marshmallow's schema with fewer steps for what keeps every rule.

marshmallow looks at each field of a schema, there or not, and wraps each look in a function: of a chat request with two
members that takes longer than everything else that is done with its body. Here each member is read by its own field,
unless it is what the field would make of it, and what breaks a rule is read again by marshmallow, which names the
errors: `test_both_ways_read_the_same`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from marshmallow import Schema, ValidationError, fields, missing, post_load

from schemas.fields import LeftOut, StrictBoolean, StrictInteger

READ = {fields.String: str, StrictBoolean: bool, StrictInteger: int}
WRITTEN = {fields.String: str, fields.Boolean: bool, fields.Integer: int, fields.Float: float}
"""Fields of these classes leave a value alone whose type is exactly this, as long as they have no options."""


def _left_alone(field: fields.Field[Any], kinds: Mapping[Any, type]) -> type | None:
    """The type of which a value is what the field would make of it; None where there is no such type."""
    has_options = field.validators or field.pre_load or field.post_load or getattr(field, "as_string", False)
    return None if has_options else kinds.get(type(field))


class QuickSchema(Schema):
    """For a schema whose fields have no defaults, and whose only hook is `build`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if any(field.load_default is not missing for field in self.load_fields.values()):
            raise TypeError("a QuickSchema gives no defaults")
        self._readers = {
            field.data_key or name: (name, _left_alone(field, READ), field.deserialize)
            for name, field in self.load_fields.items()
        }
        self._needed = {field.data_key or name for name, field in self.load_fields.items() if field.required}
        self._writers = [
            (field.data_key or name, name, _left_alone(field, WRITTEN), field._serialize)
            for name, field in self.dump_fields.items()
        ]
        self._optional = [
            field.data_key or name for name, field in self.dump_fields.items() if isinstance(field, LeftOut)
        ]

    @post_load
    def build(self, data: dict[str, Any], **_: Any) -> Any:
        """What the loaded members become."""
        return data

    def load(self, data: Any, **options: Any) -> Any:
        if type(data) is not dict or not self._needed <= data.keys() or not data.keys() <= self._readers.keys():
            return super().load(data, **options)
        loaded = {}
        try:
            for key, value in data.items():
                name, kind, read = self._readers[key]
                loaded[name] = value if type(value) is kind else read(value, key, data)
        except ValidationError:
            return super().load(data, **options)
        return self.build(loaded)

    def dump(self, obj: Any, **options: Any) -> Any:
        if options or isinstance(obj, Mapping):
            return super().dump(obj, **options)
        written = {
            key: value if type(value := getattr(obj, name)) is kind else write(value, name, obj)
            for key, name, kind, write in self._writers
        }
        for key in self._optional:
            if written[key] is missing:
                del written[key]
        return written
