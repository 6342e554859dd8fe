"""Bad input to the schemas alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

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
    entries = Watched(["\ud800"] * 1000)
    errors = broken_rules(ChatRequest(user_message="hi", memory_context=entries), {})
    assert (len(errors["memory_context"]), entries.read) == (50, 50)
