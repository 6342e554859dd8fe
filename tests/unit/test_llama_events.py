"""The local model's Responses events become those that OpenAI's SDKs can follow; whatever is there stays."""

from __future__ import annotations

from typing import Any

import pytest

from app.upstreams.llama_events import LlamaEvents, response_format
from app.upstreams.sse import parse_event
from tests.streams import chunk, event, read_events, typed


def complete(*events: bytes) -> list[Any]:
    llama = LlamaEvents("m", now=lambda: 7.9)
    return [data for _, data in read_events(b"".join(llama.complete(parse_event(raw)) for raw in events))]


def test_numbers_and_places_are_filled_in() -> None:
    """Events are numbered; those of an item say where it stands in the output, also when items take turns."""
    completed = complete(
        typed("response.created", response={"id": "resp_1"}),
        typed("response.output_item.added", item={"id": "msg_1", "type": "message"}),
        typed("response.output_item.added", item={"id": "fc_1", "type": "function_call"}),
        typed("response.output_text.delta", item_id="msg_1", delta="가"),
        typed("response.function_call_arguments.delta", item_id="fc_1", delta="{"),
        typed("response.output_item.done", item={"id": "msg_1", "type": "message"}),
    )
    assert completed[0]["response"] == {"id": "resp_1", "output": [], "created_at": 7, "model": "m"}
    assert [data["sequence_number"] for data in completed] == [0, 1, 2, 3, 4, 5]
    assert [data.get("output_index") for data in completed] == [None, 0, 1, 0, 1, 0]
    assert [data.get("content_index") for data in completed] == [None, None, None, 0, None, None]
    assert completed[3]["delta"] == "가"


def test_the_beginning_tells_time_and_model() -> None:
    """Where llama.cpp does not; the AI SDK takes no response without them."""
    llama = LlamaEvents("smol", now=lambda: 7.9)
    raw = [typed(f"response.{kind}", response={"id": "r", "model": "own"}) for kind in ("created", "in_progress")]
    raw.append(typed("response.created", response={"id": "r"}))
    told = [data["response"] for _, data in read_events(b"".join(llama.complete(parse_event(one)) for one in raw))]
    assert [(response["created_at"], response["model"]) for response in told] == [(7, "own"), (7, "own"), (7, "smol")]


def test_what_is_there_stays() -> None:
    """A later llama.cpp that sends them itself is believed."""
    members = {"item_id": "msg_1", "delta": "x", "sequence_number": 7, "output_index": 3, "content_index": 2}
    assert complete(typed("response.output_text.delta", **members)) == [
        {"type": "response.output_text.delta"} | members
    ]


@pytest.mark.parametrize("raw", [b": comment\n\n", chunk("x"), event("[DONE]"), event({"error": {}}, "error")])
def test_other_events_pass_byte_by_byte(raw: bytes) -> None:
    """Comments, chat completions, end marks and errors."""
    assert LlamaEvents().complete(parse_event(raw)) == raw


def test_the_first_event_keeps_what_it_says() -> None:
    """When the stream began and which model answers are filled in only where they are missing."""
    given = {"id": "resp_1", "created_at": 1, "model": "other", "output": [1]}
    assert complete(typed("response.created", response=given))[0]["response"] == given


def test_a_schema_goes_where_llama_reads_it() -> None:
    """As `response_format`."""
    request = {"model": "m", "input": "hi", "text": {"format": {"type": "json_schema", "name": "x", "schema": {}}}}
    added = {"type": "json_schema", "json_schema": {"name": "x", "schema": {}}}
    assert response_format(request) == {"response_format": added}
    as_object = {"input": "hi", "text": {"format": {"type": "json_object"}}}
    assert response_format(as_object) == {"response_format": {"type": "json_object"}}


@pytest.mark.parametrize(
    "request_", [{}, {"text": {}}, {"text": None}, {"text": {"format": {}}, "response_format": {}}]
)
def test_other_requests_get_no_member_more(request_: dict[str, Any]) -> None:
    """What names no format, or names it as llama.cpp reads it."""
    assert response_format(request_) == {}
