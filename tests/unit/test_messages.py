"""Anthropic's Messages API as the native route uses it: what is sent, what is an answer, and what is not."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from app.errors import OpenAIClientException
from app.models import Generation, Usage
from app.upstreams.messages import (
    CompletionReader,
    key_headers,
    parse_completion,
    read_event,
    read_usage,
    request_body,
)
from app.upstreams.usage import joined
from tests.streams import block_delta, message_end, message_start

GENERATION = Generation(
    messages=[
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "안녕"},
    ],
    model="claude-haiku-4-5",
    instructions="Be kind.",
    max_tokens=40,
    temperature=0.5,
    defaults=frozenset({"temperature"}),
)
SENT: dict[str, Any] = {
    "model": "claude-haiku-4-5",
    "max_tokens": 40,
    "system": "Be short.",
    "messages": GENERATION.messages[1:],
    "temperature": 0.5,
}


def body(generation: Generation = GENERATION, **options: Any) -> Any:
    return json.loads(request_body(generation, **options))


def test_the_system_message_has_a_member_of_its_own() -> None:
    """Turns keep their order; the limit is always there; nothing is said of a stream that is not wanted."""
    assert body() == SENT
    assert body(stream=True) == SENT | {"stream": True}


def test_what_a_model_does_not_take() -> None:
    """Left out, as in the other dialects; without a system message its text goes before the user's first words."""
    assert "temperature" not in body(without=frozenset({"temperature"}))
    given = dataclasses.replace(GENERATION, defaults=frozenset())
    assert body(given, without=frozenset({"temperature"}))["temperature"] == 0.5
    joined_to = body(without=frozenset({"system"}))
    assert "system" not in joined_to
    assert joined_to["messages"][0] == {"role": "user", "content": "Be short.\n\nhi"}


def test_images_are_blocks_behind_the_text() -> None:
    """A `data:` URL is taken apart, an `https:` one is not."""
    urls = ["https://x.example/a.png", "data:image/webp;base64,QUJD"]
    content = body(dataclasses.replace(GENERATION, images=urls))["messages"][-1]["content"]
    assert content == [
        {"type": "text", "text": "안녕"},
        {"type": "image", "source": {"type": "url", "url": urls[0]}},
        {"type": "image", "source": {"type": "base64", "media_type": "image/webp", "data": "QUJD"}},
    ]


def test_a_schema_is_the_format_of_the_output() -> None:
    """As the API offers it."""
    schema = {"type": "object"}
    asked = body(dataclasses.replace(GENERATION, response_schema=schema))
    assert asked["output_config"] == {"format": {"type": "json_schema", "schema": schema}}


ANTHROPIC = "https://api.anthropic.com/v1"


@pytest.mark.parametrize(
    ("secret", "base_url", "names"),
    [
        ("sk-ant-api03-x", ANTHROPIC, {"x-api-key"}),
        ("sk-ant-oat01-x", ANTHROPIC, {"Authorization"}),
        ("sk-x", "http://127.0.0.1:8080/v1", {"x-api-key", "Authorization"}),
        ("sk-x", "https://notanthropic.com/v1", {"x-api-key", "Authorization"}),
    ],
)
def test_how_upstream_is_told_the_key(secret: str, base_url: str, names: set[str]) -> None:
    """Anthropic's own API refuses a key that is a bearer credential; others may look at either header."""
    told = key_headers(secret, base_url)
    assert told.keys() == names
    assert {value.removeprefix("Bearer ") for value in told.values()} == {secret}


def document(*content: Any, **members: Any) -> bytes:
    answer = {"type": "message", "id": "msg_1", "model": "m", "content": list(content), "stop_reason": "end_turn"}
    return json.dumps(answer | members).encode()


TEXT = {"type": "text", "text": "a"}


@pytest.mark.parametrize("meant", ["stop", "length", "content_filter"])
@pytest.mark.parametrize("streamed", [False, True])
def test_answers(meant: str, streamed: bool) -> None:
    """The text of all its blocks, and of no others; the reason of the end; the usage with what caches did."""
    counts = {"input_tokens": 1, "cache_read_input_tokens": 2, "cache_creation_input_tokens": 3}
    said = {"stop": "end_turn", "length": "max_tokens", "content_filter": "refusal"}[meant]
    if streamed:
        reader = CompletionReader()
        pieces = [block_delta("thinking_delta", thinking="hm"), block_delta(text="a"), block_delta(text="b", index=1)]
        events = [message_start(**counts), *pieces, *message_end(said)]
        told = [reader.add(read_event(raw.partition(b"data: ")[2])) for raw in events]
        assert "".join(told) == "ab"
        answer = reader.completion()
    else:
        content = [
            {"type": "thinking", "thinking": "hm"},
            TEXT,
            {"type": "tool_use", "name": "x"},
            TEXT | {"text": "b"},
        ]
        answer = parse_completion(document(*content, stop_reason=said, usage=counts | {"output_tokens": 7}))
    assert (answer.output_text, answer.finish_reason, answer.id) == ("ab", meant, "msg_1")
    assert answer.usage == Usage(6, 7, 13, 2, cache_write_tokens=3)


def test_a_full_context_is_an_answer_that_was_cut() -> None:
    """As one that reached its limit."""
    assert parse_completion(document(TEXT, stop_reason="model_context_window_exceeded")).finish_reason == "length"


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"[]", "upstream_bad_response"),
        (b"{}", "upstream_bad_response"),
        (document(), "upstream_bad_response"),
        (document({"type": "tool_use"}), "upstream_bad_response"),
        (document(7, {"type": "text", "text": 7}), "upstream_bad_response"),
        (document({"type": "thinking", "thinking": "x"}, stop_reason="max_tokens"), "max_tokens_too_small"),
        (b'{"type": "error", "error": {"type": "overloaded_error", "message": "secret"}}', "upstream_failed"),
        (b'{"error": "x"}', "upstream_failed"),
    ],
)
def test_what_is_no_answer(raw: bytes, code: str) -> None:
    """Never a 200 with an empty text."""
    with pytest.raises(OpenAIClientException) as caught:
        parse_completion(raw)
    assert caught.value.error_code == code


@pytest.mark.parametrize("kind", [b'"type": "error", ', b""])
def test_an_event_with_an_error(kind: bytes) -> None:
    """It ends the stream as upstream's failure, whose type is its code."""
    told = read_event(b'{%s"error": {"type": "api_error"}}' % kind)
    assert told.is_end
    with pytest.raises(OpenAIClientException) as caught:
        CompletionReader().add(told)
    assert (caught.value.error_code, caught.value.upstream_code) == ("upstream_failed", "api_error")


@pytest.mark.parametrize(
    "data",
    [
        b'{"type": "ping"}',
        b"{}",
        b'{"type": ["x"], "delta": 7, "message": 7, "usage": 7}',
        b'{"type": "message_start"}',
    ],
)
def test_events_that_say_nothing(data: bytes) -> None:
    """What has a strange form is passed over."""
    told = read_event(data)
    assert (told.text, told.written, told.usage, told.started, told.is_end) == ("", "", None, None, False)
    assert CompletionReader().add(told) == ""


def test_usage_that_is_none() -> None:
    """Zeros are no count; what is no number is none either."""
    assert read_usage({"usage": {"input_tokens": 0, "output_tokens": 0}}) is None
    assert read_usage({"usage": {"input_tokens": "9", "output_tokens": None}}) is None
    assert read_usage({"usage": []}) is None
    strange = {"cache_creation": 7, "server_tool_use": 7, "iterations": [7], "speed": 7, "output_tokens_details": 7}
    assert read_usage({"usage": {"output_tokens": 1} | strange}) == Usage(0, 1, 1)


def test_a_count_that_comes_in_two_parts() -> None:
    """The input of the start holds unless the end tells a larger one; only the start tells how long it is kept."""
    started = Usage(100, 1, 101, 10, cache_write_tokens=20, cache_write_1h_tokens=30)
    assert joined(started, Usage(0, 7, 7)) == dataclasses.replace(started, output_tokens=7, total_tokens=107)
    grown = joined(started, Usage(300, 7, 307, 40, cache_write_tokens=60))
    assert grown == Usage(300, 7, 307, 40, cache_write_tokens=30, cache_write_1h_tokens=30)
    assert joined(None, Usage(3, 7, 10)) == Usage(3, 7, 10)
