"""QuickSchema reads and writes what marshmallow would."""

from __future__ import annotations

import dataclasses
import itertools
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from marshmallow import EXCLUDE, Schema, ValidationError, fields, validate

from app.models import ChatRequest, ChatResponse
from schemas.chat import ChatHeadersSchema, ChatRequestSchema, ChatResponseSchema
from schemas.openai import OpenAIHeadersSchema
from schemas.quick import QuickSchema

VALUES: list[Any] = [
    *(None, "", "hi", "\x00", 0, 1, -1, 1.5, 2.0, float("nan"), True, False, [], {}, ["a"], [1], [None], {"a": 1}),
    *("5", "true", 2**70, ["user: hi", {"role": "user", "content": "x"}], ["a"] * 2000, "sk-12345678", "k" * 9000),
]


def outcome(read: Any, *args: Any, **options: Any) -> Any:
    try:
        return read(*args, **options)
    except ValidationError as error:
        return error.normalized_messages()


@pytest.mark.parametrize("schema", [ChatRequestSchema(), ChatHeadersSchema(), OpenAIHeadersSchema()])
def test_both_ways_read_the_same(schema: QuickSchema) -> None:
    """Every member with every kind of value, missing, unknown and repeated wrong ones: the same value or errors."""
    names = [field.data_key or name for name, field in schema.load_fields.items()]
    bodies: list[Any] = [{}, [], None, "x", {"user_message": "hi"}, {"nope": 1}, {"user_message": "hi", "nope": 1}]
    bodies += [{"user_message": "hi", name: value} for name, value in itertools.product(names, VALUES)]
    bodies += [{name: value} for name, value in itertools.product(names, VALUES[:3])]
    bodies += [dict.fromkeys(names, value) for value in VALUES]
    bodies += [{"user_message": "hi", "role": 1, "model": 2, "images": [3]}]
    for body, options in itertools.product(bodies, ({}, {"unknown": EXCLUDE})):
        ours, theirs = outcome(schema.load, body, **options), outcome(Schema.load, schema, body, **options)
        assert repr(ours) == repr(theirs)


def test_a_request_is_made_of_it() -> None:
    """Loaded, it is the service's own value."""
    loaded = ChatRequestSchema().load({"user_message": "hi", "max_tokens": None})
    assert loaded == ChatRequest(user_message="hi", max_tokens=None)


@pytest.mark.parametrize("member", [None, {"city": "서울"}, [1, 2.5], "x", 0])
def test_both_ways_write_the_same(member: Any) -> None:
    """Every member of an answer."""
    answer = ChatResponse(
        session_id="s",
        response_text="hi",
        model="m",
        input_tokens=1,
        output_tokens=2,
        total_tokens_used=3,
        output_format="text",
        created_at=datetime(2026, 1, 31, 12, tzinfo=UTC),
        temperature=0.7,
        instructions="",
        response_time=0.5,
        api_key_source="default",
        response_json=member,
    )
    schema = ChatResponseSchema()
    assert schema.dump(answer) == Schema.dump(schema, answer)
    for name, value in itertools.product(schema.dump_fields, VALUES):
        odd = dataclasses.replace(answer, **{name: value})
        assert repr(written(schema.dump, odd)) == repr(written(Schema.dump, schema, odd))


def written(write: Any, *args: Any) -> Any:
    """What is written, or of which kind the failure is."""
    try:
        return write(*args)
    except Exception as error:
        return type(error)


class OptionsSchema(QuickSchema):
    """Fields that do more than their class does."""

    short = fields.String(validate=validate.Length(max=1))
    shouted = fields.String(pre_load=str.upper)
    doubled = fields.String(post_load=lambda text: text * 2)
    number = fields.Integer(as_string=True)


def test_options_of_a_field_hold() -> None:
    """A value of the field's own type goes through the field, too."""
    schema = OptionsSchema()
    for body in ({"short": "ab"}, {"shouted": "a"}, {"doubled": "a"}, {"number": 5}):
        assert outcome(schema.load, body) == outcome(Schema.load, schema, body)
    value = SimpleNamespace(short="ab", shouted="a", doubled="a", number=5)
    assert schema.dump(value) == Schema.dump(schema, value) | {"number": "5"}


def test_defaults_are_refused() -> None:
    """A member that is missing is not looked at, so it could have none."""

    class Defaults(QuickSchema):
        name = fields.String(load_default="x")

    with pytest.raises(TypeError):
        Defaults()
