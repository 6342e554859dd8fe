"""Bad input to the schemas alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from app.models import ChatRequest
from app.services.rules import broken_rules, read_turns
from schemas.chat import ChatRequestSchema


class Watched(list[Any]):
    """A list that notes how far it was read."""

    read = 0

    def __iter__(self) -> Iterator[Any]:
        for entry in super().__iter__():
            self.read += 1
            yield entry


def test_many_bad_entries_take_no_time() -> None:
    """The first bad entries are named and the rest is not looked at: a full body of them must not stop a worker."""
    entries = Watched([5] * 1000)
    errors = ChatRequestSchema().validate({"user_message": "hi", "memory_context": entries})
    assert (len(errors["memory_context"]), entries.read) == (50, 50)
    entries = Watched(["x"] * 1000)
    _, errors = read_turns(entries)
    assert (len(errors), entries.read) == (50, 50)
    for name in ("memory_context", "segment_tags"):
        entries = Watched(["\ud800"] * 60)
        errors = broken_rules(ChatRequest(user_message="hi", stream=True, segments=True, **{name: entries}), {})
        assert (len(errors[name]), entries.read) == (50, 50)


@pytest.mark.parametrize("name", ["images", "memory_context", "conversation_history", "segment_tags"])
def test_a_list_that_is_too_long_is_not_looked_at(name: str) -> None:
    """Its length alone is refused, over HTTP and in plain Python; at the limit it is read."""
    most = {"images": 8, "segment_tags": 64}.get(name, 10_000)
    entry = {"images": "https://a.example/x.png", "conversation_history": "user: x"}.get(name, "x")
    entries = Watched([entry] * (most + 1))
    errors = ChatRequestSchema().validate({"user_message": "hi", name: entries})
    assert (errors, entries.read) == ({name: [f"must be at most {most} long"]}, 0)
    _, turn_errors = read_turns(entries if name == "conversation_history" else ())
    request = ChatRequest(user_message="hi", stream=True, segments=True, **{name: entries})
    assert broken_rules(request, turn_errors) == {name: [f"must be at most {most} long"]}
    assert entries.read <= most
    assert ChatRequestSchema().validate({"user_message": "hi", name: [entry] * most}) == {}


@pytest.mark.parametrize("nested", [lambda inner: {"a": inner}, lambda inner: [inner]])
def test_a_schema_that_is_nested_too_deep(nested: Callable[[Any], Any]) -> None:
    """It is refused here: further on, writing it again would end in an error of ours."""

    def schema(levels: int) -> dict[str, Any]:
        value: Any = 1
        for _ in range(levels - 1):
            value = nested(value)
        return {"a": value}

    assert broken_rules(ChatRequest(user_message="hi", response_schema=schema(100)), {}) == {}
    for levels in (101, 900):
        errors = broken_rules(ChatRequest(user_message="hi", response_schema=schema(levels)), {})
        assert errors == {"response_schema": ["must have at most 100 levels and 20000 values"]}
    wide = {str(number): 1 for number in range(20_001)}
    assert list(broken_rules(ChatRequest(user_message="hi", response_schema=wide), {})) == ["response_schema"]
