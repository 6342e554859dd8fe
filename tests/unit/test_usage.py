"""Tokens as upstream counts them, in every place and under every name that servers use."""

from __future__ import annotations

from typing import Any

import pytest

from app.models import Usage
from app.upstreams.json import read_json
from app.upstreams.responses import read_event
from app.upstreams.usage import TOKENS_MAX, read_usage
from app.upstreams.written import in_chunk, in_event

OPENAI = {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}


@pytest.mark.parametrize(
    ("document", "usage"),
    [
        ({"usage": OPENAI}, Usage(11, 7, 18)),
        ({"usage": {"input_tokens": 11, "output_tokens": 7, "total_tokens": 18}}, Usage(11, 7, 18)),
        ({"usage": {"input_tokens": 11, "output_tokens": 7}}, Usage(11, 7, 18)),
        ({"usage": {"prompt_tokens": 11, "total_tokens": 11}}, Usage(11, 0, 11)),
        ({"usage": OPENAI | {"total_tokens": 118}}, Usage(11, 107, 118)),
        ({"usage": OPENAI | {"total_tokens": 3}}, Usage(11, 7, 18)),
        ({"x_groq": {"id": "r", "usage": OPENAI}}, Usage(11, 7, 18)),
        ({"choices": [{"index": 0, "usage": OPENAI}]}, Usage(11, 7, 18)),
        ({"usage": None, "x_groq": {"usage": OPENAI}}, Usage(11, 7, 18)),
        ({"usage": None}, None),
        ({"usage": {}}, None),
        ({"usage": []}, None),
        ({"usage": {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0}}, None),
        ({"choices": [7]}, None),
        ({}, None),
    ],
)
def test_where_usage_is(document: dict[str, Any], usage: Usage | None) -> None:
    """A total above the sum was written as well; an empty usage is none."""
    assert read_usage(document) == usage


@pytest.mark.parametrize(
    "counts",
    [
        {"prompt_tokens_details": {"cached_tokens": 9}},
        {"cached_tokens": 9},
        {"prompt_cache_hit_tokens": 9, "prompt_cache_miss_tokens": 2},
        {"cache_read_input_tokens": 9},
    ],
)
def test_cached_tokens_have_many_names(counts: dict[str, Any]) -> None:
    """OpenAI's, Moonshot's, DeepSeek's, and Anthropic's."""
    assert read_usage({"usage": OPENAI | counts}) == Usage(11, 7, 18, 9)


def test_sound_reasoning_and_tier() -> None:
    """Parts of the sums are never more than the sums; the standard tier is none."""
    details = {
        "prompt_tokens_details": {"audio_tokens": 3, "cached_tokens": 99},
        "completion_tokens_details": {"audio_tokens": 99, "reasoning_tokens": 5},
    }
    found = read_usage({"usage": OPENAI | details, "service_tier": "priority"})
    assert found == Usage(11, 7, 18, 11, 5, 3, 7, "priority")
    assert (read_usage({"usage": OPENAI, "service_tier": "default"}) or found).service_tier == ""


@pytest.mark.parametrize("count", [2**53 - 1, 2**200, -1, True, "7", 7.5, None])
def test_a_count_is_a_count(count: Any) -> None:
    """Sums stay far below 64 bits, and what is no number of tokens is 0."""
    found = read_usage({"usage": {"prompt_tokens": 1, "completion_tokens": count}})
    assert found is not None
    assert found.output_tokens == (TOKENS_MAX if type(count) is int and count > 0 else 0)


def test_a_count_beyond_64_bits_is_cut_too() -> None:
    """It comes as a float where orjson has read it."""
    document = read_json(b'{"usage": {"prompt_tokens": 1, "completion_tokens": 1180591620717411303424}}')
    found = read_usage(document)
    assert found is not None
    assert found.output_tokens == TOKENS_MAX


def test_a_deep_delta_is_read_to_its_ground() -> None:
    """However deep: no sender may end a stream by it."""
    delta: Any = "ab"
    for _ in range(100_000):
        delta = [{"content": delta}]
    assert in_chunk({"choices": [{"index": 0, "delta": ["cd", delta, "ef"]}]}) == "cdefab"
    # Taken apart here, level by level: Python would do it by recursion.
    while isinstance(delta, list):
        delta = delta.pop().popitem()[1]


@pytest.mark.parametrize(
    ("delta", "text"),
    [
        ({"role": "assistant", "content": "ab"}, "ab"),
        ({"content": [{"type": "text", "text": "ab"}]}, "ab"),
        ({"reasoning_content": "ab"}, "ab"),
        ({"reasoning": "ab"}, "ab"),
        ({"refusal": "ab"}, "ab"),
        (
            {"tool_calls": [{"index": 0, "id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}]},
            "f{}",
        ),
        ({"function_call": {"arguments": "ab"}}, "ab"),
        ({"audio": {"id": "a", "data": "AAAA", "transcript": "ab"}}, "ab"),
        ({}, ""),
        (None, ""),
        ("odd", "odd"),
    ],
)
def test_everything_written_counts(delta: Any, text: str) -> None:
    """Reasoning, tool arguments and transcripts, of every choice; sound itself is no text."""
    assert in_chunk({"choices": [{"index": 0, "delta": delta}]}) == text
    assert in_chunk({"choices": [{"index": 0, "delta": delta}, {"index": 1, "delta": delta}]}) == text * 2


def test_a_delta_may_tell_the_usage() -> None:
    """Of the Responses API, too."""
    event = read_event(b'{"type": "response.output_text.delta", "delta": "a", "usage": {"input_tokens": 1}}')
    assert (event.text, event.usage) == ("a", Usage(1, 0, 1))


def test_events_of_the_responses_api() -> None:
    """Each delta counts, but sound."""
    for kind in ("output_text", "reasoning_summary_text", "function_call_arguments", "audio.transcript"):
        assert in_event({"type": f"response.{kind}.delta", "delta": "ab"}) == "ab"
    assert in_event({"type": "response.audio.delta", "delta": "AAAA"}) == ""
    assert in_event({"type": "response.created", "delta": 7}) == ""
